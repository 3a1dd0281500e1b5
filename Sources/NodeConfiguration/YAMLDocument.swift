// SPDX-License-Identifier: Apache-2.0
import Core
import Yams

/// One YAML file that is being read: gathers errors with their places instead of stopping at the first.
final class YAMLDocument {
    /// The largest file, in bytes.
    static let sizeLimit = 256 << 10

    let file: String
    private(set) var errors: [ConfigurationError] = []
    /// Gathers the keys that are asked for, with their forms; nil but for the reference.
    let recorder: KeyRecorder?

    init(file: String) {
        self.file = file
        recorder = KeyRecorder.present
    }

    /// Mistakes that are told; a file with more has told enough.
    static let errorLimit = 100

    func fail(_ node: Yams.Node?, _ sentence: String) {
        guard errors.count < Self.errorLimit else { return }
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
        let sentence = "anchors and aliases (& and *) are not used here: write the value out"
        if let (line, column) = Self.alias(bytes) {
            errors.append(ConfigurationError(file: file, line: line, column: column, sentence: sentence))
            return nil
        }
        do {
            let parser = try Parser(yaml: text)
            guard let node = try parser.singleRoot() else {
                fail(nil, "the file is empty")
                return nil
            }
            // Nodes know their anchors only while their parser lives.
            if let anchored = withExtendedLifetime(parser, { Self.anchored(node) }) {
                fail(anchored, sentence)
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
                (line, column) = Self.secondPlace(of: keys.sorted().first ?? "", bytes, context.mark.line, context.mark.column)
                problem = "the key `\(keys.map { "\($0)" }.sorted().joined(separator: "`, `"))` is given twice"
            default: break
            }
            errors.append(ConfigurationError(file: file, line: line, column: column, sentence: "not valid YAML: \(problem)"))
        } catch {
            fail(nil, "not valid YAML: \(error)")
        }
        return nil
    }

    /// Where something stands that could be an alias behind something that could be an anchor: line and column from 1.
    ///
    /// Looked for before the parser runs, which would follow it, and without regard to quotes and comments: where those end, only a parser knows. So it errs on
    /// the strict side; without an anchor before it, no alias means anything. Within a word neither can begin.
    private static func alias(_ bytes: [UInt8]) -> (line: Int, column: Int)? {
        func isName(_ byte: UInt8) -> Bool {
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x5F || byte == 0x2D
        }
        var line = 1, lineStart = 0, hasAnchor = false
        for (index, byte) in bytes.enumerated() {
            if byte == 0x0A { (line, lineStart) = (line + 1, index + 1) }
            guard byte == 0x26 || byte == 0x2A, index + 1 < bytes.count, isName(bytes[index + 1]) else { continue }
            let before = index > 0 ? bytes[index - 1] : 0x20
            let isInWord = before != 0x2D && isName(before) || before == 0x2E || before == 0x2F || before == 0x3D
            guard !isInWord else { continue }
            if byte == 0x26 { hasAnchor = true } else if hasAnchor { return (line, index - lineStart + 1) }
        }
        return nil
    }

    /// Where a key that stands at a place stands again in the same mapping; the place itself where that cannot be told. Line and column from 1.
    private static func secondPlace(of key: String, _ bytes: [UInt8], _ line: Int, _ column: Int) -> (line: Int, column: Int) {
        let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
        guard (1...lines.count).contains(line) else { return (line, column) }
        var depth = 0
        for (index, text) in lines.enumerated().dropFirst(line - 1) {
            let isFirst = index == line - 1
            let start = isFirst ? column : 0
            var place = 0
            while place < text.count {
                defer { place += 1 }
                let byte = text[text.startIndex + place]
                guard place >= start else { continue }
                // Within braces, the same depth is the same mapping; outside them, the same column is.
                if byte == 0x7B || byte == 0x5B { depth += 1 }
                if byte == 0x7D || byte == 0x5D { depth -= 1 }
                guard depth == 0, !isFirst && place == column - 1 || isAfterComma(text, place) else { continue }
                if isKey(key, text.dropFirst(place)) { return (index + 1, place + 1) }
            }
        }
        return (line, column)
    }

