// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Gateway
import Kernel
import Store
import Supervision
import Synchronization

/// Buckets and objects for the gateway.
extension Daemon {
    private struct Sink: ObjectSink {
        let writer: ObjectWriter
        let key: ObjectKey
        /// Called right before the object is there.
        let announce: @Sendable () -> Void
        func write(_ bytes: [UInt8]) throws { try Daemon.asProblem { () throws(BucketError) in try writer.write(bytes) } }
        func commit() throws -> ObjectReply {
            try Daemon.asProblem { () throws(BucketError) in
                ObjectReply(ObjectRecord(key: key, facts: try writer.commit(announcing: announce)))
            }
        }
        func cancel() { writer.cancel() }
    }

    private struct Source: ObjectSource {
        let reader: ObjectReader
        let object: ObjectReply
        func read(at offset: UInt64, limit: Int) throws -> [UInt8] { try reader.read(at: offset, limit: limit) }
    }

    var objectLimit: UInt64 { BucketStore.objectLimit }

    func buckets(_ tenant: Name) async throws -> [BucketReply] {
        let buckets = buckets
        return try await onDisk { buckets.buckets(tenant).map { BucketReply($0, buckets) } }
    }

    func createBucket(_ bucket: BucketID) async throws -> BucketReply {
        let buckets = buckets
        // Of one that was deleted the watch holds a folder that is no more: it looks anew, before somebody can write.
        if watchedBuckets.withLock({ $0.contains(bucket) }), try await onDisk({ !buckets.exists(bucket) }),
            let watch = bucketWatch.withLock({ $0 })
        {
            watch.unwatch(bucket)
            watch.watch(bucket)
        }
        return try await onDisk {
            try Self.asProblem { () throws(BucketError) in try buckets.create(bucket) }
            return BucketReply(bucket, buckets)
        }
    }

    func deleteBucket(_ bucket: BucketID, force: Bool) async throws {
        let buckets = buckets
        try await apart { () throws(BucketError) in try buckets.delete(bucket, force: force) }
    }

    func objects(_ bucket: BucketID, prefix: String, after: String?, limit: Int) async throws -> ObjectPage {
        let buckets = buckets
        return try await looking(bucket.tenant) {
            let page = try Self.asProblem { () throws(BucketError) in try buckets.list(bucket, prefix: prefix, after: after, limit: limit) }
            return ObjectPage(objects: page.objects.map { ObjectReply($0) }, next: page.next)
        }
    }

    func deleteObject(_ bucket: BucketID, _ key: ObjectKey) async throws {
        let buckets = buckets
        try await apart { () throws(BucketError) in try buckets.remove(key, in: bucket) }
    }

    func writeObject(_ bucket: BucketID, _ key: ObjectKey, length: UInt64?) throws -> any ObjectSink {
        let supervisor = supervisor
        return try Self.asProblem { () throws(BucketError) in
            Sink(writer: try buckets.write(key, in: bucket, length: length), key: key) {
                supervisor.soon { $0.events?.willUpload(bucket, key) }
            }
        }
    }

    func readObject(_ bucket: BucketID, _ key: ObjectKey) throws -> any ObjectSource {
        try Self.asProblem { () throws(BucketError) in
            let reader = try buckets.read(key, in: bucket)
            return Source(reader: reader, object: ObjectReply(ObjectRecord(key: key, facts: reader.facts)))
        }
    }

    /// Not behind what waits for the node's own files: a bucket's size is its tenant's doing.
    private func apart<T: Sendable>(_ body: @escaping @Sendable () throws(BucketError) -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            bucketDisk.async { continuation.resume(with: Result { try Self.asProblem(body) }) }
        }
    }

    private static func asProblem<T>(_ body: () throws(BucketError) -> T) throws(Problem) -> T {
        do { return try body() } catch { throw problem(error) }
    }

    private static func problem(_ error: BucketError) -> Problem {
        func conflict(_ code: String) -> Problem { Problem(code: code, title: "Conflict", status: 409, detail: "\(error)") }
        switch error {
        case .noBucket(let bucket): return .notFound("bucket \(bucket)")
        case .noObject(let bucket, let key): return .notFound("object \(bucket)/\(key)")
        case .bucketExists: return conflict("exists")
        case .notEmpty: return conflict("notEmpty")
        case .conflict: return conflict("conflict")
        case .tooManyBuckets: return conflict("tooMany")
        case .overQuota(_, let used, let allowed):
            var problem = Problem(code: "overQuota", title: "The quota is used up", status: 507, detail: "\(error)")
            (problem.level, problem.ceiling, problem.limit, problem.value) = ("tenant", "buckets", allowed, used)
            return problem
        case .tooLarge(let limit): return .tooLarge(Int(clamping: limit))
        case .badCursor: return .badRequest("\(error)")
        case .failed: return .storage("\(error)")
        }
    }
}

extension BucketReply {
    fileprivate init(_ bucket: BucketID, _ store: BucketStore) {
        let (own, all) = (store.usage.usage(bucket), store.usage.usage(bucket.tenant))
        self.init(
            tenant: bucket.tenant.text, bucket: bucket.bucket.text, objects: own.objects, bytes: own.bytes, tenantBytes: all.used,
            tenantLimitBytes: all.allowed)
    }
}

extension ObjectReply {
    /// Weak: a worker may write a file twice within one tick of the clock (RFC 9110, section 8.8.1).
    fileprivate init(_ record: ObjectRecord) {
        let facts = record.facts
        let etag = "W/\"\(String(facts.size, radix: 16))-\(String(facts.modified, radix: 16))-\(String(facts.inode, radix: 16))\""
        self.init(key: record.key.text, size: facts.size, modifiedAt: facts.modified / 1_000_000, etag: etag)
    }
}
