// SPDX-License-Identifier: Apache-2.0

/// The text of a configuration file with the places of its settings, so that one can be changed and every other byte stays.
///
/// It reads the part of YAML that settings are written in: mappings in blocks or braces, and texts on one line. Whatever else stands in the
/// file (lists, long texts) is stepped over and kept. It does not judge values: the node does.
struct YAMLText {
    /// Why a file cannot be edited by a program.
    struct Unclear: Error, Hashable {
        /// From 1.
        var line: Int
        var sentence: String
    }

    struct Entry {
        var key: String
        /// Where the key begins.
        var start: Int
        var value: Value
    }

    struct Value {
        enum Kind {
            case nothing
            case text(String)
            /// With the number of spaces before its keys.
            case block([Entry], indent: Int)
            case braces([Entry])
            /// Something that is kept, not read.
            case other
        }
        var kind: Kind
        /// From its first byte to behind its last, comments behind it left out.
        var range: Range<Int>

        var entries: [Entry]? {
            switch kind {
            case .block(let entries, _), .braces(let entries): entries
            default: nil
            }
        }
    }

    private(set) var bytes: [UInt8]
    private(set) var root: Value

    init(_ bytes: [UInt8]) throws(Unclear) {
        self.bytes = bytes
        var reader = YAMLReader(bytes: bytes)
        root = try reader.document()
    }

    /// Replaces a part; the result must still be readable.
    mutating func replace(_ range: Range<Int>, with text: String) throws(Unclear) {
        var changed = bytes
        changed.replaceSubrange(range, with: Array(text.utf8))
        self = try YAMLText(changed)
    }

    /// Every setting by its path, `quota.rate`; what is not read stands there as it is written.
    var settings: [String: String] {
        var found: [String: String] = [:]
        func collect(_ value: Value, _ path: String) {
            switch value.kind {
            case .nothing: found[path] = ""
            case .text(let text): found[path] = text
            case .other: found[path] = String(decoding: bytes[value.range], as: UTF8.self)
            case .block(let entries, _), .braces(let entries):
                for entry in entries { collect(entry.value, path.isEmpty ? entry.key : path + "." + entry.key) }
            }
        }
        collect(root, "")
        return found
    }
}

/// Walks over the bytes of one file.
private struct YAMLReader {
    let bytes: [UInt8]
    var position = 0

    typealias Unclear = YAMLText.Unclear
    typealias Value = YAMLText.Value

    func unclear(_ sentence: String) -> Unclear {
        Unclear(line: 1 + bytes[..<min(position, bytes.count)].count { $0 == Ascii.newline }, sentence: sentence)
    }

    private var byte: UInt8? { position < bytes.count ? bytes[position] : nil }
    private var isAtLineEnd: Bool { byte == nil || byte == Ascii.newline || (byte == Ascii.carriageReturn && at(1) == Ascii.newline) }
    private func at(_ offset: Int) -> UInt8? { position + offset < bytes.count ? bytes[position + offset] : nil }
    private func isSpace(_ byte: UInt8?) -> Bool {
        byte == nil || byte == Ascii.space || byte == Ascii.tab || byte == Ascii.newline || byte == Ascii.carriageReturn
    }

    private mutating func skipSpaces() { while byte == Ascii.space || byte == Ascii.tab { position += 1 } }
    private mutating func skipLine() {
        while let byte, byte != Ascii.newline { position += 1 }
        if byte != nil { position += 1 }
    }

    /// Steps over what may stand behind a value: spaces and a comment. The position is then at the next line.
    private mutating func endOfLine() throws(Unclear) {
        skipSpaces()
        guard isAtLineEnd || byte == Ascii.hash else { throw unclear("a value is followed by something else") }
        skipLine()
    }

    /// Steps over empty lines and comments, up to the beginning of a line that holds something.
    ///
    /// - Returns: the number of spaces before its first word; nil at the end.
    private mutating func nextIndent() throws(Unclear) -> Int? {
        while position < bytes.count {
            let start = position
            while byte == Ascii.space { position += 1 }
            if byte == Ascii.tab { throw unclear("a line begins with a tab") }
            if isAtLineEnd || byte == Ascii.hash {
                skipLine()
            } else {
                defer { position = start }
                return position - start
            }
        }
        return nil
    }

