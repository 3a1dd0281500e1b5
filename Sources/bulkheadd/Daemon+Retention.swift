// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway
import Logging
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// What becomes of versions and code that nothing needs any more.
extension Daemon {
    /// Removes one version on request. What waits for it is answered, what runs ends.
    func removeVersion(_ version: VersionID) async throws {
        let store = store
        switch try await onDisk({ try store.removeVersion(version) }) {
        case .noVersion: throw Problem.notFound("version \(version)")
        case let fault?: throw Self.problem(fault, version.function, .latest)
        case nil: break
        }
        forget(version)
        try await supervisor.onLoop { $0.unregister(version) }
        await sweepCode()
    }

    private func forget(_ version: VersionID) {
        records.withLock { $0[version] = nil }
        functionRules.withLock { $0[version] = nil }
        applicationLabels.withLock { $0[version] = nil }
    }

    /// Applies the retention rules: to one function after its deploy, to all of them once an hour and after a reload. What cannot be done now waits for the next
    /// time, so it fails no deploy.
    func sweepVersions(of function: FunctionID? = nil) async {
        do {
            let removed = try await sweep(function)
            if removed > 0 {
                logger.notice("old versions were removed by the retention rule", metadata: ["versions": "\(removed)"])
            }
            if removed > 0 || function == nil { await sweepCode() }
        } catch { logger.error("old versions cannot be removed now", metadata: ["reason": "\(error)"]) }
    }

    private func sweep(_ only: FunctionID?) async throws -> Int {
        let (store, now) = (store, Self.wall())
        let aliases = try await onDisk { try only.map { try store.aliases(of: $0) } ?? store.aliases() }
        var pinned: Set<VersionID> = []
        for alias in aliases {
            for number in [alias.spec.primary, alias.spec.canary?.version, alias.previous].compactMap({ $0 }) {
                pinned.insert(VersionID(function: alias.function, number: number))
            }
        }
        let all = records.withLock { Array($0.values) }.filter { only == nil || $0.version.function == only }
        var removed = 0
        for (function, records) in Dictionary(grouping: all, by: \.version.function) {
            let rule = retention(function.tenant)
            guard records.count > rule.versions else { continue }
            let held = pinned
            // Looked at and ended in one step of the loop, so that no call comes in between.
            let gone = try await supervisor.onLoop { state in
                let candidates = records.map { record in
                    RetentionRule.Candidate(
                        number: record.version.number, age: .milliseconds(now > record.createdAt ? now - record.createdAt : 0),
                        isHeld: held.contains(record.version) || state.isInUse(record.version))
                }
                return rule.removable(candidates).compactMap { number -> Deployment? in
                    let version = VersionID(function: function, number: number)
                    defer { state.unregister(version) }
                    return state.deployment(version)
                }
            }
            for deployment in gone {
                let version = deployment.spec.version
                let fault: AliasFault?
                do { fault = try await onDisk { try store.removeVersion(version) } } catch {
                    try await supervisor.onLoop { $0.register(deployment) }
                    throw error
                }
                guard fault == nil else {
                    // Somebody has just given it a name.
                    try await supervisor.onLoop { $0.register(deployment) }
                    continue
                }
                forget(version)
                removed += 1
            }
        }
        return removed
    }

    private func retention(_ tenant: Name) -> RetentionRule {
        configuration.withLock { configuration in
            configuration.tenants.first { $0.tenant == tenant }?.retention ?? configuration.retention
        }
    }

    /// Removes code that no version uses and that no live worker was started with: also what a publish left that was interrupted.
    func sweepCode() async {
        let (store, code) = (store, code)
        do {
            let inUse = try await supervisor.onLoop { $0.codeInUse }
            // One job on the disk's queue, as a publish is: none of them sees half of the other.
            let removed = try await onDisk { try code.sweep(keeping: try store.codeHashes().union(inUse)) }
            if removed > 0 { logger.notice("code without a version was removed", metadata: ["trees": "\(removed)"]) }
        } catch { logger.error("old code cannot be removed now", metadata: ["reason": "\(error)"]) }
    }
}
