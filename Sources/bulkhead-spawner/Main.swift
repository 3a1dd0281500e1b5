// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel
import SandboxKit
import Wire

@main struct Main {
    static func main() {
        let words = CommandLine.arguments.dropFirst()
        switch words.first {
        case "--policy" where words.count == 2: exit(serve(words.last ?? ""))
        // Of itself alone: what it executes in its own place, and what tries that before.
        case "--policy" where words.count == 4 && words.dropFirst(2).first == "--resume": exit(resume(words.last ?? ""))
        case "--probe-state" where words.count == 2: exit(probe(words.last ?? ""))
        case "--probe" where words.count <= 2:
            for line in HostProbe.run(folder: words.dropFirst().first ?? "/") {
                print("\(line.ability)\t\(line.isPresent ? "yes" : "no")\t\(line.isNeeded ? "needed" : "used")\t\(line.detail)")
            }
        case "--learn":
            do { exit(try Learning.run(Array(words.dropFirst()), say: say)) } catch { fail("\(error)") }
        case "--version" where words.count == 1: print("bulkhead-spawner 0.1.0 protocol \(spawnerProtocolVersion)")
        default: fail("usage: bulkhead-spawner --policy FILE | --probe [FOLDER] | \(Learning.usage) | --version", status: 2)
        }
    }

    private static func say(_ text: String) {
        let line = "bulkhead-spawner: \(text)\n"
        unsafe write(2, line, line.utf8.count)
    }

    private static func fail(_ text: String, status: Int32 = 1) -> Never {
        say(text)
        exit(status)
    }