    mutating func document() throws(Unclear) -> Value {
        if bytes.starts(with: [0xef, 0xbb, 0xbf]) { throw unclear("the file begins with a byte order mark") }
        if try nextIndent() == 0, bytes[position...].starts(with: Array("---".utf8)) {
            position += 3
            try endOfLine()
        }
        guard let indent = try nextIndent() else { return Value(kind: .block([], indent: 0), range: 0..<bytes.count) }
        let start = position
        if bytes[position + indent] == Ascii.openBrace {
            position += indent
            let value = try braces()
            try endOfLine()
            guard try nextIndent() == nil else { throw unclear("something follows the braces") }
            return value
        }
        let entries = try block(indent)
        guard try nextIndent() == nil else { throw unclear("this line is indented otherwise than the ones before") }
        return Value(kind: .block(entries, indent: indent), range: start..<(entries.last?.value.range.upperBound ?? start))
    }

    /// The entries of a mapping whose keys stand `indent` spaces from the left.
    private mutating func block(_ indent: Int) throws(Unclear) -> [YAMLText.Entry] {
        var entries: [YAMLText.Entry] = []
        while let found = try nextIndent(), found == indent {
            position += indent
            let start = position
            guard let key = key(inBraces: false) else { throw unclear("this line is not a `key: value`") }
            guard !entries.contains(where: { $0.key == key }) else { throw unclear("the key `\(key)` is given twice") }
            entries.append(YAMLText.Entry(key: key, start: start, value: try blockValue(indent)))
        }
        return entries
    }

    /// The key at the position and its colon; nil and no step where there is none.
    private mutating func key(inBraces: Bool) -> String? {
        let start = position
        var text: String?
        if byte == Ascii.quote || byte == Ascii.apostrophe {
            text = try? quoted()
            skipSpaces()
        } else if let first = byte, !"-?:,[]{}#&*!|>%@`".utf8.contains(first) || (first == Ascii.dash && !isSpace(at(1))) {
            while !isAtLineEnd, byte != Ascii.colon || !isEndOfKey(inBraces), !inBraces || !",{}[]".utf8.contains(byte ?? 0) {
                position += 1
            }
            text = String(decoding: bytes[start..<position], as: UTF8.self)
            while text?.last == " " { text?.removeLast() }
        }
        guard let text, byte == Ascii.colon, isEndOfKey(inBraces) else {
            position = start
            return nil
        }
        position += 1
        return text
    }

    private func isEndOfKey(_ inBraces: Bool) -> Bool { isSpace(at(1)) || (inBraces && ",{}[]".utf8.contains(at(1) ?? 0)) }

    /// The value behind a colon in a block whose keys stand at `indent`; the position is then at a line's beginning.
    private mutating func blockValue(_ indent: Int) throws(Unclear) -> Value {
        let colon = position
        skipSpaces()
        guard isAtLineEnd || (byte == Ascii.hash && position > colon) else { return try lineValue(indent) }
        skipLine()
        let nothing = Value(kind: .nothing, range: colon..<colon)
        guard let inner = try nextIndent() else { return nothing }
        let isList = bytes[position + inner] == Ascii.dash && (position + inner + 1 >= bytes.count || isSpace(bytes[position + inner + 1]))
        guard inner > indent || (isList && inner == indent) else { return nothing }
        let start = position + inner
        if isList { return other(from: start, deeperThan: inner == indent ? indent : inner - 1, list: inner == indent) }
        var probe = self
        probe.position = start
        if probe.key(inBraces: false) != nil {
            let entries = try block(inner)
            return Value(kind: .block(entries, indent: inner), range: start..<(entries.last?.value.range.upperBound ?? start))
        }
        position = start
        return try lineValue(indent)
    }

    /// A value that begins at the position.
    private mutating func lineValue(_ indent: Int) throws(Unclear) -> Value {
        let start = position
        var value: Value
        switch byte {
        case Ascii.openBrace: value = try braces()
        case Ascii.openBracket: value = try brackets()
        case Ascii.quote, Ascii.apostrophe: value = Value(kind: .text(try quoted()), range: start..<position)
        case let first? where "|>&*!%@`".utf8.contains(first): return other(from: start, deeperThan: indent)
        default:
            plain(inBraces: false)
            value = Value(kind: .text(String(decoding: bytes[start..<position], as: UTF8.self)), range: start..<position)
        }
        try endOfLine()
        let next = position
        if case .text = value.kind, let deeper = try nextIndent(), deeper > indent { return other(from: start, deeperThan: indent) }
        position = next
        return value
    }

    /// Everything from `start` to the end of the last line that is indented deeper (or is an element of a list at that depth).
    private mutating func other(from start: Int, deeperThan indent: Int, list: Bool = false) -> Value {
        position = start
        repeat { skipLine() } while position < bytes.count && continues(indent, list)
        var end = position
        while end > start, isSpace(bytes[end - 1]) { end -= 1 }
        return Value(kind: .other, range: start..<end)
    }

