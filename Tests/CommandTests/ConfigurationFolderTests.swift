// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Core
import Foundation
import Glibc
import Testing

@Suite struct ConfigurationFolderTests {
    let folder: TemporaryFolder
    let acme: Name
    var top: String { folder.path }

    init() throws {
        folder = try TemporaryFolder()
        acme = try #require(Name("acme"))
        try folder.write("tenant: acme\nweight: 1\n", to: "etc/tenants.d/acme.yaml")
    }

    private func located() throws -> ConfigurationFolder { try ConfigurationFolder.locate(state: nil, reported: top + "/etc") }
    private func edit(_ words: String...) throws -> QuotaEdit { try QuotaEdit(try located(), tenant: acme, try QuotaSetting.parse(words)) }

    @Test func theStateDirectoryDecidesWhichFolder() throws {
        try folder.write("", to: "state/version")
        let state = try canonical(top + "/state")
        let embedded = ConfigurationFolder(path: state + "/config", copy: nil, isEmbedded: true)
        #expect(try ConfigurationFolder.locate(state: top + "/state", reported: nil) == embedded)
        #expect(try ConfigurationFolder.locate(state: top + "/state", reported: state + "/config") == embedded)
        #expect(try ConfigurationFolder.locate(state: top + "/state", reported: top + "/etc").path == top + "/etc")
        #expect(throws: Failure.self) { try ConfigurationFolder.locate(state: top + "/state", reported: state + "/data/config") }
        try folder.write(top + "/etc\n", to: "state/config.source")
        // A daemon that lies does not lead root elsewhere.
        let copied = try ConfigurationFolder.locate(state: top + "/state", reported: "/etc")
        #expect(copied.path == top + "/etc" && copied.copy == ConfigurationCopy(state: state, source: top + "/etc") && !copied.isEmbedded)
        #expect(throws: Failure.self) { try ConfigurationFolder.locate(state: nil, reported: nil) }
        #expect(throws: Failure.self) { try ConfigurationFolder.locate(state: nil, reported: "relative") }
        #expect(throws: Failure.self) { try ConfigurationFolder.locate(state: nil, reported: top + "/none") }
    }

    @Test func aChangeIsMadeAndPutBack() throws {
        let edit = try edit("weight=2")
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 1\n", "on paper only")
        try edit.make()
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 2\n")
        try edit.putBack()
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 1\n")
        #expect(try FileManager.default.contentsOfDirectory(atPath: top + "/etc/tenants.d") == ["acme.yaml"])
    }

    @Test func secretsAreCopiedAndLinksAreNot() throws {
        try folder.write("hush", to: "etc/secrets/token")
        try FileManager.default.createSymbolicLink(atPath: top + "/etc/secrets/link", withDestinationPath: "/etc/hostname")
        try FileManager.default.createDirectory(atPath: top + "/etc/secrets/folder", withIntermediateDirectories: false)
        try FileManager.default.createDirectory(atPath: top + "/state/data", withIntermediateDirectories: true)
        try ConfigurationCopy(state: top + "/state", source: top + "/etc").install()
        let copies = top + "/state/data/config/secrets"
        #expect(try FileManager.default.contentsOfDirectory(atPath: copies) == ["token"])
        #expect(try folder.read("state/data/config/secrets/token") == "hush")
        #expect(try Directory.open(copies).status("token")?.mode == 0o600)
        #expect(try Directory.open(copies).status()?.mode == 0o700)
    }

