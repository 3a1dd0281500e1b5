// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core

/// What the gateway asks of the daemon about events, loops and triggers. `tenant` nil: of the whole node.
public protocol EventService: Sendable {
    func events(_ query: EventFilter) async throws -> EventPageReply
    func event(_ id: InvocationID, tenant: Name?) async throws -> EventReply
    func payload(_ id: InvocationID, tenant: Name?) async throws -> (contentType: String, bytes: [UInt8])
    /// Ends an event that has not ended; the answer says where it is then.
    func stop(_ id: InvocationID, tenant: Name?) async throws -> EventReply
    func redrive(_ letters: DeadLetters, tenant: Name?, ratePerSecond: Double?) async throws -> RedriveReply
    func purge(_ letters: DeadLetters, tenant: Name?) async throws -> PurgeReply
    func loops(tenant: Name?) async throws -> [LoopReply]
    func resume(_ edge: EdgeID, _ resume: LoopResume) async throws -> LoopReply
    func failures(_ query: FailureFilter) async throws -> FailurePageReply
    func triggers(tenant: Name?, function: Name?) async throws -> [TriggerReply]
}

/// Which events a caller wants.
public struct EventFilter: Hashable, Sendable {
    public var tenant: Name?
    public var function: Name?
    /// One of ``EventReply/states``; nil for all.
    public var state: String?
    /// From 1 to 1000.
    public var limit = 100
    /// What the last page gave as `next`.
    public var after: String?
    public init() {}
}

/// Which failed calls a caller wants.
public struct FailureFilter: Hashable, Sendable {
    public var tenant: Name?
    public var function: Name?
    /// Nil for all but ``Outcome/ok``.
    public var outcome: Outcome?
    /// When they ended, in milliseconds since 1970, both included.
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    /// From 1 to 1000, the newest.
    public var limit = 100
    public init() {}
}

/// Which dead letters a caller means.
public enum DeadLetters: Hashable, Sendable {
    case these([InvocationID])
    case function(Name)
    case all
}
