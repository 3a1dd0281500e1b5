// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What `bulkhead up` does before the spawner takes its place: state, ids, configuration, policy.
public struct NodeStart: Sendable {
    /// The state directory as the user wrote it.
    public var state: String
    /// TCP port on 127.0.0.1; 0 takes any free one.
    public var port: UInt16
    /// The folder with `bulkhead.yaml` and `tenants.d/`.
    public var configuration: String?
    public var paths: NodePaths
    /// Whether it runs as the machine's own service, in the cgroup that its unit gave away.
    public var isService = false
    /// Whether nothing runs until an operator says so.
    public var isDrained = false

    /// The program that replaces this one, and what the operator should know.
    public struct Prepared: Sendable {
        public var arguments: [String]
        public var environment: [String]
        public var notes: [String]
    }

    /// Which uid and gid the daemon runs as, and which ids its workers get.
    public struct Identity: Hashable, Sendable {
        public var daemonUID: UInt32
        public var daemonGID: UInt32
        public var workers: IDRange
        public init(daemonUID: UInt32, daemonGID: UInt32, workers: IDRange) {
            self.daemonUID = daemonUID
            self.daemonGID = daemonGID
            self.workers = workers
        }
    }

    /// `sizeof(sun_path)` without the zero at its end.
    static let socketPathLimit = 107

    public init(state: String, port: UInt16, configuration: String?, paths: NodePaths) {
        self.state = state
        self.port = port
        self.configuration = configuration
        self.paths = paths
    }

