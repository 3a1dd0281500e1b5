// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel
import Testing

@Suite struct KernelTests {
    @Test("descriptors travel with a message, and are others on arrival")
    func descriptors() throws {
        let pair = try SocketPair.messages().release()
        defer {
            close(pair.first)
            close(pair.second)
        }
        let pipe = try SocketPair.stream().release()
        try Datagram.send(pair.first, [1, 2, 3], descriptors: [pipe.first])
        let message = try #require(try Datagram.receive(pair.second, limit: 16, maximumDescriptors: 2))
        #expect(message.bytes == [1, 2, 3] && message.descriptors.count == 1)
        let arrived = try #require(message.descriptors.first)
        #expect(arrived != pipe.first && fcntl(arrived, F_GETFD) & FD_CLOEXEC != 0)
        for descriptor in [arrived, pipe.first, pipe.second] { close(descriptor) }
    }

    @Test("a message or a list that does not fit is refused, and nothing of it is kept")
    func tooLong() throws {
        let pair = try SocketPair.messages().release()
        defer {
            close(pair.first)
            close(pair.second)
        }
        // The stream ends for its other side only when no copy of this side is left: a received one that stayed open would keep it alive.
        let stream = try SocketPair.stream().release()
        defer { close(stream.second) }
        try Datagram.send(pair.first, Array(repeating: 0, count: 100), descriptors: [stream.first, stream.first])
        #expect(throws: KernelError.self) { try Datagram.receive(pair.second, limit: 200, maximumDescriptors: 1) }
        try Datagram.send(pair.first, Array(repeating: 0, count: 100), descriptors: [stream.first])
        #expect(throws: KernelError.self) { try Datagram.receive(pair.second, limit: 50, maximumDescriptors: 1) }
        close(stream.first)
        // Another test's child may hold a copy between its fork and its exec, hence the deadline.
        var waiting = pollfd(fd: stream.second, events: Int16(POLLIN), revents: 0)
        #expect(unsafe poll(&waiting, 1, 10_000) == 1, "a received descriptor was left open")
    }

    @Test("the end of the peer is the end")
    func end() throws {
        let pair = try SocketPair.messages().release()
        close(pair.first)
        #expect(try Datagram.receive(pair.second, limit: 16, maximumDescriptors: 0) == nil)
        close(pair.second)
    }

    /// A script that may be executed at once: another process writes it, for a child that another test forks meanwhile holds what this one has open, and what somebody may
    /// write is not executed (ETXTBSY, execve(2)).
    private static func write(_ script: String, to path: String) throws {
        try #require(unsafe system("cat > \(path) <<'END'\n\(script)END\nchmod 755 \(path)") == 0)
    }

    @Test(
        "the daemon has no capability, its own uid, and changes files below its own folder alone",
        .enabled(if: geteuid() == 0, "needs root"))
    func daemon() throws {
        let folder = "/var/tmp/bulkhead-kernel-test-\(getpid())"
        let own = folder + "/own"
        for path in [folder, own] { unsafe mkdir(path, 0o777) }
        for path in [folder, own] { unsafe chmod(path, 0o777) }
        defer { _ = unsafe system("rm -rf \(folder)") }
        let script =
            "#!/bin/sh\necho x > \(folder)/outside\ngrep -E 'CapEff|CapBnd|NoNewPrivs|^Uid|Groups' /proc/self/status > \(own)/status\nenv >> \(own)/status\necho x > /dev/null && echo null is open >> \(own)/status\n"
        try Self.write(script, to: folder + "/daemon")
        let pair = try SocketPair.messages().release()
        let pid = try ProcessControl.startDaemon(
            executable: folder + "/daemon", environment: ["ONLY=this"], uid: 65_533, gid: 65_533, control: pair.second, writable: own)
        var status: Int32 = 0
        unsafe waitpid(pid, &status, 0)
        close(pair.first)
        close(pair.second)
        let text = try #require(SmallFile.read(own + "/status"))
        #expect(text.contains("CapEff:\t0000000000000000") && text.contains("CapBnd:\t0000000000000000") && text.contains("NoNewPrivs:\t1"))
        #expect(text.contains("Uid:\t65533\t65533\t65533\t65533") && text.contains("ONLY=this") && !text.contains("HOME="))
        #expect(text.contains("null is open"), "a program that is started for an alarm has nowhere to write to")
        // Without Landlock the folder, which is everybody's here, would take the file.
        let hasLandlock = SmallFile.read("/sys/kernel/security/lsm")?.contains("landlock") ?? true
        #expect(SmallFile.read(folder + "/outside") == nil || !hasLandlock)
    }

