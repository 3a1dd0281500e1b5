// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Testing

@testable import CommandKit

@Suite struct SpawnerPolicyTests {
    static let host = HostInventory(
        python: .init(executable: "/usr/bin/python3"), node: .init(executable: "/opt/node/bin/node", prefix: "/opt/node"),
        bsdtar: "/usr/bin/bsdtar", rootEntries: [.init("/bin", link: "usr/bin"), .init("/lib64", link: nil)],
        trees: ["/etc/ssl/certs"], files: ["/etc/ld.so.cache"])
    static let ceilings = SpawnerPolicy.Ceilings(
        memoryBytes: 1 << 30, cpuMilli: 2000, processes: 4096, workers: 1000, temporaryBytes: 1 << 29, groups: 1000)

    static func policy(_ runtimes: [SpawnerPolicy.Runtime]) -> SpawnerPolicy {
        let paths = NodePaths(executableFolder: "/usr/bin", environment: [:])
        return NodeStart(state: "/srv/node", port: 8080, configuration: nil, paths: paths).policy(
            directory: "/srv/node", daemon: "/usr/bin/bulkheadd", share: "/usr/share/bulkhead",
            identity: .init(daemonUID: 699_999, daemonGID: 699_999, workers: IDRange(first: 700_000, count: 4096)),
            configuration: "/srv/node/data/config", runtimes: runtimes, ceilings: ceilings)
    }

