// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import NodeConfiguration
import Testing
import Wire

@testable import CommandKit

@Suite struct ConfigurationCopyTests {
    let folder: TemporaryFolder
    let copy: ConfigurationCopy
    private var copies: String { "state/data/config" }

    init() throws {
        folder = try TemporaryFolder()
        try folder.write("", to: "state/data/version")
        for name in ["acme", "globex", "initech"] { try folder.write("tenant: \(name)\nweight: 1\n", to: "etc/tenants.d/\(name).yaml") }
        copy = ConfigurationCopy(state: folder.path + "/state", source: folder.path + "/etc")
    }

    private func age(_ name: String, _ seconds: Double) throws {
        try FileManager.default.setAttributes(
            [.modificationDate: Date(timeIntervalSinceNow: -seconds)], ofItemAtPath: folder.path + "/etc/tenants.d/\(name).yaml")
    }
    /// Another text of the same length in the copy: shows whether a file is taken from there or read again.
    private func tamper(_ text: String, _ other: String) throws {
        let path = folder.path + "/" + copies + "/tenants.d"
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let place = try #require(bytes.range(of: Data(text.utf8)))
        bytes.replaceSubrange(place, with: Data(other.utf8))
        try bytes.write(to: URL(fileURLWithPath: path))
    }
    private func texts() throws -> [String: String] { try folder.copiedTenants(copies).mapValues(\.text) }

    @Test func layersAreCopiedByNameAlone() throws {
        try folder.write("print('of the operator')", to: "etc/layers/tracing/hooks.py")
        try folder.write("", to: "etc/layers/tracing.new/hooks.py")
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/etc/layers/evil", withDestinationPath: "/etc")
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        let copied = folder.path + "/" + copies + "/layers"
        #expect(try FileManager.default.contentsOfDirectory(atPath: copied) == ["tracing"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: copied + "/tracing").isEmpty)
    }

