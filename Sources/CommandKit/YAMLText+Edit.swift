// SPDX-License-Identifier: Apache-2.0

extension YAMLText {
    /// Changes one setting, adds it where it is missing, or removes it where `text` is nil. Comments and every other line stay.
    ///
    /// - Parameter path: the keys from the top, like `["quota", "budget", "compute"]`.
    /// - Throws: ``Unclear`` where the file is written in a way that only a person should change; the text is then unchanged.
    mutating func set(_ path: [String], to text: String?) throws(Unclear) {
        let before = settings
        var changed = self
        if let text { try changed.put(path[...], text) } else { try changed.remove(path) }
        try changed.check(before, path.joined(separator: "."), text)
        self = changed
    }

    /// That the edit did what it should and nothing else: a file that is read wrongly must not be written wrongly.
    private func check(_ before: [String: String], _ path: String, _ text: String?) throws(Unclear) {
        // What stood empty on the way, and a mapping of nothing, may come and go.
        func others(_ settings: [String: String]) -> [String: String] {
            settings.filter { $0.key != path && !($0.value.isEmpty && path.hasPrefix($0.key)) }
        }
        guard settings[path] == text, others(settings) == others(before) else {
            throw Unclear(line: 1, sentence: "its layout is not understood")
        }
    }

    private func unclear(_ entry: Entry, _ sentence: String) -> Unclear {
        Unclear(line: 1 + bytes[..<entry.start].count { $0 == Ascii.newline }, sentence: sentence)
    }

    private mutating func put(_ path: ArraySlice<String>, _ text: String) throws(Unclear) {
        var value = root
        var rest = path
        var isInBraces = false
        var owner: Entry?
        while let key = rest.first, let entry = value.entries?.first(where: { $0.key == key }) {
            if case .braces = value.kind { isInBraces = true }
            (owner, value) = (entry, entry.value)
            rest = rest.dropFirst()
        }
        if let owner, rest.isEmpty {
            switch value.kind {
            case .text: try replace(value.range, with: Self.written(text))
            case .nothing: try replace(value.range, with: " " + Self.written(text))
            default: throw unclear(owner, "`\(owner.key)` holds more than one text")
            }
            return
        }
        switch value.kind {
        case .braces(let entries):
            let place = entries.last?.value.range.upperBound ?? value.range.lowerBound + 1
            try replace(place..<place, with: (entries.isEmpty ? "" : ", ") + Self.inBraces(rest, text))
        case .block(let entries, let indent):
            try insertLines(after: entries.last?.value.range.upperBound ?? bytes.count, rest, text, indent)
        case .nothing where isInBraces:
            try replace(value.range, with: " {" + Self.inBraces(rest, text) + "}")
        case .nothing:
            try insertLines(after: value.range.upperBound, rest, text, column(of: owner) + 2)
        default:
            guard let owner else { return }
            throw unclear(owner, "`\(owner.key)` does not hold `key: value` pairs")
        }
    }

    private func column(of entry: Entry?) -> Int {
        guard let entry else { return 0 }
        return entry.start - ((bytes[..<entry.start].lastIndex(of: Ascii.newline)).map { $0 + 1 } ?? 0)
    }

    private mutating func insertLines(after place: Int, _ keys: ArraySlice<String>, _ text: String, _ indent: Int) throws(Unclear) {
        let ending = bytes.firstIndex(of: Ascii.newline).map { $0 > 0 && bytes[$0 - 1] == Ascii.carriageReturn ? "\r\n" : "\n" } ?? "\n"
        var lines = ""
        for (depth, key) in keys.enumerated() {
            lines += String(repeating: " ", count: indent + 2 * depth) + key + ":"
            lines += depth == keys.count - 1 ? " " + Self.written(text) + ending : ending
        }
        // Behind the whole line, with the comment that ends it.
        let end = bytes[place...].firstIndex(of: Ascii.newline).map { $0 + 1 } ?? bytes.count
        let isWhole = end == 0 || bytes[end - 1] == Ascii.newline
        try replace(end..<end, with: (isWhole ? "" : ending) + lines)
    }

    private mutating func remove(_ path: [String]) throws(Unclear) {
        var chain: [(parent: Value, index: Int)] = []
        var value = root
        for key in path {
            guard let index = value.entries?.firstIndex(where: { $0.key == key }), let entry = value.entries?[index] else { return }
            chain.append((value, index))
            value = entry.value
        }
        // A mapping that would hold nothing goes with its last entry.
        while chain.count > 1, chain.last?.parent.entries?.count == 1 { chain.removeLast() }
        guard let (parent, index) = chain.last, let entries = parent.entries else { return }
        let (start, end) = (entries[index].start, entries[index].value.range.upperBound)
        switch parent.kind {
        case .braces where index > 0: try replace(entries[index - 1].value.range.upperBound..<end, with: "")
        case .braces where entries.count > 1: try replace(start..<entries[1].start, with: "")
        case .braces: try replace(start..<end, with: "")
        default:
            let first = start - column(of: entries[index])
            let next = bytes[end...].firstIndex(of: Ascii.newline).map { $0 + 1 } ?? bytes.count
            try replace(first..<next, with: "")
        }
    }

    private static func inBraces(_ keys: ArraySlice<String>, _ text: String) -> String {
        guard let key = keys.first else { return "" }
        return key + ": " + (keys.count == 1 ? written(text) : "{" + inBraces(keys.dropFirst(), text) + "}")
    }

    /// The text as YAML, in quotes where it could be taken for something else.
    static func written(_ text: String) -> String {
        let isPlain =
            text.utf8.first.map { isWordByte($0) } == true && text.utf8.last != Ascii.space
            && text.utf8.allSatisfy { isWordByte($0) || " ./_+-".utf8.contains($0) }
        guard !isPlain else { return text }
        return "\"" + text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"") + "\""
    }

    private static func isWordByte(_ byte: UInt8) -> Bool {
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
    }
}
