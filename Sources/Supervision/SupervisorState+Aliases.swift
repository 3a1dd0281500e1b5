// SPDX-License-Identifier: Apache-2.0
public import Core
import Logging

/// An alias as calls follow it.
struct AliasRoute {
    var spec: AliasSpec
    /// Of the state that this is; an older one that comes late is not taken.
    var step: Int64
    /// Counts the calls of both versions while there is a canary.
    var watch: CanaryWatch?
}

/// A canary that the rule has ended.
public struct CanaryEnd: Sendable, Hashable {
    public var function: FunctionID
    public var alias: Name
    /// Of the state with the canary.
    public var step: Int64
    public var canary: UInt32
    public var verdict: CanaryVerdict
}

extension SupervisorState {
    /// Routes an alias's calls from now on. Calls that have arrived end on the version that they were given, and its workers idle out as all do.
    public func setAlias(_ function: FunctionID, _ spec: AliasSpec, step: Int64) {
        let old = routes[function]?[spec.name]
        guard step > old?.step ?? -1 else { return }
        var watch = spec.canary == nil ? nil : CanaryWatch(at: clock.now())
        // Another weight for the same two versions does not make their figures untrue.
        if let kept = old, kept.spec.primary == spec.primary, kept.spec.canary?.version == spec.canary?.version { watch = kept.watch }
        routes[function, default: [:]][spec.name] = AliasRoute(spec: spec, step: step, watch: watch)
        if spec.name == .latest { latest[function] = VersionID(function: function, number: spec.primary) }
        tellNode(old?.spec, spec, function)
    }

    public func removeAlias(_ function: FunctionID, _ name: Name) {
        let old = routes[function]?.removeValue(forKey: name)
        tellNode(old?.spec, nil, function)
    }

    /// Registers a version. Only one that an alias names keeps its least number of workers: the others go when they are idle, or no version would ever be old.
    func tellNode(_ version: VersionID) {
        guard var spec = deployments[version]?.spec else { return }
        let aliases = routes[version.function] ?? [:]
        let isNamed = aliases.isEmpty ? latest[version.function] == version : aliases.values.contains { $0.spec.names(version.number) }
        if !isNamed { spec.minimumWorkers = 0 }
        handle(.versionRegistered(spec))
    }

    /// Registers anew what the change of an alias concerns and what keeps workers.
    private func tellNode(_ old: AliasSpec?, _ new: AliasSpec?, _ function: FunctionID) {
        let numbers = Set([old?.primary, old?.canary?.version, new?.primary, new?.canary?.version].compactMap { $0 })
        for version in numbers.sorted().map({ VersionID(function: function, number: $0) }) {
            if let deployment = deployments[version], deployment.spec.minimumWorkers > 0 { tellNode(version) }
        }
    }

    /// The version for a call, and the alias where it chose between two; nil where there is none. `key` tells callers apart; without one a call falls anywhere.
    public func route(_ function: FunctionID, _ alias: Name, key: () -> String?) -> (version: VersionID, chosenBy: Name?)? {
        guard let route = routes[function]?[alias] else {
            // Nobody said what `latest` is: it is the newest.
            guard alias == .latest, let version = latest[function] else { return nil }
            return (version, nil)
        }
        guard route.spec.canary != nil else { return known(VersionID(function: function, number: route.spec.primary), nil) }
        let point =
            if let key = key(), !key.isEmpty { AliasSpec.point(function, alias, key: key) } else { AliasSpec.point(random: random.next()) }
        return known(VersionID(function: function, number: route.spec.version(at: point)), alias)
    }

    private func known(_ version: VersionID, _ alias: Name?) -> (version: VersionID, chosenBy: Name?)? {
        deployments.index(forKey: version) == nil ? nil : (version, alias)
    }

    /// Every alias of a function, by name.
    public func aliases(of function: FunctionID) -> [AliasSpec] {
        (routes[function] ?? [:]).values.map(\.spec).sorted { $0.name < $1.name }
    }

    /// What the present windows of a canary hold; nil where there is none.
    public func canaryTallies(_ function: FunctionID, _ alias: Name) -> (canary: CanaryTally, primary: CanaryTally)? {
        routes[function]?[alias]?.watch?.tallies
    }

    /// Tells the watch of an alias that a call has ended. Refused, cancelled and expired calls say nothing of a version.
    func countForCanary(_ alias: Name, _ invocation: Pending, _ outcome: Outcome, _ now: Instant) {
        let function = invocation.order.version.function
        guard [.ok, .functionError, .timedOut, .outOfMemory, .crashed, .internal].contains(outcome),
            let spec = routes[function]?[alias]?.spec, let canary = spec.canary, spec.names(invocation.order.version.number)
        else { return }
        let isError = outcome != .ok || (invocation.answer?.status ?? 200) >= 500
        let verdict = routes[function]?[alias]?.watch?.ended(
            isCanary: invocation.order.version.number == canary.version, isError: isError,
            ran: now - (invocation.dispatchedAt ?? invocation.arrivedAt), at: now)
        if let verdict, spec.isAutomatic, let step = routes[function]?[alias]?.step {
            routes[function]?[alias]?.spec.canary = nil
            routes[function]?[alias]?.watch = nil
            tellNode(spec, nil, function)
            logger.warning(
                "a canary was ended by the rule",
                metadata: ["alias": "\(function):\(alias)", "version": "\(canary.version)", "reason": "\(verdict)"])
            canaryEnded?(CanaryEnd(function: function, alias: alias, step: step, canary: canary.version, verdict: verdict))
        }
    }

    /// Ends one version: what waits for it is answered, what runs ends, its workers go.
    public func unregister(_ version: VersionID) {
        guard deployments.removeValue(forKey: version) != nil else { return }
        handle(.versionRemoved(version))
    }

    /// Whether a version has workers, or invocations that run or wait.
    public func isInUse(_ version: VersionID) -> Bool {
        node.versionView(version).map { $0.running + $0.queued + $0.workers > 0 } ?? false
    }

    /// The hashes of the code that live workers were started with.
    public var codeInUse: Set<String> { Set(processes.values.compactMap { $0.deployment?.spec.code }) }
}
