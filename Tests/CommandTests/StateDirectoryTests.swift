// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

@Suite struct StateDirectoryTests {
    let folder: TemporaryFolder
    var path: String { folder.path + "/state" }
    /// An owner that this process may give files to.
    let daemon: UInt32 = geteuid() == 0 ? 699_999 : geteuid()
    let group: UInt32 = geteuid() == 0 ? 699_999 : getegid()

    init() throws { folder = try TemporaryFolder() }

    @Test func makesTheLayout() throws {
        let state = try StateDirectory.open(path)
        try state.prepare(daemonUID: daemon, daemonGID: group)
        let top = try Directory.open(path)
        let data = try top.directory("data")
        for (directory, name, mode) in [
            (top, "data", UInt32(0o700)), (top, "run", 0o755), (data, "code", 0o755), (data, "logs", 0o700), (data, "incoming", 0o700),
        ] {
            let status = try #require(try directory.status(name))
            #expect(status.kind == .directory)
            #expect(status.mode == mode, "\(name)")
            #expect(status.owner == daemon, "\(name)")
        }
        #expect(try top.status()?.owner == geteuid())
        #expect(try folder.read("state/version") == "1\n")
    }

    @Test func marksANodeThatBeginsDrained() throws {
        let state = try StateDirectory.open(path)
        try state.prepare(daemonUID: daemon, daemonGID: group)
        #expect(!fileExists(path + "/data/drained"))
        try state.markDrained()
        try state.markDrained()
        #expect(try folder.read("state/data/drained") == "")
    }

    @Test func isIdempotentAndKeepsData() throws {
        try StateDirectory.open(path).prepare(daemonUID: daemon, daemonGID: group)
        try folder.write("kept", to: "state/data/bulkhead.sqlite")
        try StateDirectory.open(path).prepare(daemonUID: daemon, daemonGID: group)
        #expect(try folder.read("state/data/bulkhead.sqlite") == "kept")
    }

    @Test(.enabled(if: geteuid() == 0, "giving files away needs root")) func followsTheDaemonToAnotherUser() throws {
        try StateDirectory.open(path).prepare(daemonUID: 699_999, daemonGID: 699_999)
        try folder.write("a", to: "state/data/logs/a")
        try folder.write("r", to: "state/data/logs/root")
        #expect(unsafe chown(path + "/data/logs/a", 699_999, 699_999) == 0)
        #expect(unsafe symlink("/etc/passwd", path + "/data/logs/link") == 0)
        #expect(unsafe lchown(path + "/data/logs/link", 699_999, 699_999) == 0)
        let before = try #require(try Directory.open("/etc").status("passwd"))
        try StateDirectory.open(path).prepare(daemonUID: 704_095, daemonGID: 704_095)
        let logs = try Directory.open(path + "/data/logs")
        #expect(try logs.status("a")?.owner == 704_095)
        #expect(try logs.status("link")?.owner == 704_095)
        #expect(try logs.status("root")?.owner == 0)
        #expect(try Directory.open("/etc").status("passwd") == before)
    }

    @Test func refusesANewerLayout() throws {
        try folder.write("2\n", to: "state/version")
        let failure = #expect(throws: Failure.self) { try StateDirectory.open(path) }
        #expect(failure?.sentence.contains("newer release") == true)
        try folder.write("junk\n", to: "state/version")
        #expect(throws: Failure.self) { try StateDirectory.open(path) }
    }

    @Test func refusesAFile() throws {
        try folder.write("", to: "state")
        let failure = #expect(throws: Failure.self) { try StateDirectory.open(path) }
        #expect(failure?.sentence.contains("is not a folder") == true)
        #expect(throws: Failure.self) { try StateDirectory.open(path + "/below") }
        #expect(throws: Failure.self) { try StateDirectory.open("") }
    }

    @Test func refusesALinkInsideTheFolder() throws {
        try folder.write("", to: "elsewhere/file")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try FileManager.default.createSymbolicLink(atPath: path + "/data", withDestinationPath: folder.path + "/elsewhere")
        #expect(throws: Failure.self) { try StateDirectory.open(path).prepare(daemonUID: daemon, daemonGID: group) }
        #expect(try Directory.open(folder.path).status("elsewhere")?.owner == geteuid())
    }