    @Test func goldenHead() throws {
        #expect(
            try Self.policy([SpawnerPolicy.Runtime(name: "native")]).rendered() == """
                # The spawner's policy, written by `bulkhead up`; changes are lost at the next start.
                version 1
                daemon-executable /usr/bin/bulkheadd
                daemon-uid 699999
                daemon-gid 699999
                daemon-environment BULKHEAD_MODE=up
                daemon-environment BULKHEAD_STATE=/srv/node/data
                daemon-environment BULKHEAD_CONFIG=/srv/node/data/config
                daemon-environment BULKHEAD_HTTP_PORT=8080
                daemon-environment BULKHEAD_RUNTIMES=native
                daemon-environment BULKHEAD_MEMORY=1073741824
                daemon-environment BULKHEAD_TEMPORARY=536870912
                daemon-environment BULKHEAD_CPU=2000
                daemon-environment BULKHEAD_PROCESSES=4096
                daemon-environment LANG=C.UTF-8
                state-directory /srv/node
                code-directory /srv/node/data/code
                bucket-directory /srv/node/data/buckets
                listen http 127.0.0.1:8080
                listen control unix:/srv/node/run/control.sock
                uid-range 700000 4096
                cgroup-name bulkhead-5aaca388
                ceiling memory 1073741824
                ceiling cpu 2000
                ceiling processes 4096
                ceiling workers 1000
                ceiling temporary 536870912
                ceiling groups 1000
                share-directory /usr/share/bulkhead
                runtime native {
                    filter worker
                    memory-floor 4194304
                }

                """)
    }

    @Test func goldenRuntime() throws {
        let (runtimes, missing) = Self.host.runtimes(shareDirectory: "/usr/share/bulkhead")
        #expect(missing.isEmpty)
        #expect(runtimes.map(\.name) == ["python3", "nodejs", "command", "native", "sealed", "unpack"])
        let sealed = try #require(runtimes.first { $0.name == "sealed" })
        #expect(sealed.mounts.contains(.init("/opt/node", "/opt/node")))
        #expect(sealed.arguments.isEmpty)
        let text = try Self.policy(Array(runtimes[1...1])).rendered()
        #expect(
            text.split(separator: "\n").drop { !$0.hasPrefix("runtime") }.joined(separator: "\n") == """
                runtime nodejs {
                    mount /usr /usr
                    mount /lib64 /lib64
                    mount /etc/ssl/certs /etc/ssl/certs
                    mount /usr/share/bulkhead/runtimes /runtime
                    mount /opt/node /opt/node
                    file /etc/ld.so.cache /etc/ld.so.cache
                    link usr/bin /bin
                    argument /opt/node/bin/node
                    argument /runtime/nodejs/bootstrap.cjs
                    environment PATH=/usr/local/bin:/usr/bin:/bin
                    environment LANG=C.UTF-8
                    environment HOME=/tmp
                    environment TMPDIR=/tmp
                    filter worker
                    memory-floor 67108864
                }
                """)
    }

    @Test func whatTheHostLacksIsLeftOutAndSaid() {
        var host = Self.host
        host.python = nil
        host.node = nil
        host.bsdtar = nil
        let (runtimes, missing) = host.runtimes(shareDirectory: "/s")
        #expect(runtimes.map(\.name) == ["command", "native", "sealed"])
        #expect(missing.map(\.name) == ["python3", "nodejs", "unpack"])
        for note in missing { #expect(note.sentence.contains("apt-get install")) }
    }

    @Test(arguments: ["/srv/a b", "/srv/a\nuid-range 0 1", "/srv/#x", "", "/srv/\u{7f}"])
    func refusesWhatTheFormatCannotHold(path: String) {
        var policy = Self.policy([])
        policy.stateDirectory = path
        #expect(throws: Failure.self) { try policy.rendered() }
    }

    @Test func refusesALineBreakInAnEnvironment() {
        var policy = Self.policy([])
        policy.daemonEnvironment.append("A=b\nuid-range 0 1")
        #expect(throws: Failure.self) { try policy.rendered() }
    }

    @Test func cgroupNamesAreStableAndDiffer() {
        #expect(SpawnerPolicy.cgroupName(stateDirectory: "") == "bulkhead-811c9dc5")
        #expect(SpawnerPolicy.cgroupName(stateDirectory: "a") == "bulkhead-e40c292c")
        #expect(SpawnerPolicy.cgroupName(stateDirectory: "/a") != SpawnerPolicy.cgroupName(stateDirectory: "/b"))
    }

    @Test func ceilingsFollowTheMachine() {
        let large = NodeStart.ceilings(meminfo: "MemFree: 1 kB\nMemTotal:       16777216 kB\n", processors: 8, pidMax: "4194304\n")
        #expect(large.memoryBytes == (16 << 30) / 10 * 9 & ~0xf_ffff)
        #expect(large.cpuMilli == 8000)
        #expect(large.processes == 32768)
        let small = NodeStart.ceilings(meminfo: "", processors: -1, pidMax: "")
        #expect(small.memoryBytes == 768 << 20)
        #expect(small.cpuMilli == 1000)
        #expect(small.processes == 16384)
    }
}

@Suite struct NodePathsTests {
    let installed = NodePaths(executableFolder: "/usr/bin", environment: [:])

    @Test func stateNamesTheSocket() throws {
        #expect(try installed.controlSocket(state: "/n", exists: { _ in true }) == "/n/run/control.sock")
        let named = NodePaths(executableFolder: "/usr/bin", environment: ["BULKHEAD_STATE": "/m"])
        #expect(try named.controlSocket(state: nil, exists: { _ in true }) == "/m/run/control.sock")
        #expect(try named.controlSocket(state: "/n", exists: { _ in true }) == "/n/run/control.sock")
        #expect(try installed.controlSocket(state: nil, exists: { _ in true }) == "/run/bulkhead/control.sock")
    }

    @Test(arguments: ["/n", nil]) func noNodeIsUnreachable(state: String?) {
        let failure = #expect(throws: Failure.self) { try installed.controlSocket(state: state, exists: { _ in false }) }
        #expect(failure?.status == .unreachable)
        #expect(failure?.sentence.contains("bulkhead up --state") == true)
    }

