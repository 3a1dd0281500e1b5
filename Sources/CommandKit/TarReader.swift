// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Reads the part of the pax format (POSIX.1-2024, pax, "pax Interchange Format") that Bulkhead's archives are written in: files and folders, nothing else. It trusts nothing: links,
/// devices, sparse files, global headers and unknown extensions are refused, and so is every path that is not plain.
struct TarReader {
    /// Why an archive is refused; a sentence without its end.
    struct Problem: Error, Hashable { let sentence: String }

    struct Entry: Hashable {
        var path: String
        /// In bytes; 0 for a folder.
        var size: UInt64
        var isFolder: Bool
    }

    private static let block = 512
    /// The longest extended header, in bytes.
    private static let extensionLimit: UInt64 = 64 << 10
    private let file: Int32
    private var left: UInt64 = 0
    private var padding = 0

    init(_ file: Int32) { self.file = file }

    /// The next file or folder; nil at the end. What was not read of the one before is skipped.
    mutating func next() throws(Problem) -> Entry? {
        while try read() != nil {}
        var long: [String: String] = [:]
        while true {
            guard let header = try fill(Self.block) else { throw Problem(sentence: "it is cut off") }
            if header.allSatisfy({ $0 == 0 }) {
                // Two of them; what stands behind the end is padding.
                guard try fill(Self.block)?.allSatisfy({ $0 == 0 }) == true else { throw Problem(sentence: "its end is damaged") }
                return nil
            }
            try Self.check(header)
            let size = try Self.number(header[124..<136])
            switch header[156] {
            case UInt8(ascii: "x"):
                guard long.isEmpty else { throw Problem(sentence: "it has two extended headers in a row") }
                long = try extended(size)
            case UInt8(ascii: "0"), 0:
                return try begin(try Self.path(header, long), long["size"].map(Self.decimal) ?? size, isFolder: false)
            case UInt8(ascii: "5"):
                guard size == 0 else { throw Problem(sentence: "it has a folder with a size") }
                return try begin(try Self.path(header, long), 0, isFolder: true)
            case let kind:
                let shown = (0x21...0x7E).contains(kind) ? String(UnicodeScalar(kind)) : "\(kind)"
                throw Problem(sentence: "it holds an entry of type \(shown), and only files and folders may be in it")
            }
        }
    }

    /// More of the present file; nil at its end.
    mutating func read() throws(Problem) -> [UInt8]? {
        guard left > 0 else {
            if padding > 0, try fill(padding) == nil { throw Problem(sentence: "it is cut off") }
            padding = 0
            return nil
        }
        guard let bytes = try fill(Int(min(left, 256 << 10))) else { throw Problem(sentence: "it is cut off") }
        left -= UInt64(bytes.count)
        return bytes
    }

    private mutating func begin(_ path: String, _ size: UInt64, isFolder: Bool) throws(Problem) -> Entry {
        guard size <= 1 << 50 else { throw Problem(sentence: "\(escaped(path)) has an impossible size") }
        left = size
        padding = Int((UInt64(Self.block) - size % UInt64(Self.block)) % UInt64(Self.block))
        return Entry(path: path, size: size, isFolder: isFolder)
    }

    /// Exactly so many bytes; nil where the file ends before.
    private func fill(_ count: Int) throws(Problem) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: count)
        var have = 0
        while have < count {
            let got = unsafe bytes[have...].withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, $0.count) }
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else { throw Problem(sentence: "it cannot be read: \(errorText(errno))") }
            if got == 0 { return nil }
            have += got
        }
        return bytes
    }

    private static func check(_ header: [UInt8]) throws(Problem) {
        guard header[257..<262].elementsEqual("ustar".utf8) else { throw Problem(sentence: "it is no tar archive, or it is damaged") }
        let sum = header.indices.reduce(0) { $0 + ((148..<156).contains($1) ? 32 : Int(header[$1])) }
        guard try number(header[148..<156]) == UInt64(sum) else { throw Problem(sentence: "a header is damaged") }
    }

    /// Octal digits, then blanks or zeros.
    private static func number(_ field: ArraySlice<UInt8>) throws(Problem) -> UInt64 {
        let digits = field.drop { $0 == 0x20 }.prefix { (48...55).contains($0) }
        let rest = field[digits.endIndex...]
        guard !digits.isEmpty, rest.allSatisfy({ $0 == 0 || $0 == 0x20 }) else { throw Problem(sentence: "a header has a broken number") }
        return digits.reduce(0) { $0 << 3 | UInt64($1 - 48) }
    }

    private static func decimal(_ text: String) throws(Problem) -> UInt64 {
        guard let value = UInt64(text), text.utf8.allSatisfy({ (48...57).contains($0) }) else {
            throw Problem(sentence: "an extended header has a broken number")
        }
        return value
    }

    /// `LENGTH KEY=VALUE\n`, many times.
    private mutating func extended(_ size: UInt64) throws(Problem) -> [String: String] {
        guard size > 0, size <= Self.extensionLimit else { throw Problem(sentence: "an extended header has an impossible size") }
        _ = try begin("", size, isFolder: false)
        var bytes: [UInt8] = []
        while let part = try read() { bytes += part }
        var found: [String: String] = [:]
        var rest = bytes[...]
        while !rest.isEmpty {
            let digits = rest.prefix { (48...57).contains($0) }
            guard let length = Int(String(decoding: digits, as: UTF8.self)), length > digits.count + 3, length <= rest.count,
                rest[digits.endIndex] == 0x20, rest[rest.startIndex + length - 1] == 0x0A
            else { throw Problem(sentence: "an extended header is damaged") }
            let record = rest[(digits.endIndex + 1)..<(rest.startIndex + length - 1)]
            guard let text = String(validating: record, as: UTF8.self), let equals = text.firstIndex(of: "=") else {
                throw Problem(sentence: "an extended header is damaged")
            }
            let key = String(text[..<equals])
            guard ["path", "size", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname"].contains(key), found[key] == nil else {
                throw Problem(sentence: "it has the extended header \(escaped(key)), which Bulkhead does not write")
            }
            found[key] = String(text[text.index(after: equals)...])
            rest = rest[(rest.startIndex + length)...]
        }
        return found
    }

    /// Plain and relative: no part is empty, `.` or `..`.
    private static func path(_ header: [UInt8], _ long: [String: String]) throws(Problem) -> String {
        func field(_ range: Range<Int>) -> [UInt8] { Array(header[range].prefix { $0 != 0 }) }
        let prefix = field(345..<500)
        guard var text = long["path"] ?? String(validating: (prefix.isEmpty ? [] : prefix + [0x2F]) + field(0..<100), as: UTF8.self) else {
            throw Problem(sentence: "it holds a name that is not UTF-8")
        }
        if text.utf8.last == 0x2F { text.unicodeScalars.removeLast() }
        let parts = text.utf8.split(separator: 0x2F, omittingEmptySubsequences: false)
        guard text.utf8.count <= 4096, !text.utf8.contains(0), parts.allSatisfy({ !$0.isEmpty && !$0.elementsEqual(".".utf8) }),
            !parts.contains(where: { $0.elementsEqual("..".utf8) })
        else { throw Problem(sentence: "it holds the path \(escaped(String(text.prefix(100)))), which leads out of it or is not plain") }
        return text
    }
}