    @Test func refusesASecondNode() throws {
        let first = try StateDirectory.open(path)
        let failure = #expect(throws: Failure.self) { try StateDirectory.open(path) }
        #expect(failure?.sentence.contains("Another node already runs") == true)
        #expect(failure?.status == .failed)
        #expect(StateDirectory.isInUse(path))
        withExtendedLifetime(first) {}
    }

    @Test func theLockGoesWithItsHolder() throws {
        do { _ = try StateDirectory.open(path) }
        #expect(!StateDirectory.isInUse(path))
        _ = try StateDirectory.open(path)
        #expect(!StateDirectory.isInUse(folder.path + "/none"))
    }

    @Test func thePolicyIsReplacedWhole() throws {
        let state = try StateDirectory.open(path)
        try folder.write("old", to: "state/spawner.policy")
        try state.write(SpawnerPolicyTests.policy([]))
        let status = try #require(try state.directory.status("spawner.policy"))
        #expect(status.mode == 0o600)
        #expect(try folder.read("state/spawner.policy").hasPrefix("# The spawner's policy"))
        #expect(try state.directory.names().filter { $0.hasSuffix(".new") }.isEmpty)
    }

    @Test func copiesTheConfigurationInPlaceOfTheOld() throws {
        try folder.write("listen: x\n", to: "etc/bulkhead.yaml")
        try folder.write("tenant: acme\n", to: "etc/tenants.d/acme.yaml")
        try folder.write("backup", to: "etc/tenants.d/acme.yaml~")
        let state = try StateDirectory.open(path)
        try state.prepare(daemonUID: daemon, daemonGID: group)
        try folder.write("stale", to: "state/data/config/tenants.d/gone.yaml")
        let copy = try state.copyConfiguration(from: folder.path + "/etc", daemonUID: daemon, daemonGID: group)
        #expect(copy == state.path + "/data/config")
        #expect(try folder.read("state/data/config/bulkhead.yaml") == "listen: x\n")
        #expect(try folder.copiedTenants("state/data/config").keys.sorted() == ["acme.yaml"])
        let bundle = try #require(try Directory.open(copy).status("tenants.d"))
        #expect(bundle.owner == daemon && bundle.mode == 0o600)
        let status = try #require(try Directory.open(copy).status("bulkhead.yaml"))
        #expect(status.owner == daemon && status.mode == 0o600)
    }

    @Test func aPlantedLinkDoesNotLeadTheCopyElsewhere() throws {
        try folder.write("tenant: acme\n", to: "etc/bulkhead.yaml")
        try folder.write("safe", to: "victim/bulkhead.yaml")
        let state = try StateDirectory.open(path)
        try state.prepare(daemonUID: daemon, daemonGID: group)
        try FileManager.default.createSymbolicLink(atPath: path + "/data/config", withDestinationPath: folder.path + "/victim")
        _ = try state.copyConfiguration(from: folder.path + "/etc", daemonUID: daemon, daemonGID: group)
        #expect(try folder.read("victim/bulkhead.yaml") == "safe")
        #expect(try folder.read("state/data/config/bulkhead.yaml") == "tenant: acme\n")
    }

    @Test func refusesAConfigurationThatIsNone() throws {
        let state = try StateDirectory.open(path)
        try state.prepare(daemonUID: daemon, daemonGID: group)
        for source in [folder.path, folder.path + "/none"] {
            let failure = #expect(throws: Failure.self) { try state.copyConfiguration(from: source, daemonUID: daemon, daemonGID: group) }
            #expect(failure?.sentence.contains("--config") == true)
        }
    }

    @Test func findsWhatBarsTheWay() throws {
        try FileManager.default.createDirectory(atPath: folder.path + "/a/b", withIntermediateDirectories: true)
        #expect(unsafe chmod(folder.path + "/a", 0o700) == 0)
        let real = try canonical(folder.path)
        #expect(barrier(to: real + "/a/b", uid: 12345, gid: 12345)?.path == real + "/a")
        #expect(barrier(to: real, uid: 12345, gid: 12345) == nil)
        #expect(barrier(to: real + "/a/b", uid: geteuid(), gid: getegid()) == nil)
    }
}

@Suite struct CodeArchiveTests {
    let folder: TemporaryFolder
    init() throws { folder = try TemporaryFolder() }

