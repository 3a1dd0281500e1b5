// SPDX-License-Identifier: Apache-2.0

import CommandKit
import ControlAPI
import Core
import Foundation
import NIOCore

/// Where the node's resources are (`Deploy/API`).
enum NodePath {
    static func tenant(_ name: Name) -> String { "/v1/tenants/\(name)" }
    static func function(_ id: FunctionID) -> String { tenant(id.tenant) + "/functions/\(id.function)" }
    static func deployments(_ name: Name) -> String { tenant(name) + "/functions" }

    static func invocations(_ reference: FunctionReference) -> String {
        let path = function(reference.function) + "/invocations"
        return switch reference.selector {
        case .latest: path
        case .version(let number): path + "?version=\(number)"
        case .alias(let name): path + "?alias=\(name)"
        }
    }

    static let tenants = "/v1/tenants"
    static func functions(_ name: Name?) -> String { name.map { tenant($0) + "/functions" } ?? "/v1/functions" }
    static func versions(_ id: FunctionID) -> String { function(id) + "/versions" }
    static func keys(_ name: Name) -> String { tenant(name) + "/keys" }
    static func workers(_ name: Name?) -> String { name.map { tenant($0) + "/workers" } ?? "/v1/workers" }

    static let version = "/v1/version"
    static let reload = "/v1/reload"
    static let restart = "/v1/restart"
    static let drain = "/v1/drain"
    static func quota(_ name: Name) -> String { tenant(name) + "/quota" }
    static func top(_ name: Name?) -> String { name.map { tenant($0) + "/top" } ?? "/v1/top" }
    static func usage(_ name: Name, _ span: Range<UInt64>, by grouping: String) -> String {
        tenant(name) + "/usage?from=\(span.lowerBound)&to=\(span.upperBound)&by=\(grouping)"
    }
    static func rotation(_ name: Name, key: String) -> String { keys(name) + "/\(percentEncoded(key))/rotate" }

    static func buckets(_ name: Name) -> String { tenant(name) + "/buckets" }
    static func bucket(_ id: BucketID) -> String { buckets(id.tenant) + "/\(id.bucket)" }
    /// A key's slashes stay: they separate its parts.
    static func object(_ reference: ObjectReference) -> String {
        bucket(reference.bucket) + "/objects/"
            + reference.key.text.split(separator: "/").map { percentEncoded(String($0)) }.joined(separator: "/")
    }
    static func objects(_ id: BucketID, prefix: String, after: String?) -> String {
        bucket(id) + "/objects?prefix=\(percentEncoded(prefix))" + (after.map { "&after=\(percentEncoded($0))" } ?? "")
    }

    static func worker(_ text: String) throws(Failure) -> String {
        guard let worker = WorkerID(text) else {
            throw .usage("'\(escaped(text))' is not a worker; workers look like w-7f3a (see: bulkhead ps).")
        }
        return "/v1/workers/\(worker)"
    }

    static func deletion(_ reference: FunctionReference) throws(Failure) -> String {
        switch reference.selector {
        case .latest: return function(reference.function)
        case .version(let number): return versions(reference.function) + "/\(number)"
        case .alias(let name):
            throw .usage("\(reference) is an alias; write bulkhead alias delete \(reference.function) \(name).")
        }
    }

    static func invocation(_ text: String) throws(Failure) -> InvocationID {
        guard let id = InvocationID(text) else {
            throw .usage(
                "'\(escaped(text))' is not an invocation's id, which has 32 hexadecimal digits (see the header Bulkhead-Invocation-Id).")
        }
        return id
    }

    static func explanation(_ text: String, tenant name: Name?) throws(Failure) -> String {
        let id = try invocation(text)
        return (name.map(tenant) ?? "/v1") + "/invocations/\(id)/explain"
    }

    /// The logs of a function, of a whole tenant, or of all.
    static func logs(_ target: LogTarget?, _ parameters: [(String, String)]) -> String {
        var all = parameters
        if case .function(_, let version?) = target { all.append(("version", "\(version)")) }
        let query = all.map { "\($0.0)=\(percentEncoded($0.1))" }.joined(separator: "&")
        switch target {
        case nil: return "/v1/logs?" + query
        case .tenant(let name): return tenant(name) + "/logs?" + query
        case .function(let id, _): return function(id) + "/logs?" + query
        }
    }

    static func audit(_ name: Name?, since: UInt64?, until: UInt64?, grep: String?, tail: UInt32) -> String {
        var query = ["tail=\(tail)"]
        if let since { query.append("since=\(since)") }
        if let until { query.append("until=\(until)") }
        if let grep { query.append("grep=\(percentEncoded(grep))") }
        return (name.map { tenant($0) } ?? "/v1") + "/audit?" + query.joined(separator: "&")
    }

    static func keyRequest(scopes: [String]) throws -> ByteBuffer { try body(KeyRequest(scopes: scopes)) }

    static func body(_ value: some Encodable) throws -> ByteBuffer { ByteBuffer(bytes: try JSONEncoder().encode(value)) }
}