    @Test func ownerAndModeStay() throws {
        let path = top + "/etc/tenants.d/acme.yaml"
        #expect(unsafe chmod(path, 0o640) == 0)
        if geteuid() == 0 { #expect(unsafe chown(path, 699_999, 699_998) == 0) }
        let before = try Directory.open(top + "/etc/tenants.d").status("acme.yaml")
        try edit("weight=3").make()
        let after = try #require(try Directory.open(top + "/etc/tenants.d").status("acme.yaml"))
        #expect(after == before && after.mode == 0o640, "the size is the same: one digit for another")
    }

    @Test func aLinkOfTheAdministratorStaysALink() throws {
        try FileManager.default.moveItem(atPath: top + "/etc/tenants.d/acme.yaml", toPath: top + "/managed.yaml")
        try FileManager.default.createSymbolicLink(atPath: top + "/etc/tenants.d/acme.yaml", withDestinationPath: top + "/managed.yaml")
        try edit("weight=2").make()
        #expect(try folder.read("managed.yaml") == "tenant: acme\nweight: 2\n")
        #expect(try Directory.open(top + "/etc/tenants.d").status("acme.yaml")?.kind == .link)
    }

    @Test func somebodyElsesChangeIsNotOverwritten() throws {
        let early = try edit("weight=2")
        try folder.write("tenant: acme\nweight: 7\n", to: "etc/tenants.d/acme.yaml")
        let failure = #expect(throws: Failure.self) { try early.make() }
        #expect(failure?.sentence.contains("changed by somebody else") == true)
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 7\n")
        let late = try edit("weight=2")
        try late.make()
        try folder.write("tenant: acme\nweight: 8\n", to: "etc/tenants.d/acme.yaml")
        #expect(throws: Failure.self) { try late.putBack() }
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 8\n")
    }

    @Test func aTenantWithoutAFileIsSaid() throws {
        let failure = #expect(throws: Failure.self) {
            try QuotaEdit(try located(), tenant: try #require(Name("beta")), try QuotaSetting.parse(["weight=2"]))
        }
        #expect(failure?.status == .usage && failure?.sentence.contains("beta.yaml") == true)
    }

    @Test func theFirstChangeOfDefaultsMakesTheFile() throws {
        try folder.write("", to: "state/version")
        let own = try ConfigurationFolder.locate(state: top + "/state", reported: nil)
        let settings = try QuotaSetting.parse(["rate=5/s"])
        let lock = try own.lock()
        #expect(throws: Failure.self) { try QuotaEdit(own, tenant: acme, settings) }
        let edit = try QuotaEdit(own, tenant: try #require(Name("default")), settings)
        try edit.make()
        withExtendedLifetime(lock) {}
        #expect(try folder.read("state/config/tenants.d/default.yaml") == "tenant: default\nquota:\n  rate: 5/s\n")
        // The daemon, another user, must be able to read it.
        #expect(try Directory.open(top + "/state").status("config")?.mode == 0o755)
        #expect(try Directory.open(top + "/state/config").status("tenants.d")?.mode == 0o755)
        #expect(try Directory.open(top + "/state/config/tenants.d").status("default.yaml")?.mode == 0o644)
        try edit.putBack()
        #expect(try FileManager.default.contentsOfDirectory(atPath: top + "/state/config") == [], "an empty tenants.d would be a mistake")
    }

    @Test func theCopyFollowsAndGoesBack() throws {
        try folder.write("", to: "state/version")
        try folder.write("", to: "state/data/version")
        try ConfigurationCopy(state: top + "/state", source: top + "/etc").install(daemonUID: geteuid(), daemonGID: getegid())
        try ConfigurationCopy(state: top + "/state", source: top + "/etc").keep()
        try folder.write(top + "/etc\n", to: "state/config.source")
        let copied = try ConfigurationFolder.locate(state: top + "/state", reported: nil)
        let settings = try QuotaSetting.parse(["weight=2"])
        let refused = try QuotaEdit(copied, tenant: acme, settings)
        try refused.make()
        #expect(try folder.copiedTenant("acme", "state/data/config") == "tenant: acme\nweight: 2\n")
        try refused.putBack()
        #expect(try folder.copiedTenant("acme", "state/data/config") == "tenant: acme\nweight: 1\n")
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 1\n")
        let taken = try QuotaEdit(copied, tenant: acme, settings)
        try taken.make()
        try taken.keep()
        #expect(try folder.copiedTenant("acme", "state/data/config") == "tenant: acme\nweight: 2\n")
        #expect(try FileManager.default.contentsOfDirectory(atPath: top + "/state/data").sorted() == ["config", "version"])
    }

    @Test func aCopyThatFailsLeavesEverything() throws {
        try folder.write("", to: "state/version")
        try folder.write("old", to: "state/data/config/bulkhead.yaml")
        try folder.write(top + "/etc\n", to: "state/config.source")
        try FileManager.default.createSymbolicLink(atPath: top + "/etc/tenants.d/gone.yaml", withDestinationPath: top + "/none")
        let edit = try QuotaEdit(
            try ConfigurationFolder.locate(state: top + "/state", reported: nil), tenant: acme, try QuotaSetting.parse(["weight=2"]))
        #expect(throws: Failure.self) { try edit.make() }
        #expect(try folder.read("etc/tenants.d/acme.yaml") == "tenant: acme\nweight: 1\n")
        #expect(try folder.read("state/data/config/bulkhead.yaml") == "old")
    }
}
