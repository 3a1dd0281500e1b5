// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc

/// Unpacks an archive and looks at what is on the disk then: nothing outside the tree, nothing odd inside.
enum ArchiveTarget {
    private static let parent = "/dev/shm/bulkhead-fuzz-\(getpid())"
    private static let root = parent + "/tree"

    /// An odd first byte: the rest is a stream. An even one: the rest says what entries the stream has, so that the search need not learn the format.
    @Sendable static func run(_ bytes: [UInt8]) {
        guard let first = bytes.first else { return }
        let rest = bytes.dropFirst()
        let stream = first % 2 == 1 ? Array(rest) : archive(rest)
        unsafe mkdir(parent, 0o700)
        defer { try? FileManager.default.removeItem(atPath: root) }
        var limits = IntakeLimits()
        limits.entries = 20
        limits.bytes = 1 << 20
        limits.depth = 8
        guard let intake = try? CodeIntake(root: root, inputBytes: UInt64(stream.count), limits: limits) else {
            preconditionFailure("\(root) is left from before")
        }
        let size = Int(first / 2) + 1
        var isTaken = false
        do {
            for start in stride(from: 0, to: stream.count, by: size) { try intake.feed(stream[start..<min(start + size, stream.count)]) }
            let (hash, total) = try intake.finish()
            precondition(hash.utf8.count == 64 && total <= limits.bytes)
            isTaken = true
        } catch {
            precondition(error is IntakeError, "\(error)")
            precondition(!"\(error)".utf8.contains { ($0 < 0x20 && $0 != 0x09) || $0 == 0x7F }, "a sentence that is not fit for a terminal")
        }
        let outside = try? FileManager.default.contentsOfDirectory(atPath: parent)
        precondition(outside == ["tree"], "outside of the tree: \(outside ?? [])")
        if isTaken { inspect(depth: limits.depth) }
    }

    private static func inspect(depth: Int) {
        for path in (try? FileManager.default.subpathsOfDirectory(atPath: root)) ?? [] {
            var status = stat()
            precondition(unsafe lstat(root + "/" + path, &status) == 0, path)
            let kind = status.st_mode & S_IFMT
            precondition(kind == S_IFREG || kind == S_IFDIR || kind == S_IFLNK, "\(path) has mode \(status.st_mode)")
            if kind != S_IFLNK { precondition(status.st_mode & 0o7022 == 0, "\(path) has mode \(status.st_mode)") }
            let parts = path.utf8.split(separator: 0x2F)
            precondition(parts.count <= depth)
            guard kind == S_IFLNK, let target = try? FileManager.default.destinationOfSymbolicLink(atPath: root + "/" + path) else {
                continue
            }
            // Word by word from the link's folder, never above the tree.
            var level = parts.count - 1
            precondition(target.utf8.first != 0x2F, "\(path) -> \(target)")
            for part in target.utf8.split(separator: 0x2F) where !part.elementsEqual(".".utf8) {
                level += part.elementsEqual("..".utf8) ? -1 : 1
                precondition(level >= 0, "\(path) -> \(target)")
            }
        }
    }

    /// Entries of `kind, length of the name, length of the content, name, content`.
    private static func archive(_ orders: ArraySlice<UInt8>) -> [UInt8] {
        let modes: [UInt32] = [0o100644, 0o104755, 0o040755, 0o120777, 0o020666, 0o010644, 0]
        var stream: [UInt8] = []
        func add(_ name: [UInt8], _ mode: UInt32, _ content: [UInt8]) {
            func hex(_ value: UInt32) -> [UInt8] { Array(String(format: "%08x", value).utf8) }
            stream += Array("070701".utf8)
            for value in [1, mode, 0, 0, 1, 0, UInt32(content.count), 0, 0, 0, 0, UInt32(name.count + 1), 0] { stream += hex(value) }
            stream += name + [0]
            while stream.count % 4 != 0 { stream.append(0) }
            stream += content
            while stream.count % 4 != 0 { stream.append(0) }
        }
        var at = orders.startIndex
        while orders.endIndex - at >= 3 {
            let mode = modes[Int(orders[at]) % modes.count]
            let name = orders[(at + 3)...].prefix(Int(orders[at + 1] % 64))
            let content = orders[name.endIndex...].prefix(Int(orders[at + 2] % 64))
            add(Array(name), mode, Array(content))
            at = content.endIndex
        }
        add(Array("TRAILER!!!".utf8), 0, [])
        return stream
    }
}
