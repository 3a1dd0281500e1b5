// SPDX-License-Identifier: Apache-2.0
import Core
import Yams

/// One YAML file that is being read: gathers errors with their places instead of stopping at the first.
final class YAMLDocument {
    /// The largest file, in bytes.
    static let sizeLimit = 256 << 10

    let file: String
    private(set) var errors: [ConfigurationError] = []

    init(file: String) { self.file = file }

    func fail(_ node: Yams.Node?, _ sentence: String) {
        errors.append(ConfigurationError(file: file, line: node?.mark?.line ?? 0, column: node?.mark?.column ?? 0, sentence: sentence))
    }

    /// The mapping at the top, or nil with an error.
    func root(_ bytes: [UInt8]) -> Mapping? {
        guard bytes.count <= Self.sizeLimit else {
            fail(nil, "the file has \(bytes.count) bytes; at most \(Self.sizeLimit) are read")
            return nil
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            fail(nil, "the file is not UTF-8")
            return nil
        }
        // An alias can stand for any amount of text, and no setting here needs one.
        for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            if let column = aliasColumn(line) {
                errors.append(
                    ConfigurationError(
                        file: file, line: index + 1, column: column,
                        sentence: "anchors and aliases (& and *) are not used here: write the value out"))
                return nil
            }
        }
        do {
            guard let node = try compose(yaml: text) else {
                fail(nil, "the file is empty")
                return nil
            }
            guard let mapping = Mapping(self, node) else {
                fail(node, "the file must be a list of `key: value` lines")
                return nil
            }
            return mapping
        } catch let error as YamlError {
            var (line, column, problem) = (0, 0, "\(error)")
            switch error {
            case .scanner(_, let text, let mark, _), .parser(_, let text, let mark, _), .composer(_, let text, let mark, _):
                (line, column, problem) = (mark.line, mark.column, text)
            case .duplicatedKeysInMapping(let keys, let context):
                let mark = context.mark
                (line, column) = (mark.line, mark.column)
                problem = "the key `\(keys.map { "\($0)" }.sorted().joined(separator: "`, `"))` is given twice"
            default: break
            }
            errors.append(ConfigurationError(file: file, line: line, column: column, sentence: "not valid YAML: \(problem)"))
        } catch {
            fail(nil, "not valid YAML: \(error)")
        }
        return nil
    }

    private func aliasColumn(_ line: Substring) -> Int? {
        var before: Character = " "
        var quote: Character?
        for (index, character) in line.enumerated() {
            if let open = quote {
                if character == open { quote = nil }
            } else if character == "\"" || character == "'" {
                quote = character
            } else if character == "#", before == " " {
                return nil
            } else if character == "&" || character == "*", before == " " || before == "[" || before == "," || before == "{" {
                let next = line.dropFirst(index + 1).first ?? " "
                if next.isLetter || next.isNumber || next == "_" { return index + 1 }
            }
            before = character
        }
        return nil
    }
}

/// A mapping whose keys are known; whatever was not asked for is an error in ``finish()``.
final class Mapping {
    let document: YAMLDocument
    let node: Yams.Node
    private var entries: [String: (key: Yams.Node, value: Yams.Node)] = [:]
    private var asked: [String] = []

    init?(_ document: YAMLDocument, _ node: Yams.Node) {
        guard let mapping = node.mapping else { return nil }
        self.document = document
        self.node = node
        for (key, value) in mapping { entries[key.scalar?.string ?? "?"] = (key, value) }
    }

    /// The keys that are there, sorted.
    var keys: [String] { entries.keys.sorted() }

    func value(_ key: String) -> Yams.Node? {
        asked.append(key)
        return entries[key]?.value
    }

    func text(_ key: String) -> String? {
        guard let value = value(key) else { return nil }
        guard let text = value.scalar?.string, !text.utf8.contains(0) else {
            document.fail(value, "`\(key)` must be a text")
            return nil
        }
        return text
    }

    /// A value in a unit; `form` says how it is written, in an error.
    func parsed<T>(_ key: String, _ form: String, _ parse: (String) -> T?) -> T? {
        guard let value = value(key) else { return nil }
        guard let text = value.scalar?.string, let parsed = parse(text) else {
            document.fail(value, "`\(key)` must be written as \(form), not `\((value.scalar?.string ?? "a list").prefix(40))`")
            return nil
        }
        return parsed
    }

    /// A value that must also lie in a range.
    func ranged<T: Comparable>(_ key: String, _ form: String, _ range: ClosedRange<T>, _ shown: String, _ parse: (String) -> T?) -> T? {
        guard let number = parsed(key, form, parse) else { return nil }
        guard range.contains(number) else {
            document.fail(entries[key]?.value, "`\(key)` must be \(shown)")
            return nil
        }
        return number
    }

    func integer(_ key: String, _ range: ClosedRange<Int>) -> Int? {
        ranged(key, "a whole number", range, "from \(range.lowerBound) to \(range.upperBound)") { Int($0) }
    }

    func mapping(_ key: String) -> Mapping? {
        guard let value = value(key) else { return nil }
        guard let mapping = Mapping(document, value) else {
            document.fail(value, "`\(key)` must hold `key: value` pairs")
            return nil
        }
        return mapping
    }

    /// A mapping of any names to texts.
    func texts(_ key: String) -> [String: String] {
        guard let mapping = mapping(key) else { return [:] }
        var out: [String: String] = [:]
        for name in mapping.keys { out[name] = mapping.text(name) }
        return out
    }

    /// A text, or a list of texts.
    func words(_ key: String) -> [String]? {
        guard let value = value(key) else { return nil }
        if let text = value.scalar?.string { return [text] }
        let words = value.sequence?.map { $0.scalar?.string } ?? []
        guard !words.isEmpty, words.count <= 64, !words.contains(nil) else {
            document.fail(value, "`\(key)` must be a text or a list of 1 to 64 texts")
            return nil
        }
        return words.compactMap { $0 }
    }

    /// Everything that nobody asked for is a mistake: say so, and what may have been meant.
    func finish() {
        for (name, entry) in entries.sorted(by: { $0.key < $1.key }) where !asked.contains(name) {
            let near = asked.min { Self.distance($0, name) < Self.distance($1, name) }
            let hint =
                near.flatMap { Self.distance($0, name) <= 2 ? "; did you mean `\($0)`?" : nil }
                ?? "; known here: \(asked.sorted().joined(separator: ", "))"
            document.fail(entry.key, "unknown key `\(name.prefix(60))`\(hint)")
        }
    }

    /// Edits between two words (Levenshtein 1966).
    private static func distance(_ a: String, _ b: String) -> Int {
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let cost = min(row[j] + 1, row[j + 1] + 1, diagonal + (x == y ? 0 : 1))
                diagonal = row[j + 1]
                row[j + 1] = cost
            }
        }
        return row[b.count]
    }
}
