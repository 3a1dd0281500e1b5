// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel
import Testing

@Suite struct ServiceManagerTests {
    private func manager(_ variables: [String: String]) -> ServiceManager { ServiceManager(process: 42) { variables[$0] } }

    /// A datagram socket at the path, as a service manager has one.
    private func receiver(_ name: String) throws -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = name.utf8.map { $0 == UInt8(ascii: "@") ? 0 : $0 }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        let length = socklen_t(2 + bytes.count)
        let isBound = unsafe withUnsafePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(descriptor, $0, length) == 0 }
        }
        try #require(isBound)
        return descriptor
    }

    @Test("what is said arrives in one datagram", arguments: ["/var/tmp/bulkhead-notify-", "@bulkhead-notify-"])
    func notify(prefix: String) throws {
        let name = prefix + "\(getpid())"
        let socket = try receiver(name)
        defer {
            close(socket)
            if name.hasPrefix("/") { unsafe unlink(name) }
        }
        #expect(manager(["NOTIFY_SOCKET": name]).notify(["READY=1", "STATUS=a\nMAINPID=1"]))
        var bytes = [UInt8](repeating: 0, count: 100)
        let count = unsafe recv(socket, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        let text = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
        #expect(text == "READY=1\nSTATUS=a MAINPID=1", "a line break adds no assignment")
    }

    @Test("without a manager nothing is said and nothing fails")
    func absent() {
        for variables in [[:], ["NOTIFY_SOCKET": ""], ["NOTIFY_SOCKET": "relative"], ["NOTIFY_SOCKET": "/var/tmp/bulkhead-nobody"]] {
            #expect(!manager(variables).notify(["READY=1"]))
        }
        #expect(!manager([:]).isPresent)
        #expect(manager(["NOTIFY_SOCKET": "/x"]).isPresent)
    }

    @Test("the watchdog counts for the process that it names alone")
    func watchdog() {
        #expect(manager([:]).watchdog == nil)
        #expect(manager(["WATCHDOG_USEC": "30000000"]).watchdog == 30_000_000_000)
        #expect(manager(["WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"]).watchdog == 30_000_000_000)
        #expect(manager(["WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"]).watchdog == nil)
        #expect(manager(["WATCHDOG_USEC": "0"]).watchdog == nil)
    }

    @Test("sockets come by name, to the process that they are for")
    func sockets() {
        let given = manager(["LISTEN_PID": "42", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "http:other"]).sockets
        #expect(given.map(\.name) == ["http", "other", "unknown"] && given.map(\.descriptor) == [3, 4, 5])
        #expect(manager(["LISTEN_PID": "41", "LISTEN_FDS": "1"]).sockets.isEmpty)
        #expect(manager(["LISTEN_FDS": "1"]).sockets.isEmpty)
        #expect(manager(["LISTEN_PID": "42", "LISTEN_FDS": "99"]).sockets.isEmpty)
    }

    @Test("the own cgroup is the one of version 2")
    func ownCgroup() {
        #expect(OwnCgroup.path("12:pids:/a\n0::/system.slice/bulkhead.service\n") == "/system.slice/bulkhead.service")
        #expect(OwnCgroup.path("12:pids:/a\n") == nil)
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"
        guard SmallFile.read("/sys/fs/cgroup/cgroup.controllers")?.contains("memory") == true else { return }
        let tree = CgroupTree(name: "bulkhead-t", below: "/system.slice/bulkhead.service", mounts: mounts)
        #expect(tree?.suffix("g1") == "/system.slice/bulkhead.service/bulkhead-t/g1")
    }

    @Test("a cgroup that nobody gave away is not settled in", .enabled(if: geteuid() == 0, "needs root"))
    func notDelegated() throws {
        let folder = "/var/tmp/bulkhead-no-cgroup-\(getpid())"
        unsafe mkdir(folder, 0o700)
        defer { _ = unsafe system("rm -rf \(folder)") }
        guard let own = OwnCgroup.path() else { return }
        #expect(unsafe system("mkdir -p '\(folder)\(own)'") == 0)
        let failure = #expect(throws: OwnCgroup.Failure.self) { try OwnCgroup.settle(mount: folder) }
        #expect(failure?.description.contains("Delegate=") == true)
    }
}
