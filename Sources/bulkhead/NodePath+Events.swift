// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Core

/// Where events, dead letters, loops and triggers are; without a tenant those of the whole node.
extension NodePath {
    private static func root(_ name: Name?) -> String { name.map(tenant) ?? "/v1" }

    static func events(_ kind: String, _ selection: EventSelection, state: String?, limit: Int, after: String?) -> String {
        var query = ["limit=\(limit)"]
        if let function = selection.function { query.append("function=\(function)") }
        if let state { query.append("state=\(percentEncoded(state))") }
        if let after { query.append("after=\(percentEncoded(after))") }
        return root(selection.tenant) + "/\(kind)?" + query.joined(separator: "&")
    }

    static func failures(_ selection: EventSelection, since: UInt64?, until: UInt64?, outcome: String?, limit: Int) -> String {
        var query = ["limit=\(limit)"]
        if let function = selection.function { query.append("function=\(function)") }
        if let since { query.append("since=\(since)") }
        if let until { query.append("until=\(until)") }
        if let outcome { query.append("outcome=\(percentEncoded(outcome))") }
        return root(selection.tenant) + "/failures?" + query.joined(separator: "&")
    }

    static func event(_ text: String, tenant name: Name?) throws(Failure) -> String { root(name) + "/invocations/\(try invocation(text))" }
    static func payload(_ text: String, tenant name: Name?) throws(Failure) -> String {
        root(name) + "/events/\(try invocation(text))/payload"
    }
    static func deadLetters(_ name: Name?, _ what: String) -> String { root(name) + "/dead-letters/\(what)" }
    static func loops(_ name: Name?) -> String { root(name) + "/loops" }
    static func resumption(_ edge: EdgeID) -> String { tenant(edge.function.tenant) + "/loops/resume" }
    static func triggers(_ selection: EventSelection) -> String {
        root(selection.tenant) + "/triggers" + (selection.function.map { "?function=\($0)" } ?? "")
    }

    /// `TENANT/FUNCTION/TRIGGER`, as `bulkhead loops` shows it.
    static func edge(_ text: String) throws(Failure) -> EdgeID {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false).map { Name($0) }
        guard parts.count == 3, let tenant = parts[0], let function = parts[1], let trigger = parts[2] else {
            throw .usage("'\(escaped(text))' is not an edge; write TENANT/FUNCTION/TRIGGER (see: bulkhead loops).")
        }
        return EdgeID(trigger: trigger, function: FunctionID(tenant: tenant, function: function))
    }
}

/// Whose events: of all tenants, of one, or of one function.
struct EventSelection: Hashable, Sendable {
    var tenant: Name?
    var function: Name?

    /// From `TENANT` or `TENANT/FUNCTION`.
    init(_ text: String?) throws(Failure) {
        guard let text else { return }
        if text.contains("/") {
            let reference = try FunctionReference(parsing: text)
            guard reference.selector == .latest else { throw .usage("'\(escaped(text))' names one version; write \(reference.function).") }
            tenant = reference.function.tenant
            function = reference.function.function
        } else {
            tenant = try FunctionReference.tenant(text)
        }
    }
}
