// SPDX-License-Identifier: Apache-2.0

/// What to do next about an error of the node.
public enum Hint {
    /// A half sentence; empty where the node's own words say it.
    ///
    /// - Parameters:
    ///   - code: the problem's stable code.
    ///   - ceiling: which ceiling refused.
    ///   - retryAfter: when waiting helps, in seconds.
    public static func next(code: String, ceiling: String?, retryAfter: Double?) -> String {
        if let retryAfter, retryAfter > 0 { return "try again in \(Units.duration(seconds: max(1, retryAfter.rounded(.up))))" }
        return switch code {
        case "notFound": "see what there is with: bulkhead tenants, functions, versions, alias list, bucket list, keys list, events, ps"
        case "functionError", "initError", "crashed": "see what it wrote with: bulkhead logs TENANT/FUNCTION"
        case "outOfMemory": "raise memory in function.yaml, or use less"
        case "timedOut", "expired": "raise timeout in function.yaml, or do less at a time"
        case "throttled", "overloaded":
            ceiling.map { "wait for running invocations to end, or raise the limit of \($0)" } ?? "try again later"
        case "overQuota": "delete objects, or raise the quota"
        case "overBudget": "wait for the next period, or raise the budget"
        case "loop": "break the chain of calls"
        case "unauthorized": "name a key; bulkhead keys create makes one"
        case "forbidden": "run the command with sudo"
        case "tooLarge": "send less"
        case "badAlias", "inUse", "nothingBefore": "see bulkhead versions and bulkhead alias list"
        case "unsupported": "call it without --async, or use a newer release"
        case "configuration": "mend it; until then the node runs on as before"
        case "internal", "storage": "see the node's own output"
        default: ""
        }
    }
}
