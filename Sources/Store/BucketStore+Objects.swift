// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc
public import Kernel
import Synchronization

/// An object that is being written, under a name that no worker sees. Used by one thread at a time. Without ``commit()`` nothing came of it.
public final class ObjectWriter: Sendable {
    private struct State: ~Copyable {
        var file: OwnedFD
        /// Where it is written, and the name there.
        var folder: OwnedFD
        var name: [UInt8]
        var size: UInt64 = 0
        var reserved: UInt64
        var isOpen = true
    }
    private let store: BucketStore
    private let bucket: BucketID
    private let key: ObjectKey
    private let state: Mutex<State>

    init(_ store: BucketStore, _ bucket: BucketID, _ key: ObjectKey, _ length: UInt64?) throws(BucketError) {
        guard length ?? 0 <= BucketStore.objectLimit else { throw .tooLarge(limit: BucketStore.objectLimit) }
        // The bucket must be there before a byte is taken; a worker may still have taken it away at the end.
        _ = try store.open(bucket)
        let reserved = BucketUsage.charge(length ?? 0)
        // A quota that nobody has measured yet would be none.
        for known in store.buckets(bucket.tenant) where !store.usage.isMeasured(known) { store.measure(known) }
        try store.usage.reserve(reserved, for: bucket.tenant)
        do throws(KernelError) {
            let tenant = try HostileFiles.top("\(store.directory)/\(bucket.tenant)")
            let folder = try HostileFiles.makeFolder(Array(".\(bucket.bucket).incoming".utf8), in: tenant)
            let name = Array("\(store.next())".utf8)
            let file = try HostileFiles.create(name, in: folder)
            state = Mutex(State(file: file, folder: folder, name: name, reserved: reserved))
        } catch {
            store.usage.release(reserved, for: bucket.tenant)
            throw .failed("\(bucket)/\(key) cannot be stored: \(error). Check that the disk has room")
        }
        self.store = store
        self.bucket = bucket
        self.key = key
    }

    deinit { cancel() }

    public func write(_ bytes: [UInt8]) throws(BucketError) {
        let failure = state.withLock { state -> BucketError? in
            guard state.isOpen else { return .failed("the write has ended") }
            let size = state.size + UInt64(bytes.count)
            guard size <= BucketStore.objectLimit else { return .tooLarge(limit: BucketStore.objectLimit) }
            do throws(BucketError) {
                if BucketUsage.charge(size) > state.reserved {
                    // Ahead of need, so that a long body does not ask for each of its parts.
                    let more = BucketUsage.charge(size) - state.reserved
                    try store.usage.reserve(more, for: bucket.tenant)
                    state.reserved += more
                }
            } catch { return error }
            do throws(KernelError) { try HostileFiles.write(bytes, to: state.file) } catch {
                return .failed("\(bucket)/\(key) cannot be stored: \(error). Check that the disk has room")
            }
            state.size = size
            return nil
        }
        if let failure { throw failure }
    }

