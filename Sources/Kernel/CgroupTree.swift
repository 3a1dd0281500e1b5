// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// Limits of one cgroup.
public struct CgroupLimits: Hashable, Sendable {
    public var memoryBytes: UInt64
    public var cpuMilli: UInt32
    public var processes: UInt32
    public init(memoryBytes: UInt64, cpuMilli: UInt32, processes: UInt32) {
        self.memoryBytes = memoryBytes
        self.cpuMilli = cpuMilli
        self.processes = processes
    }
}

/// What a cgroup has used.
public struct CgroupUsage: Hashable, Sendable {
    public var cpuMicroseconds: UInt64 = 0
    public var memoryBytes: UInt64 = 0
    /// The most since the beginning; 0 where the kernel does not keep it (v2 before Linux 5.19).
    public var peakMemoryBytes: UInt64 = 0
    public var processes: UInt32 = 0
    public var processLimitHits: UInt32 = 0
    public var oomKills: UInt64 = 0
}

/// A worker's cgroup before it has a worker: directories, limits and the descriptors that a start needs.
public struct CgroupLeaf: Sendable {
    public let path: String
    public var limits: CgroupLimits
    /// The directory to be born in (`CLONE_INTO_CGROUP`).
    public internal(set) var unified: Int32?
    /// `cgroup.procs` of the v1 hierarchies.
    public internal(set) var joins: [Int32] = []
    public internal(set) var outOfMemoryEvent: Int32?

    init(path: String, limits: CgroupLimits) {
        self.path = path
        self.limits = limits
    }

    /// Closes what only a start needs; the event belongs to the worker from then on.
    public mutating func closeEntrances() {
        for file in joins + (unified.map { [$0] } ?? []) { Glibc.close(file) }
        joins = []
        unified = nil
    }
    public mutating func close() {
        closeEntrances()
        if let event = outOfMemoryEvent { Glibc.close(event) }
        outOfMemoryEvent = nil
    }
}

/// Our own tree of cgroups, `top/group/leaf`, over v2 alone, over v1 controllers beside a v2 hierarchy that has none (hybrid), or over v1 alone. Nothing that a worker is sealed or
/// ended by needs v2: it is born in its cgroup there and joins it before it runs anything elsewhere, and it ends with its pid 1 everywhere.
///
/// cgroups(7); kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
public struct CgroupTree: Sendable {
    public enum Kind: String, Sendable { case v2, hybrid, v1 }

    public let kind: Kind
    /// The top directory in every hierarchy, from its root, without a slash before it.
    public let name: String
    /// Mount point of each controller that is used: `memory`, `pids`, `cpu`, `cpuacct`; for v2 all the same.
    let controllers: [(name: String, root: String)]
    /// Mount point of the v2 hierarchy, where there is one.
    public let unified: String?

    /// Finds the hierarchies in `/proc/self/mounts` (or the text given). Nil where a controller that the seal needs is missing.
    /// `parent` is where the top directory lies on v2, from the root of the hierarchy; at the root itself where it is empty.
    public init?(name: String, below parent: String = "", mounts: String? = nil) {
        guard let table = mounts ?? SmallFile.read("/proc/self/mounts") else { return nil }
        var found: [String: String] = [:]
        var unified: String?
        for line in table.split(separator: "\n") {
            let fields = line.split(separator: " ")
            guard fields.count >= 4 else { continue }
            if fields[2] == "cgroup2" { unified = unified ?? String(fields[1]) }
            if fields[2] == "cgroup" {
                for option in fields[3].split(separator: ",") { found[String(option)] = found[String(option)] ?? String(fields[1]) }
            }
        }
        self.unified = unified
        if let unified, let present = SmallFile.read(unified + "/cgroup.controllers")?.split(whereSeparator: \.isWhitespace),
            ["memory", "pids", "cpu"].allSatisfy({ present.contains(Substring($0)) })
        {
            kind = .v2
            controllers = []
            self.name = (parent + "/" + name).split(separator: "/").joined(separator: "/")
            return
        }
        self.name = name
        var list: [(name: String, root: String)] = []
        for controller in ["memory", "pids", "cpu", "cpuacct"] {
            guard let root = found[controller] else { return nil }
            list.append((controller, root))
        }
        controllers = list
        kind = unified == nil ? .v1 : .hybrid
    }

