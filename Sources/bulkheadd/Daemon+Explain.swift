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