    @Test("the hierarchies are told apart")
    func kinds() throws {
        #expect(CgroupTree(name: "bulkhead-t", mounts: "none / tmpfs rw 0 0\n") == nil)
        let v1 = ["memory", "pids", "cpu", "cpuacct"].map { "cgroup /c/\($0) cgroup rw,\($0) 0 0" }.joined(separator: "\n")
        #expect(try #require(CgroupTree(name: "bulkhead-t", mounts: v1)).kind == .v1)
        #expect(try #require(CgroupTree(name: "bulkhead-t", mounts: v1 + "\ncgroup2 /c/unified cgroup2 rw 0 0")).kind == .hybrid)
        #expect(
            CgroupTree(name: "bulkhead-t", mounts: v1.replacing("cgroup /c/pids cgroup rw,pids 0 0", with: "")) == nil, "no pids, no seal")
    }

    @Test("groups and leaves are made with their limits, nested, and removed", .enabled(if: geteuid() == 0, "needs root"))
    func cgroups() throws {
        let tree = try #require(CgroupTree(name: "bulkhead-kernel-test"), "this host has no cgroups with memory, pids and cpu")
        try tree.prepare()
        defer { tree.removeAll() }
        // What a lone service weighs is 1024 on v1 and 100 on v2: workers weigh a quarter of it together, and a group what another does.
        let isV2 = tree.kind == .v2
        let file = isV2 ? "cpu.weight" : "cpu.shares"
        let top = try #require(cpuDirectory(isV2)) + "/bulkhead-kernel-test"
        #expect(SmallFile.integer("\(top)/\(file)") == (isV2 ? 25 : 256))
        let limits = CgroupLimits(memoryBytes: 64 << 20, cpuMilli: 500, processes: 10)
        try tree.create("g1", limits: CgroupLimits(memoryBytes: 128 << 20, cpuMilli: 1000, processes: 20), isLeaf: false)
        try tree.create("g1/w-1", limits: limits, isLeaf: true)
        #expect(tree.limits("g1/w-1") == limits)
        #expect(SmallFile.integer("\(top)/g1/\(file)") == (isV2 ? 100 : 1024))
        let larger = CgroupLimits(memoryBytes: 96 << 20, cpuMilli: 700, processes: 15)
        try tree.setLimits("g1/w-1", larger, isLeaf: true)
        #expect(tree.limits("g1/w-1") == larger)
        try tree.setLimits("g1/w-1", limits, isLeaf: true)
        #expect(tree.limits("g1/w-1") == limits)
        #expect(tree.usage("g1/w-1").processes == 0)
        // A group that shrinks below its leaf takes the leaf along, and a leaf asks in vain for more than its group has.
        try tree.setLimits("g1", CgroupLimits(memoryBytes: 128 << 20, cpuMilli: 300, processes: 20), isLeaf: false)
        #expect(tree.limits("g1")?.cpuMilli == 300)
        try tree.setLimits("g1/w-1", CgroupLimits(memoryBytes: 64 << 20, cpuMilli: 900, processes: 10), isLeaf: true)
        if tree.kind != .v2 { #expect(tree.limits("g1/w-1")?.cpuMilli == 300) }
        #expect(!tree.remove("g1"), "a group with a leaf cannot go")
        #expect(tree.remove("g1/w-1") && tree.remove("g1"))
    }

    /// Where the controller of the processors is mounted.
    private func cpuDirectory(_ isV2: Bool) -> String? {
        for line in (SmallFile.read("/proc/self/mounts") ?? "").split(separator: "\n") {
            let fields = line.split(separator: " ")
            if isV2 ? fields[2] == "cgroup2" : fields[2] == "cgroup" && fields[3].split(separator: ",").contains("cpu") {
                return String(fields[1])
            }
        }
        return nil
    }

    /// The calling thread's slice in nanoseconds as the kernel has it, where it says so and lets it be chosen (Linux 6.12).
    static func slice() -> UInt64? {
        var system = utsname()
        unsafe uname(&system)
        let release = unsafe withUnsafeBytes(of: &system.release) { unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
        guard numbers.count == 2, (numbers[0], numbers[1]) >= (6, 12) else { return nil }
        return slice(in: SmallFile.read("/proc/thread-self/sched") ?? "")
    }
    static func slice(in text: String) -> UInt64? {
        text.split(separator: "\n").first { $0.hasPrefix("se.slice") }?.split(separator: " ").last.flatMap { UInt64($0) }
    }

    @Test(
        "short slices hold for who asks for them and for what it starts",
        .enabled(if: geteuid() == 0 && slice() != nil, "needs root and Linux 6.12"))
    func slices() throws {
        let folder = "/var/tmp/bulkhead-slice-test-\(getpid())"
        unsafe mkdir(folder, 0o777)
        unsafe chmod(folder, 0o777)
        defer { _ = unsafe system("rm -rf \(folder)") }
        let script = "#!/bin/sh\ncat /proc/$$/sched > \(folder)/sched\n"
        try Self.write(script, to: folder + "/daemon")
        #expect(ProcessControl.useShortSlices() && Self.slice() == 100_000)
        let pair = try SocketPair.messages().release()
        let pid = try ProcessControl.startDaemon(
            executable: folder + "/daemon", environment: [], uid: 65_533, gid: 65_533, control: pair.second, writable: folder)
        var status: Int32 = 0
        unsafe waitpid(pid, &status, 0)
        close(pair.first)
        close(pair.second)
        #expect(Self.slice(in: SmallFile.read(folder + "/sched") ?? "") == 100_000)
    }
}

@Suite struct HostAddressTests {
    @Test(
        "addresses of this host, of private networks, links and groups are not public, in whatever form",
        arguments: [
            "127.0.0.1", "0.0.0.0", "10.1.2.3", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "224.0.0.1",
            "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
            "2002:7f00:1::", "127.1", "0x7f000001", "2130706433",
        ])
    func notPublic(text: String) {
        let found = HostAddresses.resolve(text)
        #expect(!found.isEmpty && found.allSatisfy { !HostAddresses.isPublic($0) })
    }

    @Test("others are", arguments: ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"])
    func isPublic(text: String) {
        let found = HostAddresses.resolve(text)
        #expect(!found.isEmpty && found.allSatisfy { HostAddresses.isPublic($0) })
    }
}