    /// Every directory that one path stands for.
    private func directories(_ path: String) -> [String] {
        var roots: [String] = []
        for root in controllers.map(\.root) + [unified].compactMap({ $0 }) where !roots.contains(root) { roots.append(root) }
        return roots.map { "\($0)/\(name)\(path.isEmpty ? "" : "/" + path)" }
    }
    private func directory(_ controller: String, _ path: String) -> String {
        let root = kind == .v2 ? unified ?? "" : controllers.first { $0.name == controller }?.root ?? ""
        return "\(root)/\(name)/\(path)"
    }

    /// How many lines of `/proc/<pid>/cgroup` name the worker's own cgroup.
    public var membershipLines: Int { directories("").count }
    /// How those lines end.
    public func suffix(_ path: String) -> String { "/\(name)/\(path)" }

    // MARK: life

    /// What all workers together weigh against one other service of the machine, the daemon for one, where processors are short; 1 is an equal share. Below it, so that
    /// a call is taken and answered while workers compute. Groups weigh the same among each other, however many processes they have.
    public static let share = 0.25

    /// 1024 stands for an equal share on v1, 100 on v2.
    private func setShare() throws(KernelError) {
        if kind == .v2 {
            try SmallFile.write(directory("", "") + "cpu.weight", "\(Int(Self.share * 100))")
        } else {
            try SmallFile.write(directory("cpu", "") + "cpu.shares", "\(Int(Self.share * 1024))")
        }
    }

    /// Creates the top directory; what an earlier run left below it is killed and removed first.
    public func prepare() throws(KernelError) {
        if kind == .v2, let unified {
            // A controller reaches our directory only through its parent's list.
            let list = unified + "/" + name.split(separator: "/").dropLast().joined(separator: "/") + "/cgroup.subtree_control"
            let enabled = (SmallFile.read(list) ?? "").split(whereSeparator: \.isWhitespace)
            for controller in ["memory", "pids", "cpu"] where !enabled.contains(Substring(controller)) {
                try SmallFile.write(list, "+\(controller)")
            }
        }
        for top in directories("") {
            Self.removeTree(top)
            if unsafe mkdir(top, 0o755) != 0, errno != EEXIST { throw KernelError("make the cgroup \(top)") }
            if kind == .v2 { try SmallFile.write(top + "/cgroup.subtree_control", "+memory +pids +cpu") }
        }
        try setShare()
    }

    /// Removes everything, killing what still lives in it.
    public func removeAll() { for top in directories("") { Self.removeTree(top) } }

    private static func removeTree(_ top: String) {
        for attempt in 0..<200 {
            let list = subdirectories(top)
            for path in list.reversed() + [top] {
                for line in (SmallFile.read(path + "/cgroup.procs") ?? "").split(separator: "\n") {
                    if let pid = Int32(line), pid > 1, pid != getpid() { kill(pid, SIGKILL) }
                }
                unsafe rmdir(path)
            }
            guard unsafe access(top, F_OK) == 0 else { return }
            if attempt > 2 { usleep(5_000) }
        }
    }

