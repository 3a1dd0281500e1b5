// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import Store
import Supervision

/// What was decided on an invocation: of the last ones all, of earlier ones those that somebody may ask about.
extension Daemon {
    func explain(_ id: InvocationID, tenant: Name?) async throws -> ExplainReply {
        // Another tenant's goes the way of one that nobody has, to the disk: an answer that came sooner would tell that it is there.
        if let record = try await supervisor.onLoop({ $0.explainRecord(id) }), tenant == nil || record.version.function.tenant == tenant {
            return Self.reply(record)
        }
        let explanations = explanations
        let found = try await onAuditDisk { explanations.find(id, tenant: tenant) }
        guard let found, let reply = try? JSONDecoder().decode(ExplainReply.self, from: found) else { throw Self.unexplained(id) }
        return reply
    }

    private static func unexplained(_ id: InvocationID) -> Problem {
        Problem.notFound("invocation \(id) among the last 10,000 and those that are kept longer (refused, failed, slow or an event's)")
    }

    private static func reply(_ record: ExplainRecord) -> ExplainReply {
        ExplainReply(
            invocation: record.id.description, function: record.version.description, arrivedAt: record.arrivedAt,
            entries: record.entries.flatMap { entry in
                Wording.decisions(entry.decision).map {
                    ExplainEntryReply(afterNanoseconds: entry.after, decision: $0.word, detail: $0.detail)
                }
            })
    }

    /// Calls that failed, of those that are kept on the disk. One shows there within a second or two of its end.
    func failures(_ filter: FailureFilter) async throws -> FailurePageReply {
        var query = ExplanationQuery()
        query.tenant = filter.tenant
        query.since = filter.since
        query.until = filter.until
        query.limit = filter.limit
        let (wanted, explanations) = (query, explanations)
        let page = try await looking(filter.tenant) {
            explanations.newest(wanted) { line in
                Self.failure(line, filter).map { (time: $0.failedAt, value: $0) }
            }
        }
        if page.values.isEmpty { try mustExist(filter.function, of: filter.tenant) }
        return FailurePageReply(failures: page.values, more: page.isMore)
    }

    /// Nil for a line of a call that went well, of another function or with another outcome.
    private static func failure(_ line: Data, _ filter: FailureFilter) -> FailureReply? {
        guard let kept = try? JSONDecoder().decode(ExplainReply.self, from: line),
            let end = kept.entries.last(where: { $0.decision == "replied" })
        else { return nil }
        // As `Wording` has them: the outcome, and after a colon why; the version as TENANT/FUNCTION@NUMBER.
        let words = end.detail.split(separator: ": ", maxSplits: 1)
        let names = kept.function.split { $0 == "/" || $0 == "@" }.map(String.init)
        guard let outcome = words.first.flatMap({ Outcome(rawValue: String($0)) }), outcome != .ok, names.count == 3,
            filter.outcome.map({ $0 == outcome }) ?? true, filter.function.map({ $0.text == names[1] }) ?? true
        else { return nil }
        return FailureReply(
            invocation: kept.invocation, tenant: names[0], function: names[1], version: UInt32(names[2]) ?? 0, arrivedAt: kept.arrivedAt,
            failedAt: kept.arrivedAt + end.afterNanoseconds / 1_000_000, outcome: outcome.rawValue,
            reason: words.count > 1 ? String(words[1]) : "")
    }

    /// Writes down what ended since the last time; called once a second and before the end.
    func keepExplanations() async {
        guard let records = try? await supervisor.onLoop({ $0.takeExplanations() }), !records.isEmpty else { return }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.withoutEscapingSlashes]
        let lines = records.compactMap { record in
            (try? encoder.encode(Self.reply(record))).map {
                ExplanationStore.Line(tenant: record.version.function.tenant, id: record.id, json: $0)
            }
        }
        let explanations = explanations
        // A full disk is told elsewhere, and nobody's call may fail for want of an explanation.
        try? await onAuditDisk { try explanations.append(lines) }
    }

    func pruneExplanations() async {
        let explanations = explanations
        try? await onAuditDisk { explanations.prune(now: Self.wall()) }
    }
}
