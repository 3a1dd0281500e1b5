import CSandbox
// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel

/// Everything that starts share, prepared once: a mount namespace for each runtime, compiled filters, `/dev/null`. For a single-threaded process only: it moves the
/// process between mount namespaces.
@safe public final class SandboxHost {
    private let profiles: [String: RuntimeProfile]
    private let home: Int32
    private var roots: [String: Int32] = [:]
    private var filters: [String: sbx_filter] = unsafe [:]
    private var reaperFilter: sbx_filter
    private let landlock: Int32
    private let null: Int32
    private let sysctl: Int32
    private let homeNetwork: Int32
    /// Network namespaces made ahead, each given to one worker once.
    private var networks: [Int32] = []
    private var channels: [Channels] = []
    /// How many of both are kept ready.
    private var reserve = 8
    private let learns: Bool

    /// `scratch` is an empty directory that only root can reach. Throws where a step fails; the process is then of no use as a spawner.
    /// - Parameters:
    ///   - isAtHome: an earlier program of this process has made the process's own mount namespace, and its workers live with it.
    ///   - learns: filters refuse nothing, and every start reports what they would have refused (``LearnedCall``). Never where tenants' code runs.
    public init(
        scratchDirectory scratch: String, shareDirectory: String, profiles list: [RuntimeProfile], isAtHome: Bool = false,
        learns: Bool = false
    ) throws(SandboxFailure) {
        self.learns = learns
        profiles = Dictionary(list.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        var handle: Int32 = -1
        let error = unsafe sbx_namespace_home(isAtHome ? 1 : 0, &handle)
        guard error == 0 else { throw SandboxFailure("make an own mount namespace", errno: error) }
        home = handle
        let networkError = unsafe sbx_network_home(&handle)
        guard networkError == 0 else { throw SandboxFailure("open the own network namespace", errno: networkError) }
        homeNetwork = handle
        landlock = sbx_landlock_abi()
        null = unsafe open("/dev/null", O_RDONLY | O_CLOEXEC)
        guard null >= 0 else { throw SandboxFailure("open /dev/null", errno: errno) }
        let sysctlError = unsafe sbx_sysctl_open(&handle)
        guard sysctlError == 0 else { throw SandboxFailure("open /proc/sys", errno: sysctlError) }
        sysctl = handle
        unsafe reaperFilter = unsafe sbx_filter()
        let reaper = unsafe sbx_reaper_filter(&reaperFilter)
        guard reaper == 0 else { throw SandboxFailure("compile the reaper's filter", errno: reaper) }
        for name in Set(list.map(\.filter)).sorted() {
            let path = "\(shareDirectory)/policy/\(name).json"
            guard let bytes = readFile(path) else { throw SandboxFailure("read \(path)", errno: errno) }
            do throws(PolicyError) {
                let policy = try FilterPolicy(json: bytes)
                for (suffix, network) in [("", false), ("+network", true)] {
                    var filter = unsafe try Self.compile(policy, network: network)
                    if learns { unsafe sbx_filter_learn(&filter) }
                    unsafe filters[name + suffix] = filter
                }
            } catch {
                throw SandboxFailure("\(path): \(error)", errno: EINVAL)
            }
        }
        for profile in list {
            defer { _ = sbx_namespace_enter(home) }
            roots[profile.name] = try RootBuilder(scratch: scratch).build(profile)
        }
    }

    private static func compile(_ policy: FilterPolicy, network: Bool) throws(PolicyError) -> sbx_filter {
        do throws(SandboxFailure) { return unsafe try policy.compiled(network: network) } catch { throw PolicyError(error.description) }
    }

    /// The names that ``SandboxSpec/runtime`` may have.
    public var runtimes: [String] { profiles.keys.sorted() }
    public func profile(_ name: String) -> RuntimeProfile? { profiles[name] }

    // MARK: starting

    public var isReserveFull: Bool { networks.count >= reserve }
    /// Whether the next starts would have to make their own.
    public var isReserveLow: Bool { networks.count < min(2, reserve) }

    /// Makes ahead of need what a start takes most time for: one network namespace (a third of it), one set of sockets and pipes. Where that fails the reserve
    /// shrinks; a start then makes its own, or says why not.
    public func fillReserve() {
        var handle: Int32 = -1
        guard let channel = try? Channels(), unsafe sbx_network_make(homeNetwork, &handle) == 0 else {
            reserve = networks.count
            return
        }
        channels.append(channel)
        networks.append(handle)
    }

    /// Starts a worker; stages 1-8 are done when it returns, the rest happens in the worker and comes as a report.
    public func launch(_ spec: SandboxSpec) throws(SandboxFailure) -> Launched {
        guard let profile = profiles[spec.runtime], let root = roots[spec.runtime],
            let filter = unsafe filters[profile.filter + (spec.network ? "+network" : "")]
        else { throw SandboxFailure("runtime \(spec.runtime)", errno: ENOENT) }
        let buckets = try BucketMounts(spec.buckets, for: spec.id, failStage: spec.failStage)
        let layers = try LayerMounts(spec.layers, failStage: spec.failStage)
        let ends = if let ready = channels.popLast() { ready } else { try Channels() }
        let report = Ends(ends.report)
        let control = Ends(ends.control)
        let out = Pipe(ends.out)
        let err = Pipe(ends.err)
        var code: Int32 = -1
        if let directory = spec.code {
            let error = unsafe sbx_open_code(directory, &code)
            if error != 0 { throw SandboxFailure("open the code", errno: error) }
        }
        // One with loopback must belong to the worker's user namespace, so that the worker can bring it up.
        let network = spec.network ? nil : networks.popLast()
        defer { for file in [code, network ?? -1] where file >= 0 { close(file) } }

        var plan = unsafe sbx_plan()
        unsafe plan.host_id = spec.id
        unsafe plan.network = spec.network ? 1 : 0
        unsafe plan.namespace_fd = root
        unsafe plan.home_namespace_fd = home
        unsafe plan.sysctl_fd = sysctl
        unsafe plan.network_fd = network ?? -1
        unsafe plan.home_network_fd = homeNetwork
        unsafe plan.cgroup_fd = spec.cgroup ?? -1
        unsafe plan.code_fd = code
        // A worker that waits for its code may be given buckets with it.
        unsafe plan.bucket_folder_fd = spec.code == nil || buckets.count > 0 ? try buckets.folder(failStage: spec.failStage) : -1
        unsafe plan.buckets = unsafe UnsafePointer(buckets.list)
        unsafe plan.bucket_count = buckets.count
        unsafe plan.layer_folder_fd = layers.folder
        unsafe plan.layers = unsafe UnsafePointer(layers.list)
        unsafe plan.layer_count = layers.count
        unsafe plan.temporary_bytes = spec.limits.temporaryBytes
        unsafe plan.temporary_inodes = 16_384
        unsafe plan.null_fd = null
        unsafe plan.stdout_fd = out.write.rawValue
        unsafe plan.stderr_fd = err.write.rawValue
        unsafe plan.control_fd = control.theirs.rawValue
        unsafe plan.report_fd = report.theirs.rawValue
        unsafe plan.parent_report_fd = report.ours.rawValue
        unsafe plan.filter = filter
        unsafe plan.reaper_filter = reaperFilter
        unsafe plan.oom_score = 500
        unsafe plan.landlock_abi = landlock
        unsafe plan.wait_for_order = spec.waitsForOrder ? 1 : 0
        unsafe plan.learns = learns ? 1 : 0
        unsafe plan.fail_stage = spec.failStage
        let arguments = CStringArray(profile.arguments.isEmpty ? spec.command : profile.arguments)
        let environment = CStringArray(profile.environment + (spec.network ? Self.egressEnvironment : []))
        unsafe plan.arguments = unsafe UnsafePointer(arguments.pointer)
        unsafe plan.environment = unsafe UnsafePointer(environment.pointer)
        guard spec.waitsForOrder || !arguments.isEmpty else { throw SandboxFailure("a command for \(spec.runtime)", errno: EINVAL) }

        let limits = Self.fixedLimits() + Self.resourceLimits(spec.processLimits)
        let started = unsafe limits.withUnsafeBufferPointer { limits in
            unsafe spec.joins.withUnsafeBufferPointer { joins in
                unsafe spec.cgroupSuffix.withCString { suffix in
                    unsafe plan.limits = limits.baseAddress
                    unsafe plan.limit_count = limits.count
                    unsafe plan.join_fds = joins.baseAddress
                    unsafe plan.join_count = joins.count
                    unsafe plan.cgroup_suffix = spec.cgroupLines > 0 ? suffix : nil
                    unsafe plan.cgroup_lines = spec.cgroupLines
                    return unsafe sbx_spawn(&plan)
                }
            }
        }
        withExtendedLifetime((arguments, environment, buckets, layers)) {}
        guard started.failed_stage == 0 else { throw SandboxFailure(stage: started.failed_stage, errno: started.error) }
        return Launched(
            pid: started.pid, pidfd: OwnedFD(started.pidfd), report: report.takeOurs(), control: control.takeOurs(),
            stdout: out.takeRead(), stderr: err.takeRead(), egress: started.egress_fd >= 0 ? OwnedFD(started.egress_fd) : nil)
    }

    /// Mounts code, buckets and layers into a waiting worker from outside, gives its `/tmp` the function's size, where that is another one, and lowers its resource limits to
    /// the function's. `id` is the worker's host id.
    public func assign(
        pid: Int32, id: UInt32, code: Int32?, temporaryBytes: UInt64?, buckets grants: Buckets?, layers granted: Layers? = nil,
        limits: ProcessLimits, failStage: UInt32 = 0
    ) throws(SandboxFailure) {
        let buckets = try BucketMounts(grants, for: id, failStage: failStage)
        let layers = try LayerMounts(granted, failStage: failStage)
        var tree: Int32 = -1
        if let code {
            let error = unsafe sbx_open_code(code, &tree)
            if error != 0 { throw SandboxFailure("open the code", errno: error) }
        }
        defer { if tree >= 0 { close(tree) } }
        let lowered = Self.resourceLimits(limits)
        let stage = unsafe lowered.withUnsafeBufferPointer { lowered in
            var what = unsafe sbx_assignment(
                code_fd: tree, temporary_bytes: temporaryBytes ?? 0, buckets: buckets.list, bucket_count: buckets.count,
                layer_folder_fd: layers.folder, layers: layers.list, layer_count: layers.count, limits: lowered.baseAddress,
                limit_count: lowered.count)
            return unsafe sbx_assign(home, pid, &what, failStage)
        }
        if stage != 0 { throw SandboxFailure(stage: stage, errno: errno) }
        withExtendedLifetime((buckets, layers)) {}
    }

    /// Tells a sealed worker what to execute. `report` is the worker's report socket.
    public func order(_ report: Int32, runtime: String, command: [String]) throws(SandboxFailure) {
        guard let profile = profiles[runtime] else { throw SandboxFailure("runtime \(runtime)", errno: ENOENT) }
        let arguments = profile.arguments.isEmpty ? command : profile.arguments
        var bytes: [UInt8] = []
        for count in [UInt32(arguments.count), UInt32(profile.environment.count)] {
            for shift in [0, 8, 16, 24] { bytes.append(UInt8(truncatingIfNeeded: count >> UInt32(shift))) }
        }
        for word in arguments + profile.environment {
            bytes.append(contentsOf: word.utf8)
            bytes.append(0)
        }
        guard !arguments.isEmpty, bytes.count <= Int(SBX_ORDER_LIMIT) else { throw SandboxFailure("the order to execute", errno: E2BIG) }
        guard unsafe send(report, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw SandboxFailure("send the order to execute", errno: errno)
        }
    }

    /// Never RLIMIT_AS: it breaks runtimes that reserve address space. CORE 1 instead of 0: a pipe as core handler starts only for a limit of 0 or above 1. core(5).
    private static func fixedLimits() -> [sbx_limit] {
        let fixed: [(Int32, UInt64)] = [
            (Int32(RLIMIT_CORE.rawValue), 1), (Int32(__RLIMIT_MEMLOCK.rawValue), 64 << 10), (Int32(__RLIMIT_MSGQUEUE.rawValue), 0),
            (Int32(__RLIMIT_SIGPENDING.rawValue), 256), (Int32(__RLIMIT_RTPRIO.rawValue), 0), (Int32(__RLIMIT_NICE.rawValue), 0),
            (Int32(RLIMIT_STACK.rawValue), 8 << 20),
        ]
        return fixed.map { sbx_limit(resource: $0.0, value: $0.1) }
    }

    private static func resourceLimits(_ limits: ProcessLimits) -> [sbx_limit] {
        [
            sbx_limit(resource: Int32(RLIMIT_NOFILE.rawValue), value: UInt64(limits.openFiles)),
            sbx_limit(resource: Int32(__RLIMIT_NPROC.rawValue), value: UInt64(limits.processes)),
            sbx_limit(resource: Int32(RLIMIT_FSIZE.rawValue), value: limits.fileBytes),
        ]
    }

    /// How HTTP clients are told of the way out. Upper case only where lower case is not read: `HTTP_PROXY` can come from a request's header in CGI programs.
    private static let egressEnvironment: [String] = {
        let address = "http://127.0.0.1:\(SBX_EGRESS_PORT)"
        return [
            "http_proxy=\(address)", "https_proxy=\(address)", "HTTPS_PROXY=\(address)", "no_proxy=localhost,127.0.0.1,::1",
            "NODE_USE_ENV_PROXY=1",
        ]
    }()

    // MARK: descriptors

    struct Ends: ~Copyable {
        let ours: OwnedFD
        let theirs: OwnedFD
        init(_ numbers: (Int32, Int32)) {
            ours = OwnedFD(numbers.0)
            theirs = OwnedFD(numbers.1)
        }
        consuming func takeOurs() -> OwnedFD { ours }
    }
    struct Pipe: ~Copyable {
        let read: OwnedFD
        let write: OwnedFD
        init(_ numbers: (Int32, Int32)) {
            read = OwnedFD(numbers.0)
            write = OwnedFD(numbers.1)
        }
        consuming func takeRead() -> OwnedFD { read }
    }

    /// A worker's sockets and pipes, as numbers: a reserve of them is kept open, and each is owned as soon as it is taken.
    struct Channels {
        var report: (Int32, Int32) = (-1, -1)
        var control: (Int32, Int32) = (-1, -1)
        var out: (Int32, Int32) = (-1, -1)
        var err: (Int32, Int32) = (-1, -1)

        init() throws(SandboxFailure) {
            do throws(SandboxFailure) {
                report = try Self.pair(SOCK_SEQPACKET)
                control = try Self.pair(SOCK_STREAM)
                out = try Self.pipe()
                err = try Self.pipe()
            } catch {
                for (first, second) in [report, control, out, err] where first >= 0 {
                    close(first)
                    close(second)
                }
                throw error
            }
        }

        private static func pair(_ type: __socket_type) throws(SandboxFailure) -> (Int32, Int32) {
            var numbers: [Int32] = [-1, -1]
            guard unsafe socketpair(AF_UNIX, Int32(type.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &numbers) == 0 else {
                throw SandboxFailure("make a socket pair", errno: errno)
            }
            return (numbers[0], numbers[1])
        }
        private static func pipe() throws(SandboxFailure) -> (Int32, Int32) {
            var numbers: [Int32] = [-1, -1]
            guard unsafe sbx_pipe(&numbers) == 0 else { throw SandboxFailure("make a pipe", errno: errno) }
            return (numbers[0], numbers[1])
        }
    }
}

/// NULL-terminated C strings, freed with the value.
@safe final class CStringArray {
    private(set) var pointer: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
    private let count: Int
    var isEmpty: Bool { count == 0 }

    init(_ words: [String]) {
        count = words.count
        unsafe pointer = .allocate(capacity: words.count + 1)
        for (index, word) in words.enumerated() { unsafe pointer[index] = unsafe strdup(word) }
        unsafe pointer[words.count] = nil
    }

    deinit {
        for index in 0..<count { unsafe free(pointer[index]) }
        unsafe pointer.deallocate()
    }
}

/// A file's bytes, at most 4 MiB; nil with errno set where it cannot be read.
func readFile(_ path: String) -> [UInt8]? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16 << 10)
    while bytes.count < 4 << 20 {
        let count = unsafe read(file, &chunk, chunk.count)
        guard count >= 0 else { return nil }
        if count == 0 { break }
        bytes.append(contentsOf: chunk[0..<count])
    }
    return bytes
}
