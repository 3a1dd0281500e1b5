// SPDX-License-Identifier: Apache-2.0

/// The spawner's policy: a root-owned text file that bounds whatever the daemon may ask for. Written here, read by the spawner.
public struct SpawnerPolicy: Hashable, Sendable {
    public var daemonExecutable: String
    public var daemonUID: UInt32
    public var daemonGID: UInt32
    /// The daemon's whole environment, `NAME=VALUE`.
    public var daemonEnvironment: [String]
    public var stateDirectory: String
    public var codeDirectory: String
    public var bucketDirectory: String
    /// `127.0.0.1:8080`; port 0 takes any free one.
    public var httpAddress: String
    /// Path of the control socket.
    public var controlSocket: String
    /// Host uids, and gids of the same numbers, one for each live worker.
    public var uids: IDRange
    /// Name of the node's own cgroup, in every hierarchy.
    public var cgroupName: String
    /// Whether the cgroups lie below the spawner's own one, which a service manager gave away (v2 only); else at the root of each hierarchy.
    public var isDelegated = false
    public var ceilings: Ceilings
    public var shareDirectory: String
    /// The folder of the operator's layers, in the configuration's own; nil for none.
    public var layerDirectory: String?
    public var runtimes: [Runtime]

    /// What all workers together, or one of them, may never exceed, whatever the daemon asks.
    public struct Ceilings: Hashable, Sendable {
        /// Bytes, for one worker or one group.
        public var memoryBytes: UInt64
        /// Thousandths of a processor.
        public var cpuMilli: UInt32
        public var processes: UInt32
        /// Live workers.
        public var workers: UInt32
        /// Bytes in a worker's `/tmp`.
        public var temporaryBytes: UInt64
        /// Live groups.
        public var groups: UInt32
        public init(
            memoryBytes: UInt64, cpuMilli: UInt32, processes: UInt32, workers: UInt32, temporaryBytes: UInt64, groups: UInt32
        ) {
            self.memoryBytes = memoryBytes
            self.cpuMilli = cpuMilli
            self.processes = processes
            self.workers = workers
            self.temporaryBytes = temporaryBytes
            self.groups = groups
        }
    }

    /// How a runtime's root is made and what is executed in it.
    public struct Runtime: Hashable, Sendable {
        public struct Pair: Hashable, Sendable {
            public var source: String
            public var target: String
            public init(_ source: String, _ target: String) {
                self.source = source
                self.target = target
            }
        }
        public var name: String
        /// Host trees and where they appear, read-only.
        public var mounts: [Pair] = []
        /// Single host files and where they appear, read-only.
        public var files: [Pair] = []
        /// What a symbolic link says, and where it stands.
        public var links: [Pair] = []
        /// The interpreter's argument vector; empty runs the tenant's own program.
        public var arguments: [String] = []
        public var environment: [String] = []
        public var filter = "worker"
        /// The smallest memory limit with which the runtime starts, bytes.
        public var memoryFloor: UInt64 = 4 << 20
        public init(name: String) { self.name = name }
    }

    public init(
        daemonExecutable: String, daemonUID: UInt32, daemonGID: UInt32, daemonEnvironment: [String], stateDirectory: String,
        codeDirectory: String, bucketDirectory: String, httpAddress: String, controlSocket: String, uids: IDRange, cgroupName: String,
        ceilings: Ceilings,
        shareDirectory: String, runtimes: [Runtime]
    ) {
        self.daemonExecutable = daemonExecutable
        self.daemonUID = daemonUID
        self.daemonGID = daemonGID
        self.daemonEnvironment = daemonEnvironment
        self.stateDirectory = stateDirectory
        self.codeDirectory = codeDirectory
        self.bucketDirectory = bucketDirectory
        self.httpAddress = httpAddress
        self.controlSocket = controlSocket
        self.uids = uids
        self.cgroupName = cgroupName
        self.ceilings = ceilings
        self.shareDirectory = shareDirectory
        self.runtimes = runtimes
    }

    /// The file's text.
    ///
    /// - Throws: ``Failure`` where a value holds a line break, or a path a space: the format has no quoting, on purpose.
    public func rendered() throws(Failure) -> String {
        var lines = ["# The spawner's policy, written by `bulkhead up`; changes are lost at the next start.", "version 1"]
        lines.append("daemon-executable \(try Self.path(daemonExecutable))")
        lines.append("daemon-uid \(daemonUID)")
        lines.append("daemon-gid \(daemonGID)")
        for entry in daemonEnvironment { lines.append("daemon-environment \(try Self.line(entry))") }
        lines.append("state-directory \(try Self.path(stateDirectory))")
        lines.append("code-directory \(try Self.path(codeDirectory))")
        lines.append("bucket-directory \(try Self.path(bucketDirectory))")
        lines.append("listen http \(try Self.line(httpAddress))")
        lines.append("listen control unix:\(try Self.path(controlSocket))")
        lines.append("uid-range \(uids.first) \(uids.count)")
        lines.append("cgroup-name \(try Self.path(cgroupName))")
        if isDelegated { lines.append("cgroup-parent own") }
        lines.append("ceiling memory \(ceilings.memoryBytes)")
        lines.append("ceiling cpu \(ceilings.cpuMilli)")
        lines.append("ceiling processes \(ceilings.processes)")
        lines.append("ceiling workers \(ceilings.workers)")
        lines.append("ceiling temporary \(ceilings.temporaryBytes)")
        lines.append("ceiling groups \(ceilings.groups)")
        lines.append("share-directory \(try Self.path(shareDirectory))")
        if let layerDirectory { lines.append("layer-directory \(try Self.path(layerDirectory))") }
        for runtime in runtimes { lines += try Self.block(runtime) }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func block(_ runtime: Runtime) throws(Failure) -> [String] {
        var lines = ["runtime \(try path(runtime.name)) {"]
        for (word, pairs) in [("mount", runtime.mounts), ("file", runtime.files), ("link", runtime.links)] {
            for pair in pairs { lines.append("    \(word) \(try path(pair.source)) \(try path(pair.target))") }
        }
        for argument in runtime.arguments { lines.append("    argument \(try line(argument))") }
        for entry in runtime.environment { lines.append("    environment \(try line(entry))") }
        lines.append("    filter \(try path(runtime.filter))")
        lines.append("    memory-floor \(runtime.memoryFloor)")
        return lines + ["}"]
    }

    private static func line(_ value: String) throws(Failure) -> String {
        guard !value.isEmpty, value.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7f }) else {
            throw .usage(
                "'\(escaped(value))' cannot stand in the spawner's policy because it is empty or holds a control character; rename it.")
        }
        return value
    }

    private static func path(_ value: String) throws(Failure) -> String {
        guard try line(value).unicodeScalars.allSatisfy({ !$0.properties.isWhitespace && $0 != "#" }) else {
            throw .usage("'\(escaped(value))' cannot stand in the spawner's policy because it holds a space or #; use a path without them.")
        }
        return value
    }

    /// The cgroup's name for a state directory: the same at each start, another one for another directory.
    ///
    /// FNV-1a, 32 bits (draft-eastlake-fnv, section 2): a name, not a secret.
    public static func cgroupName(stateDirectory: String) -> String {
        var hash: UInt32 = 2_166_136_261
        for byte in stateDirectory.utf8 { hash = (hash ^ UInt32(byte)) &* 16_777_619 }
        let digits = String(hash, radix: 16)
        return "bulkhead-" + String(repeating: "0", count: 8 - digits.count) + digits
    }
}
