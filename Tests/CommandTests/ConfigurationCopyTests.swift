// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

@Suite struct ConfigurationCopyTests {
    let folder: TemporaryFolder
    let copy: ConfigurationCopy

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
    private func inode(_ name: String) throws -> UInt64? {
        try FileManager.default.attributesOfItem(atPath: copy.path + "/tenants.d/\(name).yaml")[.systemFileNumber] as? UInt64
    }

    @Test func onlyWhatChangedIsCopiedAgain() throws {
        for name in ["acme", "globex"] { try age(name, 100) }
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        try copy.keep()
        let before = try ["acme", "globex", "initech"].map(inode)
        // As long as before: the time alone tells them apart.
        try folder.write("tenant: globex\nweight: 2\n", to: "etc/tenants.d/globex.yaml")
        try age("globex", 50)
        try copy.install()
        let after = try ["acme", "globex", "initech"].map(inode)
        #expect(after[0] == before[0] && after[1] != before[1])
        // It was written just now and may be written again without another time.
        #expect(after[2] != before[2])
        #expect(try folder.read("state/data/config/tenants.d/globex.yaml") == "tenant: globex\nweight: 2\n")
        try copy.putBack()
        #expect(try folder.read("state/data/config/tenants.d/globex.yaml") == "tenant: globex\nweight: 1\n")
        #expect(try inode("acme") == before[0])
    }

    @Test func aStartReadsEverything() throws {
        try age("acme", 100)
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        let before = try inode("acme")
        try copy.install(daemonUID: geteuid(), daemonGID: getegid())
        #expect(try inode("acme") != before)
    }
}
