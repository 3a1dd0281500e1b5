// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway

extension Daemon {
    private static let later = Problem(
        code: "unsupported", title: "Not supported", status: 501, detail: "durable events are not built yet: nothing was changed")

    func events(_ query: EventFilter) async throws -> EventPageReply { throw Self.later }
    func event(_ id: InvocationID, tenant: Name?) async throws -> EventReply { throw Self.later }
    func payload(_ id: InvocationID, tenant: Name?) async throws -> (contentType: String, bytes: [UInt8]) { throw Self.later }
    func stop(_ id: InvocationID, tenant: Name?) async throws -> EventReply { throw Self.later }
    func redrive(_ letters: DeadLetters, tenant: Name?, ratePerSecond: Double?) async throws -> RedriveReply { throw Self.later }
    func purge(_ letters: DeadLetters, tenant: Name?) async throws -> PurgeReply { throw Self.later }
    func loops(tenant: Name?) async throws -> [LoopReply] { throw Self.later }
    func resume(_ edge: EdgeID, _ resume: LoopResume) async throws -> LoopReply { throw Self.later }
    func triggers(tenant: Name?, function: Name?) async throws -> [TriggerReply] { throw Self.later }
}
