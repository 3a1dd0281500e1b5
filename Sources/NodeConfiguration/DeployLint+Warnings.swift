// SPDX-License-Identifier: Apache-2.0
public import Core

extension DeployLint {
    /// What a function may have at most, wherever that comes from.
    public struct Room: Hashable, Sendable {
        public var tenantCPU: UInt32
        public var nodeCPU: UInt32
        public var nodeMemoryBytes: UInt64

        public init(tenantCPU: UInt32, nodeCPU: UInt32, nodeMemoryBytes: UInt64) {
            (self.tenantCPU, self.nodeCPU, self.nodeMemoryBytes) = (tenantCPU, nodeCPU, nodeMemoryBytes)
        }
    }

    /// What of a deploy is allowed and hardly meant: sentences for the person who deploys. `functions` are the names that the tenant has.
    ///
    /// A function that is named before it exists is no mistake: of two that name each other one is deployed first.
    public static func warnings(_ manifest: FunctionManifest, tenant: Name, functions: Set<Name>, room: Room) -> [String] {
        unknown(manifest, tenant, functions) + patterns(manifest) + names(manifest) + closed(manifest) + excess(manifest, tenant, room)
    }

    private static func unknown(_ manifest: FunctionManifest, _ tenant: Name, _ functions: Set<Name>) -> [String] {
        var named = (manifest.calls ?? []).map { ("`calls`", $0) }
        for (key, destination) in destinations(manifest) {
            if case .function(let name) = destination { named.append(("`\(key)`", name)) }
        }
        for trigger in manifest.triggers {
            if case .outcome(let name, _, _) = trigger.kind { named.append(("the trigger \(trigger.name)", name)) }
        }
        return named.filter { $1 != manifest.function && !functions.contains($1) }.map { place, name in
            "\(place) names \(name), and tenant \(tenant) has no such function: deploy it, or mend the name"
        }
    }

    private static func patterns(_ manifest: FunctionManifest) -> [String] {
        manifest.triggers.flatMap { trigger -> [String] in
            guard case .bucket(_, let prefix, let suffix, _) = trigger.kind else { return [] }
            return [("prefix", prefix), ("suffix", suffix)].filter { $1.contains { "*?".contains($0) } }.map { key, text in
                "`\(key): \(text)` of the trigger \(trigger.name) is no pattern: it starts the function only for keys with that very "
                    + "\(text.contains("*") ? "*" : "?") in them; write the \(key == "suffix" ? "end" : "beginning") of the key alone (`suffix: .jpg`)"
            }
        }
    }

    /// Where outcomes become objects with a folder's name glued to their own. A prefix that ends with a sign (`failed/of-`) is meant.
    private static func names(_ manifest: FunctionManifest) -> [String] {
        destinations(manifest).compactMap { key, destination in
            guard case .bucket(let bucket, let prefix) = destination, let last = prefix.unicodeScalars.last,
                last.properties.isAlphabetic || last.properties.numericType != nil
            else { return nil }
            return "`\(key): bucket:\(bucket)/\(prefix)` names its objects \(prefix)ID.json: "
                + "write bucket:\(bucket)/\(prefix)/ for \(prefix)/ID.json"
        }
    }

    /// Routes and queues whose callers send no token: where users are told apart by one, nobody is served without.
    private static func closed(_ manifest: FunctionManifest) -> [String] {
        guard let users = manifest.users, case .claim = users.key else { return [] }
        return manifest.triggers.compactMap { trigger in
            switch trigger.kind {
            case .http(_, _, .hmac, _), .queue(.hmac):
                "`users: {key: \(users.key)}` asks each caller for a token, those of the trigger \(trigger.name), too, and who signs what it sends "
                    + "(a webhook) has none: its requests are refused; give that trigger to a function without such `users`"
            default: nil
            }
        }
    }

    private static func excess(_ manifest: FunctionManifest, _ tenant: Name, _ room: Room) -> [String] {
        var found: [String] = []
        let (cpu, least) = (manifest.limits.cpuMilli, min(room.tenantCPU, room.nodeCPU))
        if cpu > least {
            let whose = room.tenantCPU <= room.nodeCPU ? "tenant \(tenant) has in all (quota: cpu)" : "this machine has"
            found.append("`cpu: \(processors(cpu))` is more than the \(processors(least)) that \(whose): its workers get no more than that")
        }
        if manifest.limits.memoryBytes > room.nodeMemoryBytes {
            found.append(
                "`memory` is \(manifest.limits.memoryBytes >> 20) MiB, and the node's workers have \(room.nodeMemoryBytes >> 20) MiB in all: "
                    + "no worker of it can start")
        }
        return found
    }

    private static func processors(_ thousandths: UInt32) -> String {
        thousandths.isMultiple(of: 1000) ? "\(thousandths / 1000)" : "\(Double(thousandths) / 1000)"
    }
}