    @Test func shareIsFoundInEveryLayout() throws {
        #expect(try installed.sandboxShare { $0 == "/usr/share/bulkhead/runtimes" } == "/usr/share/bulkhead")
        #expect(try installed.templates { $0 == "/usr/share/bulkhead/templates" } == "/usr/share/bulkhead/templates")
        let source = NodePaths(executableFolder: "/src/.build/bin", environment: [:])
        let tree: Set = ["/src/Sandbox/runtimes", "/src/Deploy/templates"]
        #expect(try source.sandboxShare(exists: tree.contains) == "/src/Sandbox")
        #expect(try source.templates(exists: tree.contains) == "/src/Deploy/templates")
        let named = NodePaths(executableFolder: "/usr/bin", environment: ["BULKHEAD_SHARE": "/x"])
        #expect(try named.sandboxShare { $0 == "/x/runtimes" } == "/x")
        #expect(throws: Failure.self) { try named.templates { _ in false } }
    }

    @Test func programsAreBesideUnlessNamed() throws {
        #expect(try installed.program("bulkheadd", variable: "BULKHEAD_DAEMON") { _ in true } == "/usr/bin/bulkheadd")
        let packaged = try installed.program("bulkheadd", variable: "BULKHEAD_DAEMON") { $0 == "/usr/lib/bulkhead/bulkheadd" }
        #expect(packaged == "/usr/lib/bulkhead/bulkheadd")
        let named = NodePaths(executableFolder: "/usr/bin", environment: ["BULKHEAD_DAEMON": "/x/d"])
        #expect(try named.program("bulkheadd", variable: "BULKHEAD_DAEMON") { _ in true } == "/x/d")
        let failure = #expect(throws: Failure.self) { try named.program("bulkheadd", variable: "BULKHEAD_DAEMON") { _ in false } }
        #expect(failure?.sentence.contains("BULKHEAD_DAEMON") == true)
    }

    @Test func pathIsSearchedInOrder() {
        let paths = NodePaths(executableFolder: "/", environment: ["PATH": "relative:/a:/b"])
        #expect(paths.onPath("x") { $0 == "/b/x" || $0 == "relative/x" } == "/b/x")
        #expect(paths.onPath("x") { _ in false } == nil)
    }
}

@Suite struct HealthCheckTests {
    @Test func readsTheProbe() {
        let text =
            "root\tyes\tneeded\tuser 0\nuser namespaces\tno\tneeded\tone each\nLandlock\tno\tused\tpaths\ncgroups\tno\tneeded\tv\nnoise\na\tb\tc\td\n"
        let checks = HealthCheck.abilities(probe: text)
        #expect(checks.map(\.name) == ["root", "user namespaces", "Landlock", "cgroups"])
        #expect(checks.map(\.state) == [.ok, .required, .missing, .required])
        #expect(checks[1].remedy.contains("max_user_namespaces"))
        #expect(checks[2].remedy.contains("landlock"))
        #expect(checks[3].remedy.contains("unified_cgroup_hierarchy") && checks[3].remedy.contains("cgroup_enable=memory"))
        #expect(checks[0].remedy.isEmpty)
    }

    @Test func everyMissingRuntimeNamesItsPackage() {
        let none = HostInventory(python: nil, node: nil, bsdtar: nil, rootEntries: [], trees: [], files: [])
        #expect(HealthCheck.runtimes(none).map(\.state) == [.missing, .missing, .required])
        for check in HealthCheck.runtimes(none) { #expect(check.remedy.hasPrefix("apt-get install ")) }
    }

    @Test("the doctor misses the command runtime's program, and one that cannot be run")
    func commandHelper() throws {
        let folder = try TemporaryFolder()
        #expect(HostDoctor.commandHelper(share: folder.path).state == .missing)
        let directory = folder.path + "/runtimes/command"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try "x".write(toFile: directory + "/bulkhead-command", atomically: true, encoding: .utf8)
        unsafe chmod(directory + "/bulkhead-command", 0o755)
        #expect(HostDoctor.commandHelper(share: folder.path).state == .ok)
        unsafe chmod(directory + "/bulkhead-command", 0o644)
        // Root may read anything; whether a program may be run is another matter.
        #expect(HostDoctor.commandHelper(share: folder.path).state == .missing)
    }
}
