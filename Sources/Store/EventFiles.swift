// SPDX-License-Identifier: Apache-2.0
import Core
import Crypto
import Foundation
import Glibc
import Kernel
import Synchronization

/// An event's payload, which may be in a file of its own.
public struct EventPayload: Sendable {
    enum Place: Sendable {
        case inline([UInt8])
        case file(path: String, hash: [UInt8])
    }
    let place: Place
    public let byteCount: Int
    /// Whether ``bytes()`` does not block.
    public var isInMemory: Bool { if case .inline = place { true } else { false } }

    /// The bytes. Blocks for the disk where they are in a file; throws where that is gone or damaged.
    public func bytes() throws(StoreError) -> [UInt8] {
        switch place {
        case .inline(let bytes): return bytes
        case .file(let path, let hash):
            guard let data = FileManager.default.contents(atPath: path) else {
                throw StoreError("the payload \(path) cannot be read: restore it, or purge its event")
            }
            guard data.count == byteCount, Array(SHA256.hash(data: data)) == hash else {
                throw StoreError("the payload \(path) is damaged: its checksum is wrong. Purge its event")
            }
            return Array(data)
        }
    }
}

/// Payloads that are too large for a row: one file each, on the disk before the row is, and removed only after the row.
///
/// They are named for their event and not for their contents: nothing is shared, so nothing has to be counted before a file may be removed.
final class EventFiles: Sendable {
    /// The largest payload that goes into a row, in bytes.
    static let inlineLimit = 64 << 10

    struct Stored: Sendable {
        var name: String
        var hash: [UInt8]
    }

    private let directory: String
    private let lastNumber = Atomic<UInt64>(0)

    init(directory: String) throws(StoreError) {
        self.directory = directory
        guard unsafe mkdir(directory, 0o700) == 0 || errno == EEXIST else {
            throw StoreError("the folder \(directory) cannot be made: \(KernelError("mkdir")). Check that the state directory is writable")
        }
        try Self.flush(String(directory[..<(directory.lastIndex(of: "/") ?? directory.endIndex)]))
    }

    func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// Writes a payload and waits until the disk has it, and its name.
    func store(_ payload: [UInt8], for id: InvocationID) throws(StoreError) -> Stored {
        let name = try write(payload, id)
        do throws(StoreError) { try Self.flush(directory) } catch {
            remove(name)
            throw error
        }
        return Stored(name: name, hash: Array(SHA256.hash(data: payload)))
    }

    private func write(_ payload: [UInt8], _ id: InvocationID) throws(StoreError) -> String {
        while true {
            let name = "\(id)-\(lastNumber.add(1, ordering: .relaxed).newValue)"
            let number = unsafe open(path(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            // The file of an earlier run.
            if number < 0 && errno == EEXIST { continue }
            guard number >= 0 else { throw Self.failure("create", path(name)) }
            let file = OwnedFD(number)
            var done = 0
            while done < payload.count {
                let count = unsafe payload.withUnsafeBytes { bytes in
                    unsafe Glibc.write(file.rawValue, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done)
                }
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else {
                    let failure = Self.failure("write", path(name))
                    remove(name)
                    throw failure
                }
                done += count
            }
            guard fsync(file.rawValue) == 0 else {
                let failure = Self.failure("flush", path(name))
                remove(name)
                throw failure
            }
            return name
        }
    }

    func remove(_ name: String) { unsafe unlink(path(name)) }

    /// The files that no row names any more, or never did: what a crash left.
    func names() throws(StoreError) -> [String] {
        do { return try FileManager.default.contentsOfDirectory(atPath: directory) } catch {
            throw StoreError("the folder \(directory) cannot be listed: \(error)")
        }
    }

    private static func failure(_ operation: String, _ path: String) -> StoreError {
        StoreError(
            "the payload cannot be stored: \(KernelError("\(operation) \(path)")). Check that the disk has room. Nothing was accepted")
    }

    /// Makes the names in a directory durable. fsync(2): a file that is flushed may still lose its name.
    private static func flush(_ directory: String) throws(StoreError) {
        let number = unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard number >= 0 else { throw failure("open", directory) }
        let folder = OwnedFD(number)
        guard fsync(folder.rawValue) == 0 else { throw failure("flush", directory) }
    }
}
