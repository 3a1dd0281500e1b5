// SPDX-License-Identifier: Apache-2.0
public import Core

/// The first line of a ``SpawnerState``. Raise the number on any change of the record, of a worker's reports, or of the order to a sealed worker: a program of another number is
/// refused before it is executed.
public let spawnerStateFormat = "bulkhead-spawner state 3\n"

/// Everything that a spawner's program leaves to the one that is executed in its place, in the same process: what is not in here is made anew. Numbers of descriptors are those of
/// the process, which stays the same.
public struct SpawnerState: Hashable, Sendable {
    /// The longest record, in bytes.
    public static let limit = 32 << 20

    /// The protocol that the daemon which goes on speaks.
    public var protocolVersion: UInt16
    /// The text of the policy in force.
    public var policy: String
    /// The program's path, and the policy's, as they were at the start.
    public var program: String
    public var policyPath: String
    /// Where the workers' cgroups lie on v2, from the root of the hierarchy.
    public var cgroupParent: String
    /// The lock of the state directory.
    public var lock: Int32
    public var address: String
    public var listeners: [Listener]
    public var daemon: Daemon
    /// Of CLOCK_MONOTONIC, in nanoseconds, like every time here.
    public var nextHandOver: UInt64
    public var lastReload: String
    public var workers: [Worker]
    /// Reaped, and their cgroup was busy: without descriptors.
    public var leaving: [Worker]
    public var groups: [GroupID]
    /// Numbers of workers that were.
    public var usedIDs: NumberSet
    /// In the order in which they are given.
    public var freeUIDs: [UInt32]
    /// Of the next cgroup's name.
    public var nextLeaf: UInt64
    /// What ended workers used and no daemon was told, in the order of the accounts.
    public var untold: [AccountUse] = []

    public init(
        policy: String, program: String, policyPath: String, cgroupParent: String, lock: Int32, address: String, listeners: [Listener],
        daemon: Daemon, nextHandOver: UInt64, lastReload: String, workers: [Worker], leaving: [Worker], groups: [GroupID],
        usedIDs: NumberSet, freeUIDs: [UInt32], nextLeaf: UInt64
    ) {
        protocolVersion = spawnerProtocolVersion
        self.policy = policy
        self.program = program
        self.policyPath = policyPath
        self.cgroupParent = cgroupParent
        self.lock = lock
        self.address = address
        self.listeners = listeners
        self.daemon = daemon
        self.nextHandOver = nextHandOver
        self.lastReload = lastReload
        self.workers = workers
        self.leaving = leaving
        self.groups = groups
        self.usedIDs = usedIDs
        self.freeUIDs = freeUIDs
        self.nextLeaf = nextLeaf
    }

    public struct Listener: Hashable, Sendable {
        public var name: String
        public var descriptor: Int32
        public init(name: String, descriptor: Int32) { (self.name, self.descriptor) = (name, descriptor) }
    }

    /// The daemon that goes on; it serves.
    public struct Daemon: Hashable, Sendable {
        public var pid: Int32
        public var socket: Int32
        public var startedAt: UInt64
        public var restartDelay: UInt64
        /// Of the question that it was asked last, and when it was where it has not answered yet; when the next one is due where it has.
        public var question: UInt64
        public var askedAt: UInt64?
        public var nextAt: UInt64?
        public init(
            pid: Int32, socket: Int32, startedAt: UInt64, restartDelay: UInt64, question: UInt64, askedAt: UInt64?, nextAt: UInt64?
        ) {
            self.pid = pid
            self.socket = socket
            self.startedAt = startedAt
            self.restartDelay = restartDelay
            self.question = question
            self.askedAt = askedAt
            self.nextAt = nextAt
        }
    }

    public struct Order: Hashable, Sendable {
        public var runtime: String
        public var command: [String]
        /// Empty where there is none.
        public var code: String
        public init(runtime: String, command: [String], code: String) {
            self.runtime = runtime
            self.command = command
            self.code = code
        }
    }

    public struct Worker: Hashable, Sendable {
        public var id: WorkerID
        public var group: GroupID
        public var uid: UInt32
        public var path: String
        public var pid: Int32
        /// -1 where it has none (a worker that is leaving).
        public var pidfd: Int32
        public var report: Int32
        public var outOfMemoryEvent: Int32
        public var runtime: String
        public var limits: WorkerLimits
        /// What its cgroup has now.
        public var cgroupMemory: UInt64
        public var cgroupCPU: UInt32
        public var cgroupProcesses: UInt32
        public var preparation: Preparation
        public var isSealed = false
        public var isAssigned = false
        public var isTemporaryResized = false
        public var isKilled = false
        /// Its daemon has ended, and none took it over.
        public var isOrphan = false
        /// For whom it works, and what a daemon was told of its processor time.
        public var account: UInt64 = 0
        public var toldCPU: UInt64 = 0
        /// Its cgroup met its memory limit, and nothing was killed yet.
        public var isSuspect = false
        /// What waits for the end of its seal.
        public var order: Order?
        public var buckets: BucketAccess?
        public var layers: [Name] = []
        public var cause: DeathCause?
        public var usage: Usage?

        public init(
            id: WorkerID, group: GroupID, uid: UInt32, path: String, pid: Int32, descriptors: (pid: Int32, report: Int32, event: Int32),
            runtime: String, limits: WorkerLimits, cgroup: (memory: UInt64, cpu: UInt32, processes: UInt32), preparation: Preparation
        ) {
            self.id = id
            self.group = group
            self.uid = uid
            self.path = path
            self.pid = pid
            (pidfd, report, outOfMemoryEvent) = (descriptors.pid, descriptors.report, descriptors.event)
            self.runtime = runtime
            self.limits = limits
            (cgroupMemory, cgroupCPU, cgroupProcesses) = (cgroup.memory, cgroup.cpu, cgroup.processes)
            self.preparation = preparation
        }

        var descriptors: [Int32] { [pidfd, report] + (outOfMemoryEvent >= 0 ? [outOfMemoryEvent] : []) }
    }

    /// All that must stay open.
    public var descriptors: [Int32] { [lock, daemon.socket] + listeners.map(\.descriptor) + workers.flatMap(\.descriptors) }

    /// What cannot be in a state of this release with so many user ids from `firstUID` on; nil where nothing is wrong.
    public func objection(firstUID: UInt32, uidCount: UInt32) -> String? {
        guard protocolVersion == spawnerProtocolVersion else {
            return "the running daemon speaks protocol version \(protocolVersion), this program \(spawnerProtocolVersion)"
        }
        let open = descriptors
        guard open.allSatisfy({ $0 > 2 }), Set(open).count == open.count else { return "a descriptor that is none, or two in one" }
        let all = workers + leaving
        guard Set(all.map(\.id)).count == all.count else { return "two workers of one number" }
        guard workers.allSatisfy({ worker in worker.isKilled || usedIDs.contains(worker.id.number) }) else {
            return "a worker that never was"
        }
        // Each is free or somebody's, and never both: a user id that is given twice would open one worker to another.
        let uids = freeUIDs + all.map(\.uid)
        guard uids.count == Int(uidCount), Set(uids).count == uids.count, uids.allSatisfy({ $0 >= firstUID && $0 - firstUID < uidCount })
        else {
            return "user ids that are not those of the policy, each once"
        }
        guard daemon.pid > 1, all.allSatisfy({ $0.pid > 1 }) else { return "a process that is none" }
        return nil
    }
}
