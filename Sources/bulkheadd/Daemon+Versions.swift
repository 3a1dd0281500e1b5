// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Logging
import NIOCore
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// Aliases, rollback and applications.
extension Daemon {
    // MARK: calls

    func choose(
        _ function: FunctionID, version: UInt32?, alias: String?, caller: Caller, users known: Result<EndUsers, Problem>?,
        header: (String) -> String?
    ) -> VersionChoice {
        guard version == nil else { return .found(resolve(function, version: version, alias: alias).map { ChosenVersion(version: $0) }) }
        guard let name = alias.map({ Name($0) }) ?? .latest else { return .found(nil) }
        let given = header("bulkhead-alias-key")
        if let given, given.utf8.count > Self.userLimit {
            return .refused(.badRequest("Bulkhead-Alias-Key is longer than \(Self.userLimit) bytes"))
        }
        var primary: VersionID? {
            supervisor.state.aliases(of: function).first { $0.name == name }.map { VersionID(function: function, number: $0.primary) }
        }
        var pending: EventLoopFuture<Result<EndUsers, Problem>>?
        let found = supervisor.state.route(function, name) {
            if let given { return given }
            // Whoever counts as one end user sees one version.
            if let known { return (try? known.get()).flatMap { $0.tenant ?? $0.function } }
            guard let primary else { return nil }
            switch users(primary, caller, header) {
            case .known(let users): return users.tenant ?? users.function
            case .refused: return nil
            case .pending(let verified):
                pending = verified
                return nil
            }
        }
        if let pending { return .pending(pending) }
        // Not to be verified once more: what is wrong for the first version is wrong for another that asks for the same.
        if case .failure(let problem)? = known, let found, let primary,
            functionRules.withLock({ $0[found.version] == $0[primary] })
        {
            return .refused(problem)
        }
        return .found(found.map { ChosenVersion(version: $0.version, alias: $0.chosenBy) })
    }

    // MARK: aliases

    func aliases(_ function: FunctionID) async throws -> [AliasReply] {
        let store = store
        let found = try await onDisk { try store.aliases(of: function) }
        guard !found.isEmpty else { throw Problem.notFound("function \(function)") }
        return try await supervisor.onLoop { state in
            found.map { record in
                var reply = Self.reply(record)
                // The rule's verdict holds at once; its note on the disk may be a second behind.
                if record.spec.canary != nil, let tallies = state.canaryTallies(function, record.spec.name) {
                    reply.primaryFigures = Self.figures(tallies.primary)
                    reply.canaryFigures = Self.figures(tallies.canary)
                }
                return reply
            }
        }
    }

    private static func figures(_ tally: CanaryTally) -> CanaryFigures {
        CanaryFigures(calls: tally.calls, errors: tally.errors, p95: tally.latency.quantile(0.95).map { Double($0) / 1e6 })
    }

    func setAlias(_ function: FunctionID, _ alias: AliasSpec) async throws -> AliasReply {
        let (store, now) = (store, Self.wall())
        return try await take(function, alias.name, try await onDisk { try store.setAlias(alias, function, at: now) })
    }

    func rollBack(_ function: FunctionID, _ alias: Name) async throws -> AliasReply {
        let (store, now) = (store, Self.wall())
        return try await take(function, alias, try await onDisk { try store.rollBack(alias, function, at: now) })
    }

    /// Routes by what the store has kept.
    private func take(_ function: FunctionID, _ name: Name, _ result: Result<AliasRecord, AliasFault>) async throws -> AliasReply {
        switch result {
        case .failure(let fault): throw Self.problem(fault, function, name)
        case .success(let record):
            try await supervisor.onLoop { $0.setAlias(function, record.spec, step: record.step) }
            if name == .latest { try await configureRoutes(of: function.tenant) }
            return Self.reply(record)
        }
    }

    func removeAlias(_ function: FunctionID, _ name: Name) async throws {
        let store = store
        if let fault = try await onDisk({ try store.removeAlias(name, function) }) { throw Self.problem(fault, function, name) }
        try await supervisor.onLoop { $0.removeAlias(function, name) }
    }

    /// Makes the supervisor's aliases those of the store.
    func restoreAliases(of tenants: Set<Name>) async throws {
        let store = store
        let records = try await onDisk { try store.aliases() }
        try await supervisor.onLoop { state in
            for record in records where tenants.contains(record.function.tenant) {
                state.setAlias(record.function, record.spec, step: record.step)
            }
        }
    }

    /// Keeps what the rule has ended. What the disk does not take now is tried again a second later.
    func keepEndedCanaries() async {
        let (ends, store, now) = (endedCanaries.withLock { $0 }, store, Self.wall())
        for end in ends {
            do {
                let record = try await onDisk {
                    try store.endCanary(
                        end.alias, end.function, step: end.step, reason: "canary \(end.canary) was ended: \(end.verdict)", at: now)
                }
                if let record {
                    try await supervisor.onLoop { $0.setAlias(record.function, record.spec, step: record.step) }
                    await note(end, record, at: now)
                    notify(Self.alarm(end, record))
                }
                endedCanaries.withLock { $0.removeAll { $0 == end } }
            } catch { logger.error("the end of a canary cannot be kept now, it is tried again", metadata: ["reason": "\(error)"]) }
        }
    }

