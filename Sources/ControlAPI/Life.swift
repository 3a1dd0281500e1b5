// SPDX-License-Identifier: Apache-2.0

/// Body of `POST /v1/restart`; without one it is `{"spawner": false}`.
public struct RestartRequest: Codable, Hashable, Sendable {
    /// Replaces the spawner's program in any case; else only where its file is another than the one that runs.
    public var spawner: Bool
    public init(spawner: Bool) { self.spawner = spawner }
}

/// The daemon that answers, and what it has taken over: `GET /v1/restart`.
public struct RestartReply: Codable, Hashable, Sendable {
    /// The host's number of the daemon's process.
    public var daemon: Int32
    /// Milliseconds since 1970.
    public var startedAt: UInt64
    /// Idle workers that the daemon before has handed over, and those of them that serve on: of a function that is the same as then.
    public var workersOffered: Int
    public var workersKept: Int
    /// Callers' connections that were taken over.
    public var connectionsKept: Int
    /// From the moment at which the daemon before accepted nothing more until this one did; 0 at a start without one before.
    public var pauseMilliseconds: UInt64
    /// Whether the spawner has gone over to a new program since this daemon began: the answer to `POST` says whether it has for this restart.
    public var spawnerReplaced: Bool
    public init(
        daemon: Int32, startedAt: UInt64, workersOffered: Int = 0, workersKept: Int = 0, connectionsKept: Int = 0,
        pauseMilliseconds: UInt64 = 0, spawnerReplaced: Bool = false
    ) {
        self.daemon = daemon
        self.startedAt = startedAt
        self.workersOffered = workersOffered
        self.workersKept = workersKept
        self.connectionsKept = connectionsKept
        self.pauseMilliseconds = pauseMilliseconds
        self.spawnerReplaced = spawnerReplaced
    }
}

/// Body of `POST /v1/drain`.
public struct DrainRequest: Codable, Hashable, Sendable {
    /// Admits again instead.
    public var undo: Bool
    public init(undo: Bool) { self.undo = undo }
}

/// How far a drain is: `GET /v1/drain`, and the answer to `POST`.
public struct DrainReply: Codable, Hashable, Sendable {
    public var draining: Bool
    /// Calls that run or wait for a worker, those of events included.
    public var running: Int
    /// Events that wait in the store and do not start while the node drains.
    public var eventsWaiting: UInt64
    public init(draining: Bool, running: Int, eventsWaiting: UInt64) {
        self.draining = draining
        self.running = running
        self.eventsWaiting = eventsWaiting
    }
}
