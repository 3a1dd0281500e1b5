// SPDX-License-Identifier: Apache-2.0

import Glibc

/// The body of an invocation, from a file or standard input.
public enum RequestBody {
    /// More than this no node takes; it keeps a mistake (`--data @/dev/zero`) from filling the memory. Bytes.
    public static let limit = 256 << 20

    /// Reads a file whole.
    public static func read(_ path: String) throws(Failure) -> [UInt8] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw failure(escaped(path), errno) }
        defer { close(file) }
        do { return try Directory.readAll(file, path, limit) } catch { throw failure(escaped(path), error.errno) }
    }

    /// Reads standard input to its end.
    public static func readStandardInput() throws(Failure) -> [UInt8] {
        do { return try Directory.readAll(0, "standard input", limit) } catch { throw failure("standard input", error.errno) }
    }

    private static func failure(_ shown: String, _ number: Int32) -> Failure {
        let reason = number == EFBIG ? "it is longer than \(Units.bytes(UInt64(limit)))" : errorText(number)
        return .usage("The body cannot be read from \(shown): \(reason); name another file with --data @FILE.")
    }
}

/// A header of a request as people write it: `Name=value`.
public enum HeaderArgument {
    /// - Throws: ``Failure`` of kind usage where the name is no token (RFC 9110, section 5.6.2) or the value holds a control character.
    public static func parse(_ text: String) throws(Failure) -> (String, String) {
        guard let mark = text.firstIndex(of: "=") else {
            throw .usage("--header '\(escaped(text))' has no value; write --header Name=value.")
        }
        let name = text[..<mark]
        let value = text[text.index(after: mark)...]
        let isToken = name.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
        guard !name.isEmpty, isToken else {
            throw .usage(
                "'\(escaped(String(name)))' is not the name of a header; write --header Name=value, such as Content-Type=text/plain.")
        }
        guard value.unicodeScalars.allSatisfy({ $0 == "\t" || ($0.value >= 0x20 && $0.value != 0x7f) }) else {
            throw .usage("The value of the header \(name) holds a control character; remove it.")
        }
        return (String(name), String(value))
    }
}