    private func continues(_ indent: Int, _ list: Bool) -> Bool {
        let rest = bytes[position...]
        let spaces = rest.prefix { $0 == Ascii.space }.count
        let first = position + spaces < bytes.count ? bytes[position + spaces] : Ascii.newline
        return spaces > indent || first == Ascii.newline || first == Ascii.carriageReturn
            || (list && spaces == indent && first == Ascii.dash)
    }

    /// Steps over a text without quotes, and not over the spaces behind it.
    private mutating func plain(inBraces: Bool) {
        var end = position
        while let byte, !isAtLineEnd {
            if byte == Ascii.hash, position > 0, isSpace(bytes[position - 1]) { break }
            if inBraces, ",{}[]".utf8.contains(byte) { break }
            position += 1
            if !isSpace(byte) { end = position }
        }
        position = end
    }

    /// The text in quotes at the position.
    private mutating func quoted() throws(Unclear) -> String {
        let quote = byte
        position += 1
        var text: [UInt8] = []
        while let byte, !isAtLineEnd {
            position += 1
            if byte == quote {
                guard quote == Ascii.apostrophe, self.byte == quote else { return String(decoding: text, as: UTF8.self) }
                position += 1
            } else if byte == Ascii.backslash, quote == Ascii.quote {
                guard let next = self.byte, next == Ascii.quote || next == Ascii.backslash else { throw unclear("an escape in quotes") }
                position += 1
                text.append(next)
                continue
            }
            text.append(byte)
        }
        throw unclear("a quote that is not closed on its line")
    }

    /// Steps over spaces, line ends and comments inside braces.
    private mutating func skipBetween() {
        while let byte {
            if byte == Ascii.hash, position > 0, isSpace(bytes[position - 1]) {
                skipLine()
            } else if isSpace(byte) {
                position += 1
            } else {
                return
            }
        }
    }

    private mutating func braces() throws(Unclear) -> Value {
        let start = position
        position += 1
        var entries: [YAMLText.Entry] = []
        while true {
            skipBetween()
            if byte == Ascii.closeBrace { break }
            let first = position
            guard let key = key(inBraces: true) else { throw unclear("braces that do not hold `key: value` pairs") }
            guard !entries.contains(where: { $0.key == key }) else { throw unclear("the key `\(key)` is given twice") }
            entries.append(YAMLText.Entry(key: key, start: first, value: try bracesValue()))
            skipBetween()
            if byte == Ascii.comma {
                position += 1
            } else if byte != Ascii.closeBrace {
                throw unclear("braces that are not closed, or a comma that is missing")
            }
        }
        position += 1
        return Value(kind: .braces(entries), range: start..<position)
    }

    private mutating func bracesValue() throws(Unclear) -> Value {
        let colon = position
        skipBetween()
        let start = position
        switch byte {
        case Ascii.comma, Ascii.closeBrace: return Value(kind: .nothing, range: colon..<colon)
        case Ascii.openBrace: return try braces()
        case Ascii.openBracket: return try brackets()
        case Ascii.quote, Ascii.apostrophe:
            let text = try quoted()
            return Value(kind: .text(text), range: start..<position)
        default:
            plain(inBraces: true)
            return Value(kind: .text(String(decoding: bytes[start..<position], as: UTF8.self)), range: start..<position)
        }
    }

    /// Steps over a list in brackets.
    private mutating func brackets() throws(Unclear) -> Value {
        let start = position
        var depth = 0
        repeat {
            skipBetween()
            switch byte {
            case nil: throw unclear("brackets that are not closed")
            case Ascii.openBracket, Ascii.openBrace: depth += 1
            case Ascii.closeBracket, Ascii.closeBrace: depth -= 1
            case Ascii.quote, Ascii.apostrophe:
                _ = try quoted()
                continue
            default: break
            }
            position += 1
        } while depth > 0
        return Value(kind: .other, range: start..<position)
    }
}

/// The bytes that have a meaning.
enum Ascii {
    static let tab = UInt8(ascii: "\t"), newline = UInt8(ascii: "\n"), carriageReturn = UInt8(ascii: "\r"), space = UInt8(ascii: " ")
    static let quote = UInt8(ascii: "\""), apostrophe = UInt8(ascii: "'"), backslash = UInt8(ascii: "\\"), hash = UInt8(ascii: "#")
    static let colon = UInt8(ascii: ":"), comma = UInt8(ascii: ","), dash = UInt8(ascii: "-")
    static let openBrace = UInt8(ascii: "{"), closeBrace = UInt8(ascii: "}")
    static let openBracket = UInt8(ascii: "["), closeBracket = UInt8(ascii: "]")
}
