// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOHTTP1

/// `/v1/tenants/T/buckets/B/objects/KEY`.
struct ObjectTarget {
    let bucket: BucketID
    let key: ObjectKey

    /// Nil for any other path. The key is everything behind `objects/`, percent-decoded once; nothing is collapsed.
    static func parse(_ target: String) -> Result<ObjectTarget, Problem>? {
        let path = target.utf8.prefix { $0 != 0x3F }
        let parts = path.split(separator: 0x2F, maxSplits: 7, omittingEmptySubsequences: false)
        guard parts.count == 8, parts[0].isEmpty, parts[1].elementsEqual("v1".utf8), parts[2].elementsEqual("tenants".utf8),
            parts[4].elementsEqual("buckets".utf8), parts[6].elementsEqual("objects".utf8)
        else { return nil }
        guard let tenant = RequestPath.decode(parts[3], plus: 0x2B).flatMap({ Name($0) }),
            let bucket = RequestPath.decode(parts[5], plus: 0x2B).flatMap({ Name($0) })
        else { return .failure(.badRequest("a tenant's or a bucket's name is 1-63 characters of a-z, 0-9 and -")) }
        guard let key = RequestPath.decode(parts[7], plus: 0x2B).flatMap({ ObjectKey($0) }) else {
            return .failure(.badRequest(ObjectKey.rule))
        }
        return .success(ObjectTarget(bucket: BucketID(tenant: tenant, bucket: bucket), key: key))
    }
}

enum BucketRoutes {
    /// Below `/v1/tenants/T/buckets`, but for single objects.
    static func answer(_ method: HTTPMethod, _ tenant: Name, _ rest: [String], _ path: RequestPath, _ service: any NodeService) async throws
        -> ControlAnswer
    {
        if rest.isEmpty {
            try ControlRoutes.need(method, .GET)
            return ControlAnswer(json: try await service.buckets(tenant))
        }
        guard let name = Name(rest[0]) else { throw Problem.badRequest("a bucket's name is 1-63 characters of a-z, 0-9 and -") }
        let bucket = BucketID(tenant: tenant, bucket: name)
        switch Array(rest.dropFirst()) {
        case []:
            if method == .PUT { return ControlAnswer(json: try await service.createBucket(bucket), status: 201) }
            try ControlRoutes.need(method, .DELETE, or: .PUT)
            try await service.deleteBucket(bucket, force: path.query["force"] == "true")
            return ControlAnswer(status: 204, contentType: "application/json", body: [])
        case ["objects"]:
            try ControlRoutes.need(method, .GET)
            let prefix = path.query["prefix"] ?? ""
            guard let limit = Int(path.query["limit"] ?? "1000"), (1...1000).contains(limit) else {
                throw Problem.badRequest("limit must be a number from 1 to 1000")
            }
            guard prefix.utf8.count <= ObjectKey.maximumLength, !prefix.utf8.contains(0) else { throw Problem.badRequest(ObjectKey.rule) }
            return ControlAnswer(json: try await service.objects(bucket, prefix: prefix, after: path.query["after"], limit: limit))
        default: throw Problem.notFound("such resource")
        }
    }

    /// What every answer about an object says of it. `nosniff`: a browser must not take for a page what a tenant stored.
    static func headers(_ object: ObjectReply) -> [(String, String)] {
        [("Content-Type", "application/octet-stream"), ("ETag", object.etag), ("X-Content-Type-Options", "nosniff")]
    }

    static func remove(_ target: ObjectTarget, _ service: any NodeService) async -> ControlAnswer {
        do {
            try await service.deleteObject(target.bucket, target.key)
            return ControlAnswer(status: 204, contentType: "application/json", body: [])
        } catch { return ControlAnswer(failure: error) }
    }
}
