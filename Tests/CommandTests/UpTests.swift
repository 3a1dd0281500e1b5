// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

/// `bulkhead up` up to the moment when the spawner takes its place; a script stands in for the spawner.
@Suite(.enabled(if: geteuid() == 0 && CommandRun.isAvailable, "bulkhead up needs root, and the built command"))
struct UpTests {
    let folder: TemporaryFolder
    var state: String { folder.path + "/state" }

    init() throws {
        folder = try TemporaryFolder()
        let script = """
            #!/bin/sh
            echo "arguments $*"
            echo "policy $(stat -c '%u %a' "$2") $(head -n 2 "$2" | tail -n 1)"
            # What a child inherits; ls has one more descriptor for the folder that it lists.
            echo "descriptors" $(ls /proc/self/fd)
            grep -E '^Sig(Blk|Ign)' /proc/self/status
            env | sort | grep -v -e '^PWD' -e '^SHLVL' -e '^_='
            """
        // Copied by another program: a file that this one has open for writing is so also in children that other tests start at that moment, and cannot be executed (ETXTBSY,
        // execve(2)) until those have executed something.
        try folder.write(script, to: "spawner.text")
        let copy = ["/bin/cp", folder.path + "/spawner.text", folder.path + "/spawner"]
        #expect(try ChildProgram.run(copy, environment: []).code == 0)
        try folder.write("", to: "daemon")
        try folder.write("", to: "share/runtimes/x")
        for name in ["spawner", "daemon"] { #expect(unsafe chmod(folder.path + "/" + name, 0o755) == 0) }
    }

    private func up(_ arguments: [String], more: [String] = []) throws -> CommandRun {
        let environment = [
            "BULKHEAD_SPAWNER=\(folder.path)/spawner", "BULKHEAD_DAEMON=\(folder.path)/daemon", "BULKHEAD_SHARE=\(folder.path)/share",
            "SECRET=of the shell",
        ]
        return try CommandRun(["up"] + arguments, environment: environment + more, in: folder)
    }

    @Test func drainedIsKeptUntilItIsUndone() throws {
        #expect(try up(["--state", state, "--port", "0"]).code == 0)
        #expect(!fileExists(state + "/data/drained"))
        #expect(try up(["--state", state, "--port", "0", "--drained"]).code == 0)
        #expect(fileExists(state + "/data/drained"))
        // A start without the flag does not end it: only bulkhead drain --undo does.
        #expect(try up(["--state", state, "--port", "0"]).code == 0)
        #expect(fileExists(state + "/data/drained"))
    }

    @Test func theSpawnerStartsClean() throws {
        let result = try up(["--state", state, "--port", "0"])
        #expect(result.code == 0, "\(result.error)")
        let lines = result.output.split(separator: "\n").map(String.init)
        #expect(lines.contains("arguments --policy \(state)/spawner.policy"))
        #expect(lines.contains("policy 0 600 version 1"))
        #expect(lines.contains("descriptors 0 1 2 3"))
        #expect(lines.contains("SigBlk:\t0000000000000000"))
        // Glibc's posix_spawn, by which this test starts the command, ignores its own signals 32 and 33.
        #expect(lines.contains("SigIgn:\t0000000000000000") || lines.contains("SigIgn:\t0000000180000000"))
        #expect(lines.suffix(2) == ["LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
        let policy = try folder.read("state/spawner.policy")
        #expect(policy.contains("listen http 127.0.0.1:0\n"))
        #expect(policy.contains("runtime command {"))
        // Not there yet: the daemon's defaults hold until `bulkhead quota set` makes it.
        #expect(policy.contains("BULKHEAD_CONFIG=\(state)/config\n"))
        #expect(!fileExists(state + "/config"))
        #expect(!policy.contains("SECRET"))
    }

    @Test func theSameNodeKeepsItsIds() throws {
        let begun = try up(["--state", state])
        #expect(begun.code == 0, "\(begun.error)")
        let first = try folder.read("state/spawner.policy")
        #expect(try up(["--state", state + "/"]).code == 0)
        #expect(try folder.read("state/spawner.policy") == first)
    }

    @Test func theConfigurationIsCopied() throws {
        try folder.write("tenant: acme\n", to: "etc/tenants.d/acme.yaml")
        #expect(unsafe chmod(folder.path + "/etc", 0o700) == 0)
        #expect(try up(["--state", state, "--config", folder.path + "/etc"]).code == 0)
        #expect(try folder.read("state/spawner.policy").contains("BULKHEAD_CONFIG=\(state)/data/config\n"))
        #expect(try folder.copiedTenant("acme", "state/data/config") == "tenant: acme\n")
        #expect(try folder.read("state/config.source") == folder.path + "/etc\n", "so that commands know what to change")
        #expect(try up(["--state", state]).code == 0)
        #expect(!fileExists(state + "/config.source"))
    }

    @Test func aServiceReadsTheOriginalAndHearsItsManager() throws {
        try folder.write("tenant: acme\n", to: "etc/tenants.d/acme.yaml")
        let result = try up(
            ["--system", "--state", state, "--config", folder.path + "/etc"],
            more: ["NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=1", "LISTEN_PID=1"])
        #expect(result.code == 0, "\(result.error)")
        for line in ["NOTIFY_SOCKET=/run/n", "WATCHDOG_USEC=1", "LISTEN_PID=1"] {
            #expect(result.output.split(separator: "\n").contains(Substring(line)), "\(line)")
        }
        let policy = try folder.read("state/spawner.policy")
        #expect(policy.contains("BULKHEAD_CONFIG=\(folder.path)/etc\n"))
        #expect(policy.contains("cgroup-parent own\n"))
        #expect(policy.contains("listen control unix:/run/bulkhead/control.sock\n"))
        #expect(!fileExists(state + "/config.source"))
    }

    @Test func refusalsSayWhatToDo() throws {
        try folder.write("", to: "file")
        try folder.write("9\n", to: "newer/version")
        try FileManager.default.createDirectory(
            atPath: folder.path + "/closed", withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
        let long = folder.path + "/" + String(repeating: "x", count: 100)
        for (arguments, part) in [
            (["--state", folder.path + "/file"], "is not a folder"), (["--state", folder.path + "/newer"], "newer release"),
            (["--state", folder.path + "/closed/state"], "chmod o+x"), (["--state", long], "too long"),
            (["--state", folder.path + "/with space"], "space"), (["--state", state, "--config", folder.path + "/none"], "--config"),
            (["--state", "/proc/bulkhead"], "--state"),
        ] {
            let result = try up(arguments)
            #expect(result.code == 1 || result.code == 2, "\(arguments)")
            #expect(result.output == "")
            #expect(result.error.contains(part), "\(arguments): \(result.error)")
            #expect(result.error.split(separator: "\n").last?.hasPrefix("bulkhead: ") == true)
        }
    }

    @Test func aSecondNodeOnTheSameStateIsRefused() throws {
        let first = try StateDirectory.open(state)
        let result = try up(["--state", state])
        #expect(result.code == 1)
        #expect(result.error.contains("Another node already runs"))
        withExtendedLifetime(first) {}
    }

    @Test func onlyRootStartsANode() throws {
        try folder.write("", to: "stdin")
        let script = "setpriv --reuid 65534 --regid 65534 --clear-groups \(CommandRun.executable) up --state \(folder.path)/n 2>&1"
        let (output, code) = try ChildProgram.run(["/bin/sh", "-c", script], environment: ["PATH=/usr/bin:/bin"])
        // The build folder may be closed to others; then the shell says so and nothing is to be seen.
        if code == 126 || code == 127 { return }
        #expect(code == 1)
        #expect(output.contains("needs root"))
        #expect(!fileExists(folder.path + "/n"))
    }
}
