// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Small files of the kernel: proc, cgroups.
public enum SmallFile {
    /// The text, at most 64 KiB; nil where it cannot be read.
    public static func read(_ path: String) -> String? {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var all: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while all.count < 64 << 10 {
            let count = unsafe Glibc.read(file, &bytes, bytes.count)
            guard count >= 0 else { return nil }
            if count == 0 { break }
            all.append(contentsOf: bytes.prefix(count))
        }
        return String(decoding: all, as: UTF8.self)
    }

    public static func integer(_ path: String) -> UInt64? {
        read(path).flatMap { UInt64($0.split(whereSeparator: \.isWhitespace).first ?? "") }
    }

    /// The number behind `key` in a file of `key number` lines.
    public static func keyed(_ path: String, _ key: String) -> UInt64? {
        guard let text = read(path) else { return nil }
        for line in text.split(separator: "\n") where line.hasPrefix(key + " ") { return UInt64(line.dropFirst(key.count + 1)) }
        return nil
    }

    public static func write(_ path: String, _ text: String) throws(KernelError) {
        let file = unsafe open(path, O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { throw KernelError("open \(path)") }
        defer { close(file) }
        guard unsafe Glibc.write(file, text, text.utf8.count) == text.utf8.count else { throw KernelError("write \(text) to \(path)") }
    }
}
