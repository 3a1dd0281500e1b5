// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Testing

@testable import CommandKit

/// Backups that are whole, damaged, newer, or come at the wrong place.
@Suite struct BackupArchiveTests {
    private static let tar = ["/usr/bin/tar", "/bin/tar"].first(where: isExecutableFile)
    private static let known = ["data/bulkhead.sqlite": 3]
    private let archive: BackupArchive
    private let folder: TemporaryFolder

    init() throws {
        archive = try BackupArchive(tar: Self.tar)
        folder = try TemporaryFolder()
        try folder.write("database", to: "copy/data/bulkhead.sqlite")
        try folder.write("code", to: "copy/data/code/abc/main.py")
        try folder.write("secret", to: "copy/config/tenants.d/acme.yaml")
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/copy/data/code/abc/link", withDestinationPath: "main.py")
    }

    private var file: String { folder.path + "/backup.tar" }
    private var state: String { folder.path + "/state" }

    private func pack(schemas: [String: Int] = known) throws -> UInt64 {
        try archive.pack(folder.path + "/copy", release: "9.9", schemas: schemas, createdAt: 1, to: file)
    }
    private func refused(_ code: String, _ words: String, sourceLocation: SourceLocation = #_sourceLocation) throws {
        do throws(Failure) {
            _ = try archive.restore(file, state: state, knownSchemas: Self.known)
            Issue.record("it was restored", sourceLocation: sourceLocation)
        } catch {
            let failure = error
            #expect(failure.code == code && failure.sentence.contains(words), "\(failure)", sourceLocation: sourceLocation)
        }
        let left = ((try? FileManager.default.contentsOfDirectory(atPath: state)) ?? []).filter { $0 != "lock" && $0 != "here" }
        #expect(left.isEmpty, "\(left)", sourceLocation: sourceLocation)
    }

    @Test("what is restored is what was packed, with the configuration for root alone")
    func whole() throws {
        #expect(try pack() > 1000)
        #expect(try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int == 0o600)
        #expect(!fileExists(file + ".partial"))
        let manifest = try archive.restore(file, state: state, knownSchemas: Self.known)
        #expect(manifest.files.count == 4 && manifest.release == "9.9")
        #expect(try folder.read("state/data/bulkhead.sqlite") == "database" && folder.read("state/data/code/abc/link") == "code")
        #expect(try folder.read("state/restored-config/tenants.d/acme.yaml") == "secret")
        #expect(try FileManager.default.attributesOfItem(atPath: state + "/restored-config")[.posixPermissions] as? Int == 0o700)
        #expect(try FileManager.default.contentsOfDirectory(atPath: state).sorted() == ["data", "lock", "restored-config"])
        // Now it is no empty folder any more.
        #expect(throws: Failure.self) { try archive.restore(file, state: state, knownSchemas: Self.known) }
    }

    @Test("what is no backup is said to be none, and what makes one; tar's own words do not come through")
    func noBackup() throws {
        let errors = folder.path + "/errors"
        let kept = dup(2)
        let taken = unsafe open(errors, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        try #require(kept >= 0 && taken >= 0)
        try Data("no archive".utf8).write(to: URL(fileURLWithPath: file))
        dup2(taken, 2)
        let failure = #expect(throws: Failure.self) { try archive.restore(file, state: state, knownSchemas: Self.known) }
        dup2(kept, 2)
        close(kept)
        close(taken)
        let sentence = failure?.sentence ?? ""
        #expect(sentence.contains("is no backup of Bulkhead") && sentence.contains("made by: bulkhead backup FILE"), "\(sentence)")
        // Other tests run beside this one: what tar says of damaged archives may stand there.
        #expect(try !folder.read("errors").contains("look like a tar archive"))
    }

    @Test("what can be read once only is refused before the state is touched")
    func unreadable() throws {
        try #require(unsafe mkfifo(file, 0o600) == 0)
        try refused("usage", "is no regular file")
        try FileManager.default.removeItem(atPath: file)
        try refused("usage", "does not exist")
    }

    @Test("a backup that is cut off or has one byte changed leaves nothing")
    func damaged() throws {
        _ = try pack()
        let whole = try #require(FileManager.default.contents(atPath: file))
        func write(_ data: Data) throws { try data.write(to: URL(fileURLWithPath: file)) }
        var changed = whole
        let place = try #require(whole.range(of: Data("database".utf8)))
        changed[place.lowerBound] ^= 1
        try write(changed)
        try refused("badBackup", "data/bulkhead.sqlite is damaged")
        try write(whole.prefix(place.lowerBound))
        try refused("badBackup", "Nothing was restored")
        try write(Data("no archive".utf8))
        try refused("badBackup", "no manifest")
        try write(Data())
        try refused("badBackup", "no manifest")
        try write(whole)
        _ = try archive.restore(file, state: state, knownSchemas: Self.known)
    }

    @Test("a backup of a newer release, and a state in use or not empty, are refused")
    func places() throws {
        _ = try pack(schemas: ["data/bulkhead.sqlite": 4])
        try refused("newerBackup", "schema 4")
        unsafe unlink(file)
        _ = try pack()
        try folder.write("x", to: "state/here")
        try refused("stateNotEmpty", "here")
        try FileManager.default.removeItem(atPath: state + "/here")
        let running = try StateDirectory.open(state)
        try withExtendedLifetime(running) { try refused("stateInUse", "A node runs") }
    }

    @Test("a backup that does not fit leaves no file, neither whole nor half; one that is there stays")
    func full() throws {
        try folder.write("mine", to: "backup.tar")
        #expect(throws: Failure.self) { try pack() }
        #expect(try folder.read("backup.tar") == "mine")
        let disk = folder.path + "/disk"
        unsafe mkdir(disk, 0o700)
        guard unsafe mount("tmpfs", disk, "tmpfs", 0, "size=64k") == 0 else { return }
        defer { unsafe umount(disk) }
        try folder.write(String(repeating: "x", count: 256 << 10), to: "copy/data/large")
        #expect(throws: Failure.self) {
            try archive.pack(folder.path + "/copy", release: "1", schemas: [:], createdAt: 1, to: disk + "/b.tar")
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: disk).isEmpty)
    }
}