    /// What the node does by itself is on record as what people do.
    private func note(_ end: CanaryEnd, _ record: AliasRecord, at now: UInt64) async {
        let line = AuditRecord(
            time: now, who: "node", from: "canary rule", tenant: end.function.tenant.text, action: "rollback",
            target: "\(end.function.function):\(end.alias)",
            detail: "version \(record.spec.primary), canary \(end.canary) -> version \(record.spec.primary); \(end.verdict)", outcome: "ok")
        await audit([line], of: end.function.tenant)
    }

    static func wall() -> UInt64 { UInt64(Date().timeIntervalSince1970 * 1000) }

    static func problem(_ fault: AliasFault, _ function: FunctionID, _ alias: Name) -> Problem {
        func conflict(_ code: String, _ detail: String) -> Problem {
            Problem(code: code, title: "Not as things are", status: 409, detail: detail + ". Nothing was changed")
        }
        switch fault {
        case .noFunction: return .notFound("function \(function)")
        case .noAlias: return .notFound("alias \(alias) of \(function)")
        case .noVersion(let number):
            return Problem(
                code: "badAlias", title: "The alias is refused", status: 422,
                detail: "\(function) has no version \(number) that \(alias) could name. Nothing was changed")
        case .nothingBefore(let number):
            return conflict("nothingBefore", "before version \(number), \(alias) of \(function) named no other version that is still kept")
        case .inUse(let names):
            return conflict(
                "inUse", "the alias \(names.map(\.text).joined(separator: ", ")) of \(function) names this version: move it first")
        case .isLatest: return conflict("latest", "latest is moved by deploys and rollbacks alone: choose another alias")
        }
    }

    private static func reply(_ record: AliasRecord) -> AliasReply {
        let canary = record.spec.canary
        return AliasReply(
            tenant: record.function.tenant.text, function: record.function.function.text, alias: record.spec.name.text,
            version: record.spec.primary, weight: percent(AliasSpec.whole - (canary?.weight ?? 0)), canary: canary?.version,
            canaryWeight: canary.map { percent($0.weight) }, automaticRollback: record.spec.isAutomatic, changedAt: record.change.at,
            changedBy: record.change.cause.rawValue, reason: record.change.reason, previous: record.previous)
    }

    private static func percent(_ weight: UInt32) -> Double { Double(weight) / 100 }

    /// The aliases that name a version, with their shares: `latest`, `prod 10%`.
    static func labels(_ aliases: [AliasSpec], _ number: UInt32) -> [String] {
        aliases.filter { $0.names(number) }.map { alias in
            guard let canary = alias.canary else { return alias.name.text }
            let weight = canary.version == number ? canary.weight : AliasSpec.whole - canary.weight
            let percent = percent(weight)
            return "\(alias.name) \(percent == percent.rounded() ? "\(Int(percent))" : "\(percent)")%"
        }
    }

    // MARK: applications

    func applications(_ tenant: Name?) async throws -> [ApplicationReply] {
        let labels = applicationLabels.withLock { $0 }
        return try await supervisor.onLoop { state in
            var groups: [Name: [String: [FunctionID]]] = [:]
            for function in state.figures.keys where tenant == nil || function.tenant == tenant {
                let label = state.latestVersion(function).flatMap { labels[$0] } ?? ""
                groups[function.tenant, default: [:]][label, default: []].append(function)
            }
            return groups.flatMap { tenant, byLabel in
                byLabel.map { label, functions in
                    Self.application(tenant, label, functions.sorted(), functions.compactMap { state.figures[$0] })
                }
            }.sorted { ($0.tenant, $0.application) < ($1.tenant, $1.application) }
        }
    }

    private static func application(_ tenant: Name, _ label: String, _ functions: [FunctionID], _ figures: [FunctionFigures])
        -> ApplicationReply
    {
        var latency = LatencyHistogram()
        for figure in figures { latency.add(figure.latency) }
        let calls = figures.reduce(0) { $0 + $1.invocations }, throttles = figures.reduce(0) { $0 + $1.refused }
        let good = figures.reduce(0) { $0 + $1.outcomes[Outcome.ok.ordinal] }
        func milliseconds(_ share: Double) -> Double? { latency.quantile(share).map { Double($0) / 1e6 } }
        return ApplicationReply(
            tenant: tenant.text, application: label, functions: functions.map(\.function.text), calls: calls, throttles: throttles,
            successRate: calls > throttles ? Double(good) / Double(calls - throttles) : nil, p50: milliseconds(0.5),
            p95: milliseconds(0.95), p99: milliseconds(0.99), gbSeconds: Double(figures.reduce(0) { $0 + $1.microGBSeconds }) / 1e6)
    }
}