    /// Whether only blanks stand between the last comma and a place.
    private static func isAfterComma(_ text: ArraySlice<UInt8>, _ place: Int) -> Bool {
        text.prefix(place).last { $0 != 0x20 } == 0x2C
    }

    private static func isKey(_ key: String, _ text: ArraySlice<UInt8>) -> Bool {
        for quote in ["", "\"", "'"] where text.starts(with: (quote + key + quote).utf8) {
            if text.dropFirst(key.utf8.count + 2 * quote.utf8.count).first(where: { $0 != 0x20 }) == 0x3A { return true }
        }
        return false
    }

    /// The first node with an anchor. The parser bounds the depth.
    private static func anchored(_ node: Yams.Node) -> Yams.Node? {
        switch node {
        case .scalar(let scalar): return scalar.anchor == nil ? nil : node
        case .alias: return node
        case .sequence(let sequence):
            if sequence.anchor != nil { return node }
            for item in sequence { if let found = anchored(item) { return found } }
        case .mapping(let mapping):
            if mapping.anchor != nil { return node }
            for (key, value) in mapping { if let found = anchored(key) ?? anchored(value) { return found } }
        }
        return nil
    }
}

/// A mapping whose keys are known; whatever was not asked for is an error in ``finish()``.
final class Mapping {
    let document: YAMLDocument
    let node: Yams.Node
    /// What stands before its keys in the reference: `quota.`.
    let path: String
    private var entries: [String: (key: Yams.Node, value: Yams.Node)] = [:]
    private var asked: [String] = []

    init?(_ document: YAMLDocument, _ node: Yams.Node, path: String = "") {
        guard let mapping = node.mapping else { return nil }
        self.document = document
        self.path = path
        self.node = node
        for (key, value) in mapping { entries[key.scalar?.string ?? "?"] = (key, value) }
    }

    /// The keys that are there, sorted.
    var keys: [String] { entries.keys.sorted() }

    func value(_ key: String) -> Yams.Node? {
        asked.append(key)
        return entries[key]?.value
    }

    /// Says to the reference how a key is written.
    func note(_ key: String, _ form: @autoclosure () -> String) { document.recorder?.note(path + key, form()) }

    func text(_ key: String) -> String? {
        note(key, "a text")
        guard let value = value(key) else { return nil }
        guard let text = value.scalar?.string, !text.utf8.contains(0) else {
            document.fail(value, "`\(key)` must be a text")
            return nil
        }
        return text
    }

    /// A value in a unit; `form` says how it is written, in an error.
    func parsed<T>(_ key: String, _ form: String, _ parse: (String) -> T?) -> T? {
        note(key, form)
        guard let value = value(key) else { return nil }
        guard let text = value.scalar?.string, let parsed = parse(text) else {
            document.fail(value, "`\(key)` must be written as \(form), not `\((value.scalar?.string ?? "a list").prefix(40))`")
            return nil
        }
        return parsed
    }

    /// A value that must also lie in a range.
    func ranged<T: Comparable>(_ key: String, _ form: String, _ range: ClosedRange<T>, _ shown: String, _ parse: (String) -> T?) -> T? {
        note(key, "\(form), \(shown)")
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
        note(key, "`key: value` pairs")
        guard let value = value(key) else { return nil }
        guard let mapping = Mapping(document, value, path: path + key + ".") else {
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
        note(key, "a text or a list of texts")
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
        let unknown = entries.filter { !asked.contains($0.key) }.sorted { $0.key < $1.key }
        for (name, entry) in unknown.prefix(YAMLDocument.errorLimit) {
            // A key may be as long as the file.
            let shown = String(name.prefix(60))
            let known = asked.sorted()
            let hint =
                NearWord.nearest(to: shown, of: known).map { "; did you mean `\($0)`?" } ?? "; known here: \(known.joined(separator: ", "))"
            document.fail(entry.key, "unknown key `\(shown)`\(hint)")
        }
    }
}