    @Test func onlyWhatChangedIsReadAgain() throws {
        for name in ["acme", "globex", "initech"] { try age(name, 100) }
        try folder.write("tenant: umbrella\nweight: 1\n", to: "etc/tenants.d/umbrella.yaml")
        // However long this takes: as if it were written just now.
        try age("umbrella", -3600)
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        try copy.keep()
        try tamper("acme\nweight: 1", "acme\nweight: 8")
        try tamper("umbrella\nweight: 1", "umbrella\nweight: 8")
        // As long as before: the time alone tells them apart.
        try folder.write("tenant: globex\nweight: 2\n", to: "etc/tenants.d/globex.yaml")
        try age("globex", 50)
        try FileManager.default.removeItem(atPath: folder.path + "/etc/tenants.d/initech.yaml")
        try folder.write("tenant: zork\n", to: "etc/tenants.d/zork.yaml")
        try age("zork", -3600)
        try copy.install()
        #expect(
            try texts() == [
                "acme.yaml": "tenant: acme\nweight: 8\n", "globex.yaml": "tenant: globex\nweight: 2\n", "zork.yaml": "tenant: zork\n",
                // It was written just now and may be written again without another time.
                "umbrella.yaml": "tenant: umbrella\nweight: 1\n",
            ])
        let stamps = try folder.copiedTenants(copies).mapValues { $0.stamp == nil }
        #expect(stamps == ["acme.yaml": false, "globex.yaml": false, "umbrella.yaml": true, "zork.yaml": true])
        try copy.putBack()
        #expect(try texts()["globex.yaml"] == "tenant: globex\nweight: 1\n" && texts().count == 4)
    }

    @Test func aFileWhoseTimeWasPutBackIsReadAgain() throws {
        try age("acme", 100)
        let path = folder.path + "/etc/tenants.d/acme.yaml"
        let time = try #require(try FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date)
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        // The clock of the file system has moved on since the first time was set.
        usleep(50_000)
        let handle = try #require(FileHandle(forUpdatingAtPath: path))
        try handle.write(contentsOf: Data("tenant: acme\nweight: 2\n".utf8))
        try handle.close()
        try FileManager.default.setAttributes([.modificationDate: time], ofItemAtPath: path)
        try copy.install()
        #expect(try texts()["acme.yaml"] == "tenant: acme\nweight: 2\n")
    }

    @Test func aStartReadsEverything() throws {
        for name in ["acme", "globex", "initech"] { try age(name, 100) }
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        try tamper("acme\nweight: 1", "acme\nweight: 8")
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        #expect(try texts()["acme.yaml"] == "tenant: acme\nweight: 1\n")
    }

    @Test(
        "a former copy that is damaged, a link or a folder is not used",
        arguments: ["cut", "longer", "nothing", "link", "folder", "head"])
    func damaged(_ how: String) throws {
        for name in ["acme", "globex", "initech"] { try age(name, 100) }
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        let path = folder.path + "/" + copies + "/tenants.d"
        let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        try FileManager.default.removeItem(atPath: path)
        switch how {
        case "cut": try bytes.dropLast(3).write(to: URL(fileURLWithPath: path))
        case "longer": try (bytes + Data("x".utf8)).write(to: URL(fileURLWithPath: path))
        case "nothing": try Data().write(to: URL(fileURLWithPath: path))
        case "head": try Data("BHTENANT\u{1}".utf8).write(to: URL(fileURLWithPath: path))
        case "link":
            try bytes.write(to: URL(fileURLWithPath: folder.path + "/elsewhere"))
            try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: folder.path + "/elsewhere")
        default: try FileManager.default.createDirectory(atPath: path + "/acme.yaml", withIntermediateDirectories: true)
        }
        try copy.install()
        #expect(try texts().count == 3 && texts()["acme.yaml"] == "tenant: acme\nweight: 1\n")
        #expect(try FileManager.default.attributesOfItem(atPath: path)[.type] as? FileAttributeType == .typeRegular)
    }

    @Test func manyFilesAreCopiedWholeWhateverChanged() throws {
        var expected: [String: String] = [:]
        func write(_ number: Int, _ weight: Int) throws {
            let text = "tenant: t\(number)\nweight: \(weight)\n" + String(repeating: "# a word\n", count: number % 7)
            try folder.write(text, to: "etc/tenants.d/t\(number).yaml")
            try age("t\(number)", 1000 - Double(weight))
            expected["t\(number).yaml"] = text
        }
        for name in ["acme", "globex", "initech"] { expected["\(name).yaml"] = "tenant: \(name)\nweight: 1\n" }
        for number in 1000..<1400 { try write(number, 1) }
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        #expect(try texts() == expected)
        for round in 2..<6 {
            for number in stride(from: 1000 + round, to: 1400, by: round * 3) { try write(number, round) }
            expected["t\(1390 + round).yaml"] = nil
            try FileManager.default.removeItem(atPath: folder.path + "/etc/tenants.d/t\(1390 + round).yaml")
            try copy.install()
            #expect(try texts() == expected, "round \(round)")
        }
    }

    @Test func aFileThatChangesWhileItIsReadIsReadAgain() throws {
        let wholes = (1...3).map { "tenant: acme\nweight: \($0)\n" }
        for (later, expected) in [(Array(wholes[1...2]), wholes[2]), ([], wholes[0])] {
            try folder.write(wholes[0], to: "etc/tenants.d/acme.yaml")
            var rest = later
            let directory = try Directory.open(folder.path + "/etc/tenants.d")
            let (bytes, _) = try directory.settledRead("acme.yaml", limit: 1000, now: time(nil)) {
                guard !rest.isEmpty else { return }
                usleep(25_000)
                try? folder.write(rest.removeFirst(), to: "etc/tenants.d/acme.yaml")
                usleep(25_000)
            }
            #expect(String(decoding: bytes, as: UTF8.self) == expected)
        }
    }

    @Test func aFileThatWasWrittenThisMomentIsWaitedFor() throws {
        try folder.write("tenant: acme\nweight: 2\n", to: "etc/tenants.d/acme.yaml")
        let path = folder.path + "/etc/tenants.d/acme.yaml"
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        let written = try #require(try FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date)
        #expect(Date().timeIntervalSince(written) >= 0.02, "whoever wrote it may have more to write")
    }

    @Test func aFileThatNeverRestsIsNotTaken() throws {
        let directory = try Directory.open(folder.path + "/etc/tenants.d")
        var count = 0
        let error = #expect(throws: FileError.self) {
            try directory.settledRead("acme.yaml", limit: 1 << 20, now: time(nil)) {
                count += 1
                usleep(5000)
                try? folder.write(String(repeating: "#", count: count), to: "etc/tenants.d/acme.yaml")
            }
        }
        #expect(error?.errno == EAGAIN && error?.path.hasSuffix("tenants.d/acme.yaml") == true)
    }

    @Test func whatIsNoFileOrTooLargeIsRefusedByItsName() throws {
        try FileManager.default.createDirectory(atPath: folder.path + "/etc/tenants.d/folder.yaml", withIntermediateDirectories: false)
        func refused() throws -> String? {
            (#expect(throws: Failure.self) { try copy.install(daemonUID: geteuid(), daemonGID: getegid()) })?.sentence
        }
        #expect(try refused()?.contains("tenants.d/folder.yaml") == true)
        try FileManager.default.removeItem(atPath: folder.path + "/etc/tenants.d/folder.yaml")
        // Nobody ever writes into it: a copy that waited for that would never end.
        #expect(unsafe mkfifo(folder.path + "/etc/tenants.d/pipe.yaml", 0o600) == 0)
        #expect(try refused()?.contains("tenants.d/pipe.yaml") == true)
        try FileManager.default.removeItem(atPath: folder.path + "/etc/tenants.d/pipe.yaml")
        try folder.write(String(repeating: "#", count: TenantBundle.maximumLength + 1), to: "etc/tenants.d/large.yaml")
        #expect(try refused()?.contains("tenants.d/large.yaml") == true)
        #expect(!FileManager.default.fileExists(atPath: copy.path))
    }

    @Test func theDaemonReadsTheCopyAsItReadsTheFolder() throws {
        for number in 100..<400 { try folder.write("tenant: t\(number)\nweight: \(number % 9 + 1)\n", to: "etc/tenants.d/t\(number).yaml") }
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        let read = try NodeConfiguration.load(directory: copy.path)
        #expect(try read.tenants.count == 303 && read == NodeConfiguration.load(directory: copy.source))
        try folder.write("tenant: wrong\nquota:\n  memory: 4 gigs\n", to: "etc/tenants.d/acme.yaml")
        try copy.install()
        var places: [[String]] = []
        for directory in [copy.path, copy.source] {
            do throws(ConfigurationErrors) { _ = try NodeConfiguration.load(directory: directory) } catch {
                places.append(error.errors.map(\.description))
            }
        }
        #expect(places.count == 2 && places.first == places.last)
        #expect(places.first?.contains { $0.hasPrefix("tenants.d/acme.yaml:3:11: ") } == true, "\(places)")
    }

    @Test("where a file system cannot exchange two folders at once, they are exchanged one after the other", arguments: [EINVAL, ENOSYS])
    func exchangeInSteps(_ reason: Int32) throws {
        for name in ["new", "old", "old.aside"] { try folder.write("the \(name) one", to: "both/\(name)/file") }
        let both = try Directory.open(folder.path + "/both")
        try both.exchange("new", "old") { _, _, _ in
            errno = reason
            return -1
        }
        #expect(try folder.read("both/old/file") == "the new one" && folder.read("both/new/file") == "the old one")
        #expect(try both.names().sorted() == ["new", "old"], "nothing is left aside, also not of an exchange that broke off")
    }

    @Test("another error of an exchange is told, and changes nothing")
    func exchangeFails() throws {
        for name in ["new", "old"] { try folder.write("the \(name) one", to: "both/\(name)/file") }
        let both = try Directory.open(folder.path + "/both")
        #expect(throws: FileError(path: folder.path + "/both/new", errno: EIO)) {
            try both.exchange("new", "old") { _, _, _ in
                errno = EIO
                return -1
            }
        }
        #expect(try folder.read("both/old/file") == "the old one")
    }

    @Test("a folder of the configuration that is aside for a moment is refused, and not taken for none")
    func folderIsAside() throws {
        #expect(try NodeConfiguration.load(directory: folder.path + "/none").tenants.count == 1)
        try folder.write("tenant: acme\n", to: "copy.aside/tenants.d/acme.yaml")
        #expect(throws: ConfigurationErrors.self) { try NodeConfiguration.load(directory: folder.path + "/copy") }
    }
}