    /// Prepares everything. Must be root.
    ///
    /// - Throws: ``Failure``, each with what happened, to what, and the way out.
    public func prepare() throws(Failure) -> Prepared {
        guard geteuid() == 0 else {
            throw .failed(
                "notRoot",
                "bulkhead up needs root, because it gives every worker a user id, a cgroup and namespaces of its own; "
                    + "run: sudo bulkhead up --state \(escaped(state))"
            )
        }
        let spawner = try paths.program("bulkhead-spawner", variable: "BULKHEAD_SPAWNER", isExecutable: isExecutableFile)
        let daemon = try resolved(try paths.program("bulkheadd", variable: "BULKHEAD_DAEMON", isExecutable: isExecutableFile))
        let share = try resolved(try paths.sandboxShare(exists: fileExists))
        let directory = try StateDirectory.open(absolute(state))
        let socket = isService ? NodePaths.systemSocket : directory.controlSocket
        guard socket.utf8.count <= Self.socketPathLimit else {
            throw .usage(
                "\(escaped(socket)) is too long for a socket (\(Self.socketPathLimit) bytes, unix(7)); "
                    + "choose a shorter --state DIR."
            )
        }
        let identity = try Self.identity(for: directory.path)
        try Self.checkReach([directory.path, daemon], identity)
        try directory.prepare(daemonUID: identity.daemonUID, daemonGID: identity.daemonGID)
        let read: String
        if let configuration, isService {
            // The daemon's group may read the original: a reload by any way finds the present files.
            read = try Self.folder(configuration)
            try directory.note(source: nil)
        } else if let configuration {
            read = try directory.copyConfiguration(
                from: try Self.folder(configuration), daemonUID: identity.daemonUID, daemonGID: identity.daemonGID)
        } else {
            // Does not exist until `bulkhead quota set` makes it; until then the daemon's defaults hold.
            read = ConfigurationFolder.embedded(state: directory.path)
            try directory.note(source: nil)
        }
        let (runtimes, missing) = HostInventory.probe(paths).runtimes(shareDirectory: share)
        let ceilings = Self.ceilings(
            meminfo: Self.text("/proc/meminfo"), processors: sysconf(Int32(_SC_NPROCESSORS_ONLN)),
            pidMax: Self.text("/proc/sys/kernel/pid_max"))
        var policy = policy(
            directory: directory.path, daemon: daemon, share: share, identity: identity, configuration: read, runtimes: runtimes,
            ceilings: ceilings)
        // The original: workers get the folders themselves, which the daemon need not be able to read.
        policy.layerDirectory =
            (try configuration.map { configuration throws(Failure) in try Self.folder(configuration) } ?? read) + "/layers"
        try directory.write(policy)
        // Last, as a start that was refused leaves no drain behind.
        if isDrained { try directory.markDrained() }
        return Prepared(
            arguments: [spawner, "--policy", directory.policyPath],
            environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"] + paths.serviceVariables, notes: missing.map(\.sentence))
    }

    /// The policy of a node; pure.
    public func policy(
        directory: String, daemon: String, share: String, identity: Identity, configuration: String?,
        runtimes: [SpawnerPolicy.Runtime], ceilings: SpawnerPolicy.Ceilings
    ) -> SpawnerPolicy {
        var environment = [
            "BULKHEAD_MODE=\(isService ? "service" : "up")", "BULKHEAD_STATE=\(directory)/data", "BULKHEAD_HTTP_PORT=\(port)",
            "BULKHEAD_RUNTIMES=\(runtimes.map(\.name).joined(separator: ","))", "BULKHEAD_MEMORY=\(ceilings.memoryBytes)",
            "BULKHEAD_TEMPORARY=\(ceilings.temporaryBytes)", "BULKHEAD_CPU=\(ceilings.cpuMilli)",
            "BULKHEAD_PROCESSES=\(ceilings.processes)", "LANG=C.UTF-8",
        ]
        if let configuration { environment.insert("BULKHEAD_CONFIG=\(configuration)", at: 2) }
        let socket = isService ? NodePaths.systemSocket : directory + "/run/control.sock"
        if let stream = paths.journalStream { environment.append("JOURNAL_STREAM=\(stream)") }
        if isService { environment.append("BULKHEAD_CONTROL=\(socket)") }
        var policy = SpawnerPolicy(
            daemonExecutable: daemon, daemonUID: identity.daemonUID, daemonGID: identity.daemonGID, daemonEnvironment: environment,
            stateDirectory: directory, codeDirectory: directory + "/data/code", bucketDirectory: directory + "/data/buckets",
            httpAddress: "127.0.0.1:\(port)", controlSocket: socket, uids: identity.workers,
            cgroupName: SpawnerPolicy.cgroupName(stateDirectory: directory), ceilings: ceilings, shareDirectory: share, runtimes: runtimes)
        policy.isDelegated = isService
        return policy
    }

    /// Ceilings from the machine: a tenth of the memory, 256 MiB at least, stays with the host.
    public static func ceilings(meminfo: String, processors: Int, pidMax: String) -> SpawnerPolicy.Ceilings {
        let line = meminfo.split(separator: "\n").first { $0.hasPrefix("MemTotal:") }
        let total = line.flatMap { UInt64($0.split(separator: " ").dropFirst().first ?? "") }.map { $0 << 10 } ?? 1 << 30
        let kept: UInt64 = max(256 << 20, total / 10)
        let memory = max(128 << 20, (total > kept ? total - kept : 0) & ~0xf_ffff)
        let pids = UInt32(pidMax.split(whereSeparator: \.isWhitespace).first ?? "") ?? 32768
        return SpawnerPolicy.Ceilings(
            memoryBytes: memory, cpuMilli: UInt32(max(1, min(processors, 1024))) * 1000, processes: min(32768, max(256, pids / 2)),
            workers: 1000, temporaryBytes: memory / 2, groups: 1000)
    }

    /// Chooses the ids, and remembers them for other nodes of this machine.
    static func identity(for state: String) throws(Failure) -> Identity {
        let accounts = text("/etc/passwd")
        let taken =
            TakenIDs.accounts(accounts) + TakenIDs.accounts(text("/etc/group"), fields: [2]) + TakenIDs.subordinate(text("/etc/subuid"))
            + TakenIDs.subordinate(text("/etc/subgid"))
        let range: IDRange?
        do {
            let folder = try Directory.open("/run")
            let lock = try FileLock.take("bulkhead-ids.lock", in: folder, waiting: true)
            let before = (try? folder.read("bulkhead-ids", limit: 1 << 20)) ?? []
            var registry = RangeRegistry(parsing: String(decoding: before, as: UTF8.self))
            range = registry.take(for: state, at: time(nil), taken: taken, isRunning: StateDirectory.isInUse)
            try folder.replace("bulkhead-ids", with: Array(registry.text.utf8), mode: 0o600)
            withExtendedLifetime(lock) {}
        } catch {
            throw .failed("ids", "The ids of this machine's nodes cannot be kept, \(error); make /run writable for root.")
        }
        guard let range else {
            throw .failed("ids", "No 4,096 consecutive user ids are free from 700,000 upwards; free some in /etc/subuid and /etc/subgid.")
        }
        if let account = daemonAccount(accounts) { return Identity(daemonUID: account.0, daemonGID: account.1, workers: range) }
        return Identity(daemonUID: range.first - 1, daemonGID: range.first - 1, workers: range)
    }

    /// uid and gid of the user `bulkhead`, if it exists. It is never root.
    static func daemonAccount(_ passwd: String) -> (UInt32, UInt32)? {
        for line in passwd.split(separator: "\n") {
            let parts = line.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count >= 4, parts[0] == "bulkhead", let uid = UInt32(parts[2]), let gid = UInt32(parts[3]), uid != 0, gid != 0
            else { continue }
            return (uid, gid)
        }
        return nil
    }

    /// The daemon opens these by their paths.
    private static func checkReach(_ targets: [String], _ identity: Identity) throws(Failure) {
        for target in targets {
            let parent = NodePaths.parent(of: target)
            guard let (folder, mode) = barrier(to: parent, uid: identity.daemonUID, gid: identity.daemonGID) else { continue }
            throw .failed(
                "unreachableFolder",
                "The daemon, which runs as user \(identity.daemonUID), cannot reach \(escaped(target)) because \(escaped(folder)) has mode "
                    + "\(String(mode, radix: 8)); run: chmod o+x \(escaped(folder)), or choose another place.")
        }
    }

    private static func folder(_ path: String) throws(Failure) -> String {
        do { return try canonical(absolute(path)) } catch {
            throw .failed("configuration", "The configuration cannot be read, \(error); check --config \(escaped(path)).")
        }
    }

    private func resolved(_ path: String) throws(Failure) -> String {
        do { return try canonical(path) } catch { throw .failed("installation", "\(error); reinstall.") }
    }

    static func text(_ path: String) -> String {
        String(decoding: (try? Directory.followingRead(path, limit: 16 << 20)) ?? [], as: UTF8.self)
    }
}
