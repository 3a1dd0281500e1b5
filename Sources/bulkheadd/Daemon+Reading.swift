// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Store
import Supervision
import Synchronization
import Wire

/// What is asked about workers, functions, versions, tenants and invocations.
extension Daemon {
    /// On the loop.
    func resolve(_ function: FunctionID, version: UInt32?, alias: String?) -> VersionID? {
        let state = supervisor.state
        guard let number = version else {
            return (alias.map { Name($0) } ?? .latest).flatMap { state.route(function, $0, key: { nil })?.version }
        }
        guard alias == nil || alias == "latest" else { return nil }
        let id = VersionID(function: function, number: number)
        return state.deployment(id) == nil ? nil : id
    }

    func workers(tenant: Name?) async throws -> [WorkerReply] {
        try await supervisor.refreshUsage()
        return try await supervisor.onLoop { state in
            state.workerReports.filter { tenant == nil || $0.version?.function.tenant == tenant }.map { report in
                WorkerReply(
                    worker: report.worker.description, tenant: report.version?.function.tenant.text ?? "",
                    function: report.version?.function.function.text ?? "", version: report.version?.number ?? 0, runtime: report.runtime,
                    state: report.state, pid: report.pid, uid: report.uid, cgroup: report.cgroup, startedAt: report.startedAt,
                    served: report.served, inFlight: report.inFlight, slots: report.slots, memoryBytes: report.usage.memoryBytes,
                    memoryLimitBytes: report.limits.memoryBytes, cpuSeconds: Double(report.usage.cpuMicroseconds) / 1e6,
                    pids: report.usage.processes > 0 ? report.usage.processes - 1 : 0, pidsLimit: report.limits.processes)
            }
        }
    }

    func inspect(_ worker: WorkerID) async throws -> InspectReply {
        let checks = try await supervisor.posture(worker)
        guard !checks.isEmpty else { throw Problem.notFound("worker \(worker)") }
        return InspectReply(
            worker: worker.description,
            checks: checks.map { PostureReply(name: $0.name, expected: $0.expected, actual: $0.actual, ok: $0.isHeld) })
    }

    func functions(tenant: Name?) async throws -> [FunctionReply] {
        var newest: [FunctionID: VersionRecord] = [:]
        for record in records.withLock({ Array($0.values) }) where tenant == nil || record.version.function.tenant == tenant {
            if record.version.number >= newest[record.version.function]?.version.number ?? 0 { newest[record.version.function] = record }
        }
        let found = newest, all = records.withLock { $0 }
        return try await supervisor.onLoop { state in
            found.values.sorted { $0.version.function < $1.version.function }.compactMap { newest in
                let record = state.latestVersion(newest.version.function).flatMap { all[$0] } ?? newest
                guard let spec = state.deployment(record.version)?.spec else { return nil }
                return FunctionReply(
                    tenant: record.version.function.tenant.text, function: record.version.function.function.text,
                    latest: record.version.number, runtime: spec.runtime, memoryBytes: spec.limits.memoryBytes, deployedAt: record.createdAt
                )
            }
        }
    }

    /// Looks through a tenant's own files, or the operator through all tenants', which may take long, when it is the tenant's turn: apart from the disk's queue, for a long search must hold up no deploy.
    /// The operator waits behind nobody: a tenant that floods its own log with searches must not keep its log from them.
    func looking<T: Sendable>(_ tenant: Name?, _ body: @escaping @Sendable () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            let look: @Sendable () -> Void = { continuation.resume(with: Result { try body() }) }
            guard Caller.asking != .operator, let tenant else { return DispatchQueue.global().async(execute: look) }
            guard reads.take(tenant, look) else { return continuation.resume(throwing: tooManyLooks) }
        }
    }

    private var tooManyLooks: Problem {
        var problem = Problem(
            code: Outcome.throttled.rawValue, title: "A ceiling is reached", status: 429,
            detail: "as many searches and listings of this tenant wait as may at once (\(reads.share - 1)): send it again in a second")
        problem.retryAfter = 1
        return problem
    }

    /// Throws where there is no such function: "nothing was found" and "nothing can be found" are two answers.
    func mustExist(_ function: Name?, of tenant: Name?) throws {
        guard let function, let tenant else { return }
        let id = FunctionID(tenant: tenant, function: function)
        guard records.withLock({ $0.values.contains { $0.version.function == id } }) else { throw Problem.notFound("function \(id)") }
    }

    func versions(_ function: FunctionID) async throws -> [VersionReply] {
        let found = records.withLock { $0.values.filter { $0.version.function == function } }.sorted {
            $0.version.number < $1.version.number
        }
        guard !found.isEmpty else { throw Problem.notFound("function \(function)") }
        return try await supervisor.onLoop { state in
            let aliases = state.aliases(of: function)
            return found.map { record in
                var reply = Self.reply(record, state.deployment(record.version)?.spec)
                reply.aliases = Self.labels(aliases, record.version.number)
                return reply
            }
        }
    }

    static func reply(_ record: VersionRecord, _ spec: FunctionSpec?) -> VersionReply {
        VersionReply(
            tenant: record.version.function.tenant.text, function: record.version.function.function.text, version: record.version.number,
            runtime: spec?.runtime ?? "", memoryBytes: spec?.limits.memoryBytes ?? 0, codeBytes: record.codeBytes,
            codeHash: record.codeHash,
            createdAt: record.createdAt)
    }

    func tenants() async throws -> [TenantReply] {
        let names = tenantNames.withLock { $0.sorted() }
        let functions = Dictionary(grouping: Set(records.withLock { $0.keys.map(\.function) })) { $0.tenant }.mapValues(\.count)
        return try await supervisor.onLoop { state in
            names.compactMap { name in
                state.node.tenantView(name).map { view in
                    TenantReply(
                        tenant: name.text, functions: functions[name] ?? 0, concurrency: view.spec.concurrency, running: view.running,
                        queue: view.spec.queue, queued: view.queued, workers: view.workers, memoryBytes: view.spec.limits.memoryBytes,
                        memoryCommittedBytes: view.memoryCommitted, cpuMilli: view.spec.limits.cpuMilli,
                        processes: view.spec.limits.processes, suspended: view.spec.isSuspended)
                }
            }
        }
    }

    func hasRuntime(_ name: String) -> Bool { runtimes.contains(name) }

    func node() async throws -> NodeReply {
        NodeReply(
            version: Self.version, runtimes: runtimes.filter { $0 != "unpack" && $0 != "sealed" }, configuration: configurationDirectory,
            http: httpAddress.withLock { $0 })
    }
}
