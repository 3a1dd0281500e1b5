// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import Store
import Testing

@Suite struct SnapshotCopyTests {
    private func mode(_ path: String) -> mode_t {
        var info = stat()
        return unsafe lstat(path, &info) == 0 ? info.st_mode & 0o7777 : 0
    }

    @Test("what is in a folder is copied, and not the bits by which it belongs to others")
    func copied() throws {
        let base = "/var/tmp/bulkhead-snapshot-copy-\(getpid())"
        let (from, to) = (base + "/from", base + "/to")
        defer { try? FileManager.default.removeItem(atPath: base) }
        try FileManager.default.createDirectory(atPath: from + "/tenants.d", withIntermediateDirectories: true)
        try Data("tenant: acme\n".utf8).write(to: URL(fileURLWithPath: from + "/tenants.d/acme.yaml"))
        // As the package leaves the configuration: a service that may set no such bit cannot copy it.
        try #require(unsafe chmod(from, 0o2750) == 0 && chmod(from + "/tenants.d/acme.yaml", 0o644) == 0)
        try Snapshot.copy(from, to: to)
        #expect(try String(contentsOfFile: to + "/tenants.d/acme.yaml", encoding: .utf8) == "tenant: acme\n")
        #expect(mode(to) == 0o700 && mode(to + "/tenants.d") == 0o700 && mode(to + "/tenants.d/acme.yaml") == 0o600)
        // What is not there is left out, what is there already is not written over.
        try Snapshot.copy(base + "/nothing", to: base + "/other")
        #expect(!FileManager.default.fileExists(atPath: base + "/other"))
        #expect(throws: StoreError.self) { try Snapshot.copy(from, to: to) }
    }
}
