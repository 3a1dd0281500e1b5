// SPDX-License-Identifier: Apache-2.0
public import Core

/// What is wrong with a deploy beside the other functions of its tenant, before anything runs.
public enum DeployLint {
    /// The functions of a tenant as the graph sees them: who may start whom.
    public static func functions(_ tenant: Name, _ manifests: [FunctionManifest]) -> [GrantGraph.Function] {
        let names = manifests.map(\.function)
        return manifests.map { manifest in
            var triggers: [Name: TriggerSource] = [TriggerSpec.direct: .invocation]
            for trigger in manifest.triggers { triggers[trigger.name] = source(trigger, tenant) }
            var writes: Set<GrantedWrite> = []
            for grant in manifest.buckets where grant.isWritable {
                writes.insert(.objects(owner: tenant, ObjectPattern(bucket: grant.bucket, prefix: grant.prefix)))
            }
            if manifest.hasEgress { writes.insert(.egress) }
            for callee in manifest.calls ?? names { writes.insert(.function(FunctionID(tenant: tenant, function: callee))) }
            for destination in [manifest.async.onSuccess, manifest.async.onFailure].compactMap({ $0 }) {
                switch destination {
                case .function(let name): writes.insert(.function(FunctionID(tenant: tenant, function: name)))
                case .bucket(let bucket, let prefix): writes.insert(.objects(owner: tenant, ObjectPattern(bucket: bucket, prefix: prefix)))
                // Whoever is told may call this node.
                case .webhook: writes.insert(.egress)
                }
            }
            return GrantGraph.Function(
                id: FunctionID(tenant: tenant, function: manifest.function), triggers: triggers, writes: writes,
                declaresRecursion: manifest.recursion != nil)
        }
    }

    public static func graph(_ tenant: Name, _ manifests: [FunctionManifest]) -> GrantGraph { GrantGraph(functions(tenant, manifests)) }

    private static func source(_ trigger: TriggerSpec, _ tenant: Name) -> TriggerSource {
        switch trigger.kind {
        case .http: .http
        case .queue: .queue(owner: tenant, trigger.name)
        case .cron: .cron
        case .bucket(let bucket, let prefix, let suffix, _):
            .objects(owner: tenant, ObjectPattern(bucket: bucket, prefix: prefix, suffix: suffix))
        case .outcome(let function, _, _): .outcome(of: FunctionID(tenant: tenant, function: function))
        }
    }

    /// Why a deploy is refused: sentences for the person who deploys, empty where nothing is wrong. `others` are the newest manifests of the tenant's other functions; one of the
    /// same name is the version that this one replaces.
    ///
    /// A function that starts itself by what it writes is refused unless it states `recursion`; a cycle through other functions is left to the loop governor, which sees what
    /// is done and not only what is possible. Two functions that take the same HTTP route are refused.
    public static func refusals(_ manifest: FunctionManifest, tenant: Name, others: [FunctionManifest]) -> [String] {
        var routes = RouteTable()
        for other in others where other.function != manifest.function { routes.set(other.function, other.triggers) }
        let loops = manifest.recursion == nil ? selfStarts(manifest, FunctionID(tenant: tenant, function: manifest.function)) : []
        return loops + routes.conflicts(of: manifest.function, manifest.triggers)
    }

    private static let recursion = "or state `recursion: {maxDepth: 8, maxDescendants: 100}` if it is meant"

    private static func selfStarts(_ manifest: FunctionManifest, _ id: FunctionID) -> [String] {
        var sentences: [String] = []
        for trigger in manifest.triggers {
            switch trigger.kind {
            case .bucket(let bucket, let prefix, let suffix, _):
                let pattern = ObjectPattern(bucket: bucket, prefix: prefix, suffix: suffix)
                sentences += writers(manifest, of: pattern).map { what, mend in
                    "\(id) would start itself: \(what), and its trigger \(trigger.name) starts it for \(bucket)/\(prefix)*\(suffix); \(mend), \(recursion)"
                }
            case .outcome(manifest.function, _, _):
                sentences.append(
                    "\(id) would start itself: its trigger \(trigger.name) starts it at its own end; name another function there, \(recursion)"
                )
            default: break
            }
        }
        for (key, destination) in destinations(manifest) where destination == .function(manifest.function) {
            sentences.append("\(id) would start itself: its `\(key)` is itself; send the outcome to another function, \(recursion)")
        }
        if manifest.calls?.contains(manifest.function) == true {
            sentences.append("\(id) would start itself: its `calls` names itself; remove it there, \(recursion)")
        }
        return sentences
    }

    /// What of the function writes such objects, and what to do about it.
    private static func writers(_ manifest: FunctionManifest, of pattern: ObjectPattern) -> [(what: String, mend: String)] {
        let grants = manifest.buckets.filter { grant in
            grant.isWritable && ObjectPattern(bucket: grant.bucket, prefix: grant.prefix).meets(pattern)
        }.map { grant in
            (
                "it may write \(grant.bucket)/\(grant.prefix)*",
                "let it write under another prefix (`\(grant.bucket): {access: write, prefix: out/}`), grant `\(grant.bucket): read`"
            )
        }
        let outcomes = destinations(manifest).compactMap { key, destination -> (String, String)? in
            guard case .bucket(let bucket, let prefix) = destination, ObjectPattern(bucket: bucket, prefix: prefix).meets(pattern) else {
                return nil
            }
            return ("its `\(key)` writes \(bucket)/\(prefix)*", "send the outcome to another prefix or bucket")
        }
        return grants + outcomes
    }

    static func destinations(_ manifest: FunctionManifest) -> [(String, Destination)] {
        [("onSuccess", manifest.async.onSuccess), ("onFailure", manifest.async.onFailure)].compactMap { key, value in
            value.map { (key, $0) }
        }
    }
}