    private static func serve(_ path: String) -> Int32 {
        guard geteuid() == 0 else { fail("must be started as root") }
        umask(0o022)
        guard unsafe chdir("/") == 0 else { fail("cannot enter /") }
        do {
            let policy = try SpawnerPolicy.load(path)
            let abilities = HostProbe.run(folder: policy.daemonDirectory)
            refuseHost(abilities)
            for ability in abilities where ability.ability == HostProbe.idmappedMounts && !ability.isPresent {
                say("no function with buckets will start here: \(ability.ability) (\(ability.detail))")
            }
            let lock = unsafe open(policy.stateDirectory + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            guard lock >= 0 else { fail("cannot open \(policy.stateDirectory)/lock: \(unsafe String(cString: strerror(errno)))") }
            guard ProcessControl.lockExclusively(lock) else {
                fail("another node runs on \(policy.stateDirectory): stop it, or choose another --state directory")
            }
            return try serve(policy, path, lock: lock)
        } catch {
            fail("\(error)")
        }
    }

    private static func refuseHost(_ abilities: [HostAbility]) {
        let missing = abilities.filter { $0.isNeeded && !$0.isPresent }
        guard !missing.isEmpty else { return }
        let list = missing.map { "\($0.ability) (\($0.detail))" }.joined(separator: "; ")
        fail("this host cannot give the seal: \(list). `bulkhead doctor` says more.")
    }

    /// A pending signal of an earlier program of this process waits for this one.
    private static func takeSignals() throws -> SignalFD { try SignalFD([SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR2]) }

    private static func makeHost(_ policy: SpawnerPolicy, isAtHome: Bool = false) throws -> SandboxHost {
        let scratch = policy.stateDirectory + "/mnt"
        if unsafe mkdir(scratch, 0o700) != 0, errno != EEXIST { fail("cannot make \(scratch)") }
        return try SandboxHost(
            scratchDirectory: scratch, shareDirectory: policy.shareDirectory, profiles: policy.runtimes, isAtHome: isAtHome)
    }

    private static func readState(_ word: String) throws -> (state: SpawnerState, policy: SpawnerPolicy) {
        guard let file = Int32(word), file > 2 else { fail("--resume and --probe-state are for the spawner itself", status: 2) }
        defer { close(file) }
        let bytes = try Replacement.read(file, limit: SpawnerState.limit)
        let state = try SpawnerState(decoding: bytes[...])
        let policy = try SpawnerPolicy(text: state.policy, path: "the policy in force")
        if let reason = state.objection(firstUID: policy.firstUID, uidCount: policy.uidCount) { fail(reason) }
        return (state, policy)
    }

    /// Whether this program could go on where a running one would stop: everything but the taking over itself, in a process that ends. Says so in one line.
    private static func probe(_ word: String) -> Int32 {
        guard geteuid() == 0 else { fail("must be started as root") }
        umask(0o022)
        do {
            let policy = try readState(word).policy
            refuseHost(HostProbe.run(folder: policy.daemonDirectory))
            _ = try makeHost(policy)
            let line = ProgramTrial.consent + "\n"
            return unsafe write(1, line, line.utf8.count) == line.utf8.count ? 0 : 1
        } catch { fail("\(error)") }
    }

    /// Goes on in the place of an earlier program of this process. Where that fails the process ends, and everything with it: that is what the probe is for.
    private static func resume(_ word: String) -> Int32 {
        umask(0o022)
        do {
            let (state, policy) = try readState(word)
            try Replacement.settle(state.descriptors)
            let signals = try takeSignals()
            guard let cgroups = CgroupTree(name: policy.cgroupName, below: state.cgroupParent) else {
                fail("no cgroup hierarchy is mounted")
            }
            let host = try makeHost(policy, isAtHome: true)
            ProcessControl.useShortSlices()
            try SandboxHost.reducePrivileges()
            let spawner = try Spawner(
                policy: policy,
                place: Spawner.Place(program: state.program, policy: state.policyPath, cgroupParent: state.cgroupParent, lock: state.lock),
                host: host, cgroups: cgroups, signals: signals, listeners: state.listeners.map { ($0.name, $0.descriptor) },
                address: state.address, manager: ServiceManager.current())
            try spawner.resume(state)
            ProcessControl.forgetCode()
            return spawner.run()
        } catch { fail("\(error)") }
    }

    private static func serve(_ policy: SpawnerPolicy, _ path: String, lock: Int32) throws -> Int32 {
        let signals = try takeSignals()
        guard var cgroups = CgroupTree(name: policy.cgroupName) else {
            fail("no cgroup hierarchy with memory, pids and cpu is mounted")
        }
        var parent = ""
        if policy.isDelegated, cgroups.kind == .v2, let mount = cgroups.unified {
            let own = try OwnCgroup.settle(mount: mount)
            parent = own
            cgroups = CgroupTree(name: policy.cgroupName, below: own) ?? cgroups
        }
        guard let program = Replacement.ownPath() else { fail("cannot read /proc/self/exe") }
        let manager = ServiceManager.current()
        var listeners: [(name: String, descriptor: Int32)] = []
        var address = ""
        for (name, wanted) in policy.listeners {
            if let given = manager.sockets.first(where: { $0.name == name }) {
                guard let text = Listeners.address(of: given.descriptor) else {
                    fail("the socket \(name) of the service manager does not listen on IPv4")
                }
                _ = fcntl(given.descriptor, F_SETFD, FD_CLOEXEC)
                listeners.append((name, given.descriptor))
                address = text
                continue
            }
            switch wanted {
            case .tcp(let host, let port):
                let made = try Listeners.tcp(host: host, port: port)
                listeners.append((name, made.descriptor))
                address = "\(host):\(made.port)"
            case .unix(let path): listeners.append((name, try Listeners.unix(path, owner: (policy.daemonUID, policy.daemonGID))))
            }
        }
        try cgroups.prepare()
        let host = try makeHost(policy)
        if cgroups.kind != .v2 { favourMoves(policy.stateDirectory + "/mnt") }
        ProcessControl.useShortSlices()
        try SandboxHost.reducePrivileges()
        let spawner = try Spawner(
            policy: policy, place: Spawner.Place(program: program, policy: path, cgroupParent: parent, lock: lock), host: host,
            cgroups: cgroups, signals: signals, listeners: listeners, address: address, manager: manager)
        ProcessControl.forgetCode()
        return spawner.run()
    }

    /// On v1 a process is moved into its cgroup, and a move after a pause waits 7-20 ms for a grace period of the kernel, unless some hierarchy favours moves. Ours does,
    /// a named one without controllers, mounted in our own mount namespace. Measured: 15 ms -> 0.06 ms. Without it starts are slower and nothing else changes.
    private static func favourMoves(_ scratch: String) {
        guard unsafe mount("bulkhead", scratch, "cgroup", 0, "none,name=bulkhead,favordynmods") != 0 else { return }
        say("starts will be slower: cgroup option favordynmods is not available")
    }
}
