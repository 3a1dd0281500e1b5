// SPDX-License-Identifier: Apache-2.0
internal import Core

/// Paths of triggers, outside of `/v1`.
enum PublicPath: Hashable {
    /// `/t/TENANT/PATH`: a path below the tenant's root and what stands behind `?`, both as they were sent.
    case route(Name, path: String, query: String)
    /// `/q/TENANT/FUNCTION/TRIGGER`: where a queue's messages are pushed to.
    case queue(FunctionID, trigger: Name)

    /// Nil for any other target.
    init?(_ target: String) {
        // Every request comes by here: most are told apart by their first bytes.
        guard target.utf8.starts(with: "/t/".utf8) || target.utf8.starts(with: "/q/".utf8), target.utf8.count <= 8192 else { return nil }
        let halves = target.utf8.split(separator: 0x3F, maxSplits: 1, omittingEmptySubsequences: false)
        let parts = halves[0].split(separator: 0x2F, maxSplits: 3, omittingEmptySubsequences: false).map { String(Substring($0)) }
        guard parts.count >= 3, parts[0].isEmpty, let tenant = Name(parts[2]) else { return nil }
        switch parts[1] {
        case "t":
            let query = halves.count == 2 ? String(Substring(halves[1])) : ""
            self = .route(tenant, path: "/" + (parts.count == 4 ? parts[3] : ""), query: query)
        case "q":
            let rest = parts.count == 4 ? parts[3].split(separator: "/", omittingEmptySubsequences: false) : []
            guard rest.count == 2, let function = Name(rest[0]), let trigger = Name(rest[1]) else { return nil }
            self = .queue(FunctionID(tenant: tenant, function: function), trigger: trigger)
        default: return nil
        }
    }
}