    @Test func countsAFolderWithoutGit() throws {
        try folder.write("function: a\n", to: "f/function.yaml")
        try folder.write("12345", to: "f/lib/x.py")
        try folder.write("not sent", to: "f/.git/objects/1")
        guard case .folder(let path, let bytes, let files) = try CodeArchive.examine(folder.path + "/f") else {
            Issue.record("no folder")
            return
        }
        #expect(path.hasSuffix("/f"))
        #expect(bytes == 17)
        #expect(files == 3)
    }

    @Test func theSameFolderGivesTheSameStream() throws {
        try folder.write("function: a\n", to: "f/function.yaml")
        try folder.write("not sent", to: "f/sub/.git/x")
        try folder.write("b", to: "f/b")
        let arguments = CodeArchive.tarArguments(program: "/usr/bin/tar", folder: folder.path + "/f")
        let first = try ChildProgram.run(arguments)
        #expect(first.code == 0)
        #expect(unsafe chown(folder.path + "/f/b", geteuid(), getegid()) == 0)
        #expect(try ChildProgram.run(arguments).output == first.output)
        #expect(first.output.contains("./function.yaml"))
        #expect(!first.output.contains(".git"))
    }

    @Test func refusesWhatIsNoFunction() throws {
        try folder.write("x", to: "f/main.py")
        try folder.write("x", to: "notes.txt")
        for (name, part) in [("f", "function.yaml"), ("none", "No such file"), ("notes.txt", ".tar")] {
            let failure = #expect(throws: Failure.self) { try CodeArchive.examine(folder.path + "/" + name) }
            #expect(failure?.status == .usage)
            #expect(failure?.sentence.contains(part) == true, "\(failure?.sentence ?? "")")
        }
    }

    @Test func refusesTooMuch() throws {
        try folder.write("function: a\n", to: "f/function.yaml")
        try folder.write("", to: "f/big")
        #expect(unsafe truncate(folder.path + "/f/big", off_t(CodeArchive.limit)) == 0)
        let failure = #expect(throws: Failure.self) { try CodeArchive.examine(folder.path + "/f") }
        #expect(failure?.sentence.contains("256 MiB") == true)
    }

    @Test func refusesAPipe() throws {
        try folder.write("function: a\n", to: "f/function.yaml")
        #expect(unsafe mkfifo(folder.path + "/f/pipe", 0o600) == 0)
        let failure = #expect(throws: Failure.self) { try CodeArchive.examine(folder.path + "/f") }
        #expect(failure?.sentence.contains("/pipe") == true)
    }

    @Test(arguments: [
        ("a.tar", "application/x-tar"), ("a.tar.gz", "application/gzip"), ("a.TGZ", "application/gzip"), ("a.zip", "application/zip"),
    ])
    func knowsArchives(name: String, type: String) throws {
        try folder.write("abc", to: name)
        guard case .file(_, let bytes, let contentType) = try CodeArchive.examine(folder.path + "/" + name) else {
            Issue.record("no file")
            return
        }
        #expect(bytes == 3)
        #expect(contentType == type)
    }
}

@Suite struct TemplateTests {
    let folder: TemporaryFolder
    init() throws { folder = try TemporaryFolder() }

    @Test func copiesAndRenames() throws {
        try folder.write("# a comment\nfunction: template # its name\nruntime: python3\n", to: "templates/python3/function.yaml")
        try folder.write("def handler(e, c): pass\n", to: "templates/python3/main.py")
        try folder.write("", to: "templates/README")
        #expect(try Templates.names(in: folder.path + "/templates") == ["python3"])
        #expect(try Templates.copy(folder.path + "/templates/python3", to: folder.path + "/hello") == "hello")
        #expect(try folder.read("hello/function.yaml") == "# a comment\nfunction: hello # its name\nruntime: python3\n")
        #expect(try folder.read("hello/main.py").contains("handler"))
    }

    @Test func overwritesNothing() throws {
        try folder.write("function: t\n", to: "templates/x/function.yaml")
        try folder.write("precious", to: "mine/file")
        try folder.write("", to: "file")
        for target in ["mine", "file", "Bad_Name"] {
            let failure = #expect(throws: Failure.self) {
                try Templates.copy(folder.path + "/templates/x", to: folder.path + "/" + target)
            }
            #expect(failure?.status == .usage)
        }
        #expect(try folder.read("mine/file") == "precious")
        #expect(throws: Failure.self) { try Templates.names(in: folder.path + "/none") }
        #expect(throws: Failure.self) { try Templates.names(in: folder.path + "/mine") }
    }
}