    private static func subdirectories(_ path: String) -> [String] {
        guard let stream = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(stream) }
        var out: [String] = []
        while let entry = unsafe readdir(stream) {
            let type = unsafe entry.pointee.d_type
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            guard type == UInt8(DT_DIR), name != ".", name != ".." else { continue }
            out.append(path + "/" + name)
            out.append(contentsOf: subdirectories(path + "/" + name))
        }
        return out
    }

    /// Creates a group or a leaf (`g1`, `g1/w-2`) with its limits; existing ones get the limits.
    public func create(_ path: String, limits: CgroupLimits, isLeaf: Bool) throws(KernelError) {
        for directory in directories(path) where unsafe mkdir(directory, 0o755) != 0 && errno != EEXIST {
            let error = KernelError("make the cgroup \(directory)")
            remove(path)
            throw error
        }
        if kind == .v2, !isLeaf { try SmallFile.write(directory("", path) + "/cgroup.subtree_control", "+memory +pids +cpu") }
        try setLimits(path, limits, isLeaf: isLeaf)
    }

    /// `present` are the limits that the cgroup is known to have: only what differs is written.
    public func setLimits(_ path: String, _ limits: CgroupLimits, isLeaf: Bool, present: CgroupLimits? = nil) throws(KernelError) {
        let quota = UInt64(limits.cpuMilli) * 100
        if kind == .v2 {
            let at = directory("", path)
            if limits.memoryBytes != present?.memoryBytes { try SmallFile.write(at + "/memory.max", "\(limits.memoryBytes)") }
            if limits.processes != present?.processes { try SmallFile.write(at + "/pids.max", "\(limits.processes)") }
            if limits.cpuMilli != present?.cpuMilli { try SmallFile.write(at + "/cpu.max", "\(quota) 100000") }
            guard present == nil else { return }
            // Without CONFIG_SWAP the file does not exist, and there is nothing to forbid.
            if unsafe access(at + "/memory.swap.max", F_OK) == 0 { try SmallFile.write(at + "/memory.swap.max", "0") }
            if isLeaf {
                try SmallFile.write(at + "/memory.oom.group", "1")
                try SmallFile.write(at + "/cgroup.max.descendants", "0")
            }
            return
        }
        if limits.memoryBytes != present?.memoryBytes { try setMemory(path, limits.memoryBytes) }
        if limits.processes != present?.processes { try SmallFile.write(directory("pids", path) + "/pids.max", "\(limits.processes)") }
        if limits.cpuMilli != present?.cpuMilli { try setQuota(path, quota, isLeaf: isLeaf) }
    }

    private func setMemory(_ path: String, _ bytes: UInt64) throws(KernelError) {
        let memory = directory("memory", path)
        // The plain limit must never exceed the one with swap, so a rise and a fall need different orders.
        let withSwap = unsafe access(memory + "/memory.memsw.limit_in_bytes", F_OK) == 0
        let isRise = withSwap && bytes > SmallFile.integer(memory + "/memory.limit_in_bytes") ?? .max
        if isRise { try SmallFile.write(memory + "/memory.memsw.limit_in_bytes", "\(bytes)") }
        try SmallFile.write(memory + "/memory.limit_in_bytes", "\(bytes)")
        if withSwap, !isRise { try SmallFile.write(memory + "/memory.memsw.limit_in_bytes", "\(bytes)") }
    }

    /// On v1 a child's quota must not exceed its parent's: a leaf takes at most its group's, and leaves of a group that shrinks shrink first.
    private func setQuota(_ path: String, _ quota: UInt64, isLeaf: Bool) throws(KernelError) {
        let directory = directory("cpu", path)
        if isLeaf, let slash = path.lastIndex(of: "/") {
            let group = SmallFile.integer(self.directory("cpu", String(path[..<slash])) + "/cpu.cfs_quota_us") ?? quota
            return try SmallFile.write(directory + "/cpu.cfs_quota_us", "\(min(quota, group))")
        }
        for leaf in Self.subdirectories(directory) where SmallFile.integer(leaf + "/cpu.cfs_quota_us") ?? 0 > quota {
            try SmallFile.write(leaf + "/cpu.cfs_quota_us", "\(quota)")
        }
        try SmallFile.write(directory + "/cpu.cfs_quota_us", "\(quota)")
    }

    /// Removes a leaf or group in every hierarchy; false while one is still busy (the caller tries again later).
    @discardableResult public func remove(_ path: String) -> Bool {
        var isGone = true
        for directory in directories(path) where unsafe rmdir(directory) != 0 && errno != ENOENT { isGone = false }
        return isGone
    }

    // MARK: a leaf's processes

    /// A new leaf with everything open that a start needs.
    public func makeLeaf(_ path: String, limits: CgroupLimits) throws(KernelError) -> CgroupLeaf {
        try create(path, limits: limits, isLeaf: true)
        var leaf = CgroupLeaf(path: path, limits: limits)
        do throws(KernelError) {
            leaf.unified = try openUnified(path)
            leaf.joins = try openJoins(path)
        } catch {
            leaf.close()
            remove(path)
            throw error
        }
        leaf.outOfMemoryEvent = openOutOfMemoryEvent(path)
        return leaf
    }

    /// The directory to be born in (`CLONE_INTO_CGROUP`), where a v2 hierarchy exists.
    public func openUnified(_ path: String) throws(KernelError) -> Int32? {
        guard let unified else { return nil }
        let file = unsafe open("\(unified)/\(name)/\(path)", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard file >= 0 else { throw KernelError("open the cgroup \(path)") }
        return file
    }

    /// `cgroup.procs` of the v1 hierarchies, open for writing.
    public func openJoins(_ path: String) throws(KernelError) -> [Int32] {
        guard kind != .v2 else { return [] }
        var files: [Int32] = []
        for entry in controllers {
            let file = unsafe open("\(entry.root)/\(name)/\(path)/cgroup.procs", O_WRONLY | O_CLOEXEC)
            guard file >= 0 else {
                let error = KernelError("open cgroup.procs of \(path)")
                for file in files { close(file) }
                throw error
            }
            files.append(file)
        }
        return files
    }

    /// An event descriptor that fires when the leaf runs out of memory; nil on v2, where `memory.oom.group` ends the whole worker by itself.
    public func openOutOfMemoryEvent(_ path: String) -> Int32? {
        guard kind != .v2 else { return nil }
        let directory = directory("memory", path)
        let event = ck_event_make()
        let control = unsafe open(directory + "/memory.oom_control", O_RDONLY | O_CLOEXEC)
        defer { if control >= 0 { close(control) } }
        do throws(KernelError) {
            guard event >= 0, control >= 0 else { throw KernelError("watch \(directory)") }
            try SmallFile.write(directory + "/cgroup.event_control", "\(event) \(control)")
            return event
        } catch {
            if event >= 0 { close(event) }
            return nil
        }
    }

    public func usage(_ path: String) -> CgroupUsage {
        var usage = CgroupUsage()
        let pids = directory("pids", path)
        usage.processes = UInt32(clamping: SmallFile.integer(pids + "/pids.current") ?? 0)
        usage.processLimitHits = UInt32(clamping: SmallFile.keyed(pids + "/pids.events", "max") ?? 0)
        if kind == .v2 {
            let at = directory("", path)
            usage.cpuMicroseconds = SmallFile.keyed(at + "/cpu.stat", "usage_usec") ?? 0
            usage.memoryBytes = SmallFile.integer(at + "/memory.current") ?? 0
            usage.peakMemoryBytes = SmallFile.integer(at + "/memory.peak") ?? 0
            usage.oomKills = SmallFile.keyed(at + "/memory.events", "oom_kill") ?? 0
        } else {
            let memory = directory("memory", path)
            usage.cpuMicroseconds = (SmallFile.integer(directory("cpuacct", path) + "/cpuacct.usage") ?? 0) / 1000
            usage.memoryBytes = SmallFile.integer(memory + "/memory.usage_in_bytes") ?? 0
            usage.peakMemoryBytes = SmallFile.integer(memory + "/memory.max_usage_in_bytes") ?? 0
            usage.oomKills = SmallFile.keyed(memory + "/memory.oom_control", "oom_kill") ?? 0
        }
        return usage
    }

    /// The limits as the kernel has them, for a posture check.
    public func limits(_ path: String) -> CgroupLimits? {
        let pids = SmallFile.integer(directory("pids", path) + "/pids.max") ?? 0
        if kind == .v2 {
            let at = directory("", path)
            let quota = SmallFile.integer(at + "/cpu.max") ?? 0
            guard let memory = SmallFile.integer(at + "/memory.max") else { return nil }
            return CgroupLimits(memoryBytes: memory, cpuMilli: UInt32(clamping: quota / 100), processes: UInt32(clamping: pids))
        }
        guard let memory = SmallFile.integer(directory("memory", path) + "/memory.limit_in_bytes") else { return nil }
        let quota = SmallFile.integer(directory("cpu", path) + "/cpu.cfs_quota_us") ?? 0
        return CgroupLimits(memoryBytes: memory, cpuMilli: UInt32(clamping: quota / 100), processes: UInt32(clamping: pids))
    }
}