    /// Makes the object durable, then visible under its key, in place of whatever had it; `announce` is called right before it is visible.
    @discardableResult public func commit(announcing announce: () -> Void = {}) throws(BucketError) -> FileFacts {
        let result = state.withLock { state -> Result<FileFacts, BucketError> in
            guard state.isOpen else { return .failure(.failed("the write has ended")) }
            do throws(BucketError) { return .success(try publish(&state, announce)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    private func publish(_ state: inout State, _ announce: () -> Void) throws(BucketError) -> FileFacts {
        do throws(KernelError) {
            try HostileFiles.flush(state.file)
            // Closed for writing before it shows: what is still being written is no object yet to those who watch.
            state.file = try HostileFiles.open(state.name, in: state.folder).release()
        } catch {
            throw .failed("\(bucket)/\(key) cannot be stored: \(error)")
        }
        let top = try store.open(bucket)
        announce()
        do throws(KernelError) {
            let folder = try HostileFiles.makeFolder(key.folder, in: top)
            let before = HostileFiles.look(key.name, in: folder)
            try HostileFiles.rename(state.name, in: state.folder, to: key.name, in: folder)
            state.isOpen = false
            store.usage.release(state.reserved, for: bucket.tenant)
            let facts = try HostileFiles.facts(state.file)
            func charge(_ facts: FileFacts) -> Int64 { Int64(clamping: max(BucketUsage.leastCharge, facts.allocated)) }
            store.usage.add(charge(facts) - (before.map(charge) ?? 0), to: bucket)
            try HostileFiles.flush(folder)
            return facts
        } catch { throw .of(error, bucket, key) }
    }

    /// Throws away what was written; nothing after ``commit()``.
    public func cancel() {
        state.withLock { state in
            guard state.isOpen else { return }
            state.isOpen = false
            try? HostileFiles.remove(state.name, in: state.folder)
            store.usage.release(state.reserved, for: bucket.tenant)
        }
    }
}

/// An open object.
public final class ObjectReader: Sendable {
    private let file: OwnedFD
    public let facts: FileFacts

    init(_ opened: consuming OpenedFile) {
        facts = opened.facts
        file = opened.release()
    }

    /// Up to `limit` bytes from `offset`; empty at the end, which may have come nearer since it was opened.
    public func read(at offset: UInt64, limit: Int) throws(StoreError) -> [UInt8] {
        do throws(KernelError) { return try HostileFiles.read(file, at: offset, limit: limit) } catch {
            throw StoreError("the object cannot be read: \(error)")
        }
    }
}

/// One object of a listing.
public struct ObjectRecord: Hashable, Sendable {
    public var key: ObjectKey
    public var facts: FileFacts
    public init(key: ObjectKey, facts: FileFacts) {
        self.key = key
        self.facts = facts
    }
}

extension BucketStore {
    /// Names that one page of a listing looks at, so that a page costs the same in a bucket of any size.
    static let pageWork = 20_000
    /// Objects on one page.
    public static let pageLimit = 1000

    /// Some objects whose keys begin with `prefix`, in the order of the directories, and where to go on; a page may be short, even empty, and not be the last.
    public func list(_ bucket: BucketID, prefix: String, after cursor: String?, limit: Int) throws(BucketError)
        -> (objects: [ObjectRecord], next: String?)
    {
        let top = try open(bucket)
        let prefix = Array(prefix.utf8)
        var walk: FolderWalk
        if let cursor {
            guard let data = Self.bytes(cursor), let resumed = FolderWalk(resuming: data) else { throw .badCursor }
            walk = resumed
        } else {
            let folder = Array(prefix[..<(prefix.lastIndex(of: 0x2F) ?? 0)])
            guard folder.isEmpty || ObjectKey(bytes: folder) != nil else { return ([], nil) }
            walk = FolderWalk(from: folder)
        }
        var found: [ObjectRecord] = []
        let limit = max(1, min(limit, Self.pageLimit))
        walk.step(in: top, limit: Self.pageWork) { path, _ in
            guard ObjectKey(bytes: path) != nil else { return .skip }
            return path.starts(with: prefix) || prefix.starts(with: path + [0x2F]) ? .descend : .skip
        } file: { path, facts in
            if facts.isRegular, path.starts(with: prefix), let key = ObjectKey(bytes: path) {
                found.append(ObjectRecord(key: key, facts: facts))
            }
            return found.count < limit
        }
        return (found, walk.isDone ? nil : Self.text(walk.bookmark))
    }

    /// Base64 that is safe in an URL (RFC 4648, section 5).
    private static func text(_ bytes: [UInt8]) -> String {
        Data(bytes).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
    }

    private static func bytes(_ text: String) -> [UInt8]? {
        guard text.utf8.count <= 4096 else { return nil }
        let plain = text.replacing("-", with: "+").replacing("_", with: "/")
        return Data(base64Encoded: plain + String(repeating: "=", count: (4 - plain.utf8.count % 4) % 4)).map { Array($0) }
    }

    /// Measures every bucket again and again on a thread of its own, which works at most a fifth of the time. A tenant whose workers write can so be over its quota for
    /// `seconds` and five times as long as a walk over its buckets takes, and by what they write in that time.
    public func keepMeasuring(every seconds: UInt32) {
        Thread.detachNewThread { [weak self] in
            while true {
                for tenant in self?.tenants() ?? [] {
                    for bucket in self?.buckets(tenant) ?? [] {
                        var began = FileClock.nanoseconds()
                        self?.measure(bucket) {
                            usleep(UInt32(clamping: (FileClock.nanoseconds() - min(began, FileClock.nanoseconds())) / 250))
                            began = FileClock.nanoseconds()
                        }
                    }
                }
                sleep(seconds)
                if self == nil { return }
            }
        }
    }

    /// Looks at everything in a bucket and counts it; `pause` is called between slices.
    public func measure(_ bucket: BucketID, slice: Int = 4096, pause: () -> Void = {}) {
        guard let top = try? open(bucket) else { return usage.forget(bucket) }
        let began = usage.begin(bucket)
        var bytes: UInt64 = 0, objects: UInt64 = 0, nameless = 0
        var walk = FolderWalk()
        while !walk.isDone {
            walk.step(in: top, limit: slice) { _, facts in
                bytes &+= max(BucketUsage.leastCharge, facts.allocated)
                return .descend
            } file: { path, facts in
                bytes &+= max(BucketUsage.leastCharge, facts.allocated)
                if facts.isRegular, ObjectKey(bytes: path) != nil { objects += 1 } else { nameless += 1 }
                return true
            }
            pause()
        }
        usage.finish(bucket, began: began, bytes: bytes, objects: objects, isUnknown: walk.unreached > 0)
    }
}
