// SPDX-License-Identifier: Apache-2.0
public import Core

/// What a runtime's workers find in their root, and what is executed.
public struct RuntimeProfile: Sendable, Hashable {
    public struct Mount: Sendable, Hashable {
        public var source: String
        public var target: String
        public init(source: String, target: String) {
            self.source = source
            self.target = target
        }
    }
    public var name: String
    /// Host trees and files, bound read-only.
    public var mounts: [Mount]
    public var files: [Mount]
    /// Symbolic links in the root: `source` is the text, `target` the path.
    public var links: [Mount]
    /// The interpreter's command line; empty where the tenant's own program is executed.
    public var arguments: [String]
    public var environment: [String]
    /// Name of the policy file without `.json`.
    public var filter: String
    /// The smallest memory limit that works, in bytes.
    public var memoryFloor: UInt64

    public init(
        name: String, mounts: [Mount] = [], files: [Mount] = [], links: [Mount] = [], arguments: [String] = [], environment: [String] = [],
        filter: String = "worker", memoryFloor: UInt64 = WorkerLimits.memoryRange.lowerBound
    ) {
        self.name = name
        self.mounts = mounts
        self.files = files
        self.links = links
        self.arguments = arguments
        self.environment = environment
        self.filter = filter
        self.memoryFloor = memoryFloor
    }
}

/// One start, checked. Descriptors stay the caller's.
/// Limits of each process of a worker that its function decides. setrlimit(2).
public struct ProcessLimits: Hashable, Sendable {
    public var openFiles: UInt32
    public var processes: UInt32
    /// The longest file that it may write.
    public var fileBytes: UInt64

    public init(openFiles: UInt32, processes: UInt32, fileBytes: UInt64) {
        (self.openFiles, self.processes, self.fileBytes) = (openFiles, processes, fileBytes)
    }

    /// - Parameter fileBytes: where it may write more than its `/tmp`.
    public init(_ limits: WorkerLimits, fileBytes: UInt64 = 0) {
        self.init(openFiles: limits.openFiles, processes: limits.processes, fileBytes: max(limits.temporaryBytes, fileBytes))
    }
}

public struct SandboxSpec: Sendable {
    public var runtime: String
    /// Sealed and waiting for ``SandboxHost/order(_:arguments:environment:)`` instead of executing at once.
    public var waitsForOrder: Bool
    /// Host uid and gid, the worker's own.
    public var id: UInt32
    public var limits: WorkerLimits
    /// Of a worker that waits for a function: the highest that one may have, for they can only be lowered.
    public var processLimits: ProcessLimits
    public var network: Bool
    /// Directory of the worker's cgroup in the v2 hierarchy, or nil.
    public var cgroup: Int32?
    /// `cgroup.procs` of the worker's cgroups in v1 hierarchies.
    public var joins: [Int32]
    /// How the worker's lines in `/proc/<pid>/cgroup` end, and how many must.
    public var cgroupSuffix: String
    public var cgroupLines: Int
    /// The code's directory, or nil.
    public var code: Int32?
    /// The tenant's program and its arguments, where the runtime has none.
    public var command: [String]
    public var buckets: Buckets?
    public var layers: Layers?
    /// Test only: this stage fails.
    public var failStage: UInt32

    public init(
        runtime: String, waitsForOrder: Bool = false, id: UInt32, limits: WorkerLimits = WorkerLimits(),
        processLimits: ProcessLimits? = nil,
        network: Bool = false,
        cgroup: Int32? = nil, joins: [Int32] = [], cgroupSuffix: String = "", cgroupLines: Int = 0, code: Int32? = nil,
        command: [String] = [], buckets: Buckets? = nil, layers: Layers? = nil, failStage: UInt32 = 0
    ) {
        self.runtime = runtime
        self.waitsForOrder = waitsForOrder
        self.id = id
        self.limits = limits
        self.processLimits = processLimits ?? ProcessLimits(limits)
        self.network = network
        self.cgroup = cgroup
        self.joins = joins
        self.cgroupSuffix = cgroupSuffix
        self.cgroupLines = cgroupLines
        self.code = code
        self.command = command
        self.buckets = buckets
        self.layers = layers
        self.failStage = failStage
    }
}
