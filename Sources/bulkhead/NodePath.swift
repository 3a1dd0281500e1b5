// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Core
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
        case .alias: throw .usage("\(reference) names an alias; name a version with @, or the whole function.")
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

    static func logs(_ reference: FunctionReference, tail: UInt32, follow: Bool, invocation: String?) throws(Failure) -> String {
        var query = ["tail=\(tail)"]
        switch reference.selector {
        case .latest: break
        case .version(let number): query.append("version=\(number)")
        case .alias: throw .usage("\(reference) names an alias; logs are kept by version: write @VERSION, or the function alone.")
        }
        if follow { query.append("follow=true") }
        if let invocation { query.append("invocation=\(try self.invocation(invocation))") }
        return function(reference.function) + "/logs?" + query.joined(separator: "&")
    }

    static func keyRequest(scopes: [String]) -> ByteBuffer { ByteBuffer(string: "") }
    static func deployed(_ reply: JSONValue, _ name: Name) -> String {
        "\(name)/\(reply["function"].text)@\(reply["version"].text)"
    }
}
