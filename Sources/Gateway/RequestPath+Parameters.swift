// SPDX-License-Identifier: Apache-2.0
import ControlAPI

extension RequestPath {
    /// Refuses parameters that a control route does not know: one that is overlooked answers another question than the one that was asked.
    /// - Parameter rest: what stands below `/v1/tenants/T` or `/v1`.
    func check(_ rest: [String]) throws {
        let known = Self.parameters(rest)
        guard let unknown = query.keys.filter({ !known.contains($0) }).min() else { return }
        let hint = known.isEmpty ? "it takes none" : "it takes \(known.joined(separator: ", "))"
        throw Problem.badRequest("this resource has no parameter `\(unknown.prefix(60))`; \(hint)")
    }

    private static func parameters(_ rest: [String]) -> [String] {
        switch rest.first {
        case "events" where rest.count == 1: ["function", "state", "limit", "after"]
        case "dead-letters" where rest.count == 1: ["function", "limit", "after"]
        case "triggers" where rest.count == 1: ["function"]
        case "usage" where rest.count == 1: ["from", "to", "by"]
        case "logs" where rest.count == 1: ["function", "version", "tail", "since", "until", "invocation", "grep", "level", "after"]
        case "functions" where rest.count == 3 && rest[2] == "logs":
            ["version", "tail", "since", "until", "invocation", "grep", "level", "after"]
        case "audit" where rest.count == 1: ["since", "until", "tail", "grep"]
        case "buckets" where rest.count == 2: ["force"]
        case "buckets" where rest.count == 3 && rest[2] == "objects": ["prefix", "limit", "after"]
        default: []
        }
    }
}
