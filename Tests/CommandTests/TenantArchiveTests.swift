// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
import Glibc
import Testing

@testable import CommandKit

/// A tar archive built by hand, so that it can say anything.
struct HandmadeTar {
    var bytes: [UInt8] = []

    mutating func add(
        _ name: String, _ content: [UInt8] = [], type: Character = "0", link: String = "", size: String? = nil, spoilsSum: Bool = false
    ) {
        var header = [UInt8](repeating: 0, count: 512)
        func put(_ text: String, _ at: Int) { for (index, byte) in text.utf8.enumerated() { header[at + index] = byte } }
        put(name, 0)
        put("0000600\0", 100)
        put(size ?? String(repeating: "0", count: 11 - String(content.count, radix: 8).count) + String(content.count, radix: 8), 124)
        put(link, 157)
        put("ustar\u{0}00", 257)
        header[156] = type.asciiValue ?? 0
        put("        ", 148)
        let sum = header.reduce(spoilsSum ? 1 : 0) { $0 + Int($1) }
        let digits = String(sum, radix: 8)
        put(String(repeating: "0", count: 6 - digits.count) + digits + "\0 ", 148)
        bytes += header + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    }

    /// An extended header with one record.
    mutating func extend(_ key: String, _ value: String) {
        let rest = " \(key)=\(value)\n"
        var length = rest.utf8.count
        while String(length).utf8.count + rest.utf8.count != length { length = String(length).utf8.count + rest.utf8.count }
        add("PaxHeaders/x", Array("\(length)\(rest)".utf8), type: "x")
    }

    mutating func end() { bytes += [UInt8](repeating: 0, count: 1024) }
}

/// Archives of tenants that are whole, damaged, newer or hostile.
@Suite struct TenantArchiveTests {
    private let folder: TemporaryFolder
    private static let about = #"{"tenant": "acme", "secretsLeftOut": ["TOKEN"], "hasBuckets": true}"#
    private static let parts = [
        "about.json": about, "quota.yaml": "tenant: acme\n", "tenant.json": "{}", "code/\(String(repeating: "a", count: 64)).tar": "code",
        "buckets/in/a/b.txt": "object", "secrets/TOKEN": "x",
    ]

    init() throws { folder = try TemporaryFolder() }

    private func manifest(_ parts: [String: String], schema: Int = 1, format: Int? = nil) throws -> [UInt8] {
        var files: [String: BackupManifest.Entry] = [:]
        for (path, text) in parts {
            let digest = SHA256.hash(data: Data(text.utf8)).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            files[path] = BackupManifest.Entry(size: UInt64(text.utf8.count), sha256: digest, isLink: false)
        }
        var manifest = BackupManifest(release: "9.9", schemas: ["tenant.json": schema], createdAt: 1, files: files)
        if let format { manifest.format = format }
        return Array(try JSONEncoder().encode(manifest))
    }

    private func archive(_ parts: [String: String] = parts, _ spoil: (inout HandmadeTar) -> Void = { _ in }) throws -> [UInt8] {
        var tar = HandmadeTar()
        tar.add("manifest.json", try manifest(parts))
        spoil(&tar)
        for (path, text) in parts.sorted(by: { $0.key < $1.key }) { tar.add(path, Array(text.utf8)) }
        tar.end()
        return tar.bytes
    }

    private func unpack(_ bytes: [UInt8], _ place: String = "out") throws(Failure) -> TenantArchiveAbout {
        do {
            try Data(bytes).write(to: URL(fileURLWithPath: folder.path + "/archive"))
            try? FileManager.default.removeItem(atPath: folder.path + "/" + place)
            try FileManager.default.createDirectory(atPath: folder.path + "/" + place, withIntermediateDirectories: true)
            return try TenantArchive.unpack(
                folder.path + "/archive", into: try Directory.open(folder.path + "/" + place), schema: 1)
        } catch let failure as Failure { throw failure } catch { throw .failed("test", "\(error)") }
    }

    private func refused(
        _ bytes: [UInt8], _ words: String, _ code: String = "badArchive", sourceLocation: SourceLocation = #_sourceLocation
    ) {
        do throws(Failure) {
            _ = try unpack(bytes)
            Issue.record("it was taken", sourceLocation: sourceLocation)
        } catch {
            let failure = error
            #expect(failure.code == code && failure.sentence.contains(words), "\(failure)", sourceLocation: sourceLocation)
        }
        // Whatever it was, nothing is outside.
        let all = (try? FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()) ?? []
        #expect(all == ["archive", "out"], "\(all)", sourceLocation: sourceLocation)
    }

    @Test("a whole archive is unpacked, long paths and folders included")
    func whole() throws {
        let key = "buckets/in/" + (0..<5).map { _ in String(repeating: "k", count: 180) }.joined(separator: "/")
        var parts = Self.parts
        parts[key] = "far"
        var tar = HandmadeTar()
        tar.add("manifest.json", try manifest(parts))
        tar.add("buckets/", type: "5")
        for (path, text) in parts.sorted(by: { $0.key < $1.key }) {
            if path.utf8.count > 100 { tar.extend("path", path) }
            tar.add(String(path.prefix(100)), Array(text.utf8))
        }
        tar.end()
        #expect(try unpack(tar.bytes).secretsLeftOut == ["TOKEN"])
        #expect(try folder.read("out/" + key) == "far" && folder.read("out/buckets/in/a/b.txt") == "object")
        let attributes = try FileManager.default.attributesOfItem(atPath: folder.path + "/out/quota.yaml")
        #expect(attributes[.posixPermissions] as? Int == 0o600)
    }

    @Test("what tar packs with a manifest is read")
    func packed() throws {
        for (path, text) in Self.parts { try folder.write(text, to: "copy/" + path) }
        try folder.write("far", to: "copy/buckets/in/" + String(repeating: "long/", count: 60) + "x")
        let tar = ["/usr/bin/tar", "/bin/tar"].first(where: isExecutableFile)
        _ = try BackupArchive(tar: tar).pack(
            folder.path + "/copy", release: "1", schemas: ["tenant.json": 1], createdAt: 1, to: folder.path + "/packed")
        let about = try unpack(Array(try #require(FileManager.default.contents(atPath: folder.path + "/packed"))))
        #expect(about.tenant == "acme")
        // A node's backup is something else, and the other way round.
        #expect(throws: Failure.self) {
            try BackupArchive(tar: tar).restore(folder.path + "/packed", state: folder.path + "/state", knownSchemas: [:])
        }
    }

    @Test("one byte changed or cut off anywhere is refused")
    func damaged() throws {
        let whole = try archive()
        // Behind the last entry stand only zeros.
        let end = whole.count - 1024
        // Which release wrote it is said to people and judges nothing.
        let release = try #require(whole.firstRange(of: Array("\"9.9\"".utf8)))
        for place in stride(from: 0, to: end, by: 97) {
            var bytes = whole
            bytes[place] ^= 0x11
            let taken = (try? unpack(bytes)) != nil
            // Of a header's fields that mean nothing here (mode, owner, times) a change shows in its sum.
            let isPadding = whole[place] == 0 && isBehindContent(whole, place)
            #expect(!taken || isPadding || release.contains(place), "byte \(place)")
            #expect((try? unpack(Array(whole.prefix(place)))) == nil, "cut at \(place)")
        }
        refused(Array(whole.prefix(end)), "cut off")
    }

    /// Whether a place lies between the end of a file and the next header.
    private func isBehindContent(_ bytes: [UInt8], _ place: Int) -> Bool {
        var header = 0
        while header + 512 <= bytes.count, bytes[header] != 0 {
            let size = Int(String(decoding: bytes[(header + 124)..<(header + 135)], as: UTF8.self), radix: 8) ?? 0
            let next = header + 512 + (size + 511) / 512 * 512
            if place < next { return place >= header + 512 + size }
            header = next
        }
        return true
    }

    @Test("links, devices, sparse files, ways out and strange headers are refused")
    func hostile() throws {
        for type in ["1", "2", "3", "4", "6", "7", "S", "L", "K", "g", "D"] as [Character] {
            refused(try archive { $0.add("code/x", type: type, link: "/etc/passwd") }, "type \(type)")
        }
        for path in ["../x", "/etc/x", "code/../../x", "./about.json", "a//b", "code/.."] {
            refused(try archive { $0.add(path, [1]) }, "leads out")
            refused(
                try archive {
                    $0.extend("path", path)
                    $0.add("x", [1])
                }, "leads out")
        }
        for key in ["GNU.sparse.size", "linkpath", "SCHILY.xattr.security.capability", "hdrcharset"] {
            refused(
                try archive {
                    $0.extend(key, "1")
                    $0.add("x", [1])
                }, "which Bulkhead does not write")
        }
        refused(
            try archive {
                $0.extend("size", "99999999999999999999")
                $0.add("x", [1])
            }, "broken number")
        refused(try archive { $0.add("x", size: "77777777777") }, "not in its manifest")
        refused(try archive { $0.add("x", [1], spoilsSum: true) }, "header is damaged")
        refused(try archive { $0.add("PaxHeaders/x", Array("99 path=a\n".utf8), type: "x") }, "extended header is damaged")
        refused(try archive { $0.add("quota.yaml", Array("tenant: acme\n".utf8)) }, "there twice")
        refused(try archive { $0.add("quota2.yaml", [1]) }, "not in its manifest")
        refused(Array("no archive".utf8), "cut off")
        refused([UInt8](repeating: 7, count: 2048), "no tar archive")
    }

    @Test("a manifest that lies, is newer, or names what is no part of an archive is refused")
    func manifests() throws {
        func with(_ manifest: [UInt8], _ parts: [String: String] = Self.parts) -> [UInt8] {
            var tar = HandmadeTar()
            tar.add("manifest.json", manifest)
            for (path, text) in parts.sorted(by: { $0.key < $1.key }) { tar.add(path, Array(text.utf8)) }
            tar.end()
            return tar.bytes
        }
        refused(with(try manifest(Self.parts, schema: 2)), "newer release (9.9", "newerArchive")
        refused(with(try manifest(Self.parts, format: 2)), "newer release", "newerArchive")
        var more = Self.parts
        more["code/\(String(repeating: "b", count: 64)).tar"] = "x"
        refused(with(try manifest(more)), "is missing")
        var lies = Self.parts
        lies["quota.yaml"] = "tenant: evil\n"
        refused(with(try manifest(lies)), "checksum")
        for path in [
            "code/x.tar", "secrets/../x", "secrets/a/b", "buckets/In/x", "buckets/in/a/../b", "buckets/in", "else",
            "code/\(String(repeating: "A", count: 64)).tar",
        ] {
            var parts = Self.parts
            parts[path] = "x"
            refused(with(try manifest(parts)), "no part of it")
        }
        refused(with(Array("{}".utf8)), "manifest cannot be read")
        var huge = try JSONDecoder().decode(BackupManifest.self, from: Data(try manifest(Self.parts)))
        huge.files["buckets/in/huge"] = BackupManifest.Entry(size: 1 << 49, sha256: "", isLink: false)
        refused(with(Array(try JSONEncoder().encode(huge))), "has", "diskFull")
        huge.files["buckets/in/huge"]?.size = .max
        refused(with(Array(try JSONEncoder().encode(huge))), "impossible sizes")
        for number in 0...TenantArchive.fileLimit {
            huge.files["buckets/in/\(number)"] = BackupManifest.Entry(size: 0, sha256: "", isLink: false)
        }
        refused(with(Array(try JSONEncoder().encode(huge))), "at most")
    }

    @Test("a disk that is full is said to be")
    func full() throws {
        let disk = folder.path + "/out"
        unsafe mkdir(disk, 0o700)
        guard unsafe mount("tmpfs", disk, "tmpfs", 0, "size=64k") == 0 else { return }
        defer { unsafe umount(disk) }
        let bytes = try archive()
        try Data(bytes).write(to: URL(fileURLWithPath: folder.path + "/archive"))
        let place = try Directory.open(disk)
        do throws(Failure) {
            _ = try TenantArchive.unpack(folder.path + "/archive", into: place, schema: 1)
            Issue.record("it was taken")
        } catch { #expect(error.code == "diskFull") }
        #expect(try FileManager.default.contentsOfDirectory(atPath: disk).isEmpty, "nothing is begun that does not fit")
    }

    @Test("a tenant that is added is there with its secrets, and after a refusal nothing of it is; what is there already is not touched")
    func addition() throws {
        try folder.write("tenant: acme\n", to: "etc/tenants.d/acme.yaml")
        try folder.write("old", to: "etc/secrets/acme.TOKEN")
        let place = ConfigurationFolder(path: folder.path + "/etc", copy: nil, isEmbedded: false)
        let copy = try FunctionReference.tenant("copy"), acme = try FunctionReference.tenant("acme")
        let secret = TenantAddition.secretFile(copy, "TOKEN")
        let new = try TenantAddition(place, tenant: copy, file: Array("tenant: copy\n".utf8), secrets: [secret: [1]])
        try new.make(daemonGID: getegid())
        #expect(try folder.read("etc/tenants.d/copy.yaml") == "tenant: copy\n" && folder.read("etc/secrets/copy.TOKEN") == "\u{1}")
        let attributes = try FileManager.default.attributesOfItem(atPath: folder.path + "/etc/secrets/copy.TOKEN")
        #expect((attributes[.posixPermissions] as? Int ?? 0) & 0o007 == 0)
        try new.putBack()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/etc/tenants.d") == ["acme.yaml"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/etc/secrets") == ["acme.TOKEN"])
        #expect(throws: Failure.self) { try TenantAddition(place, tenant: acme, file: [], secrets: [:]) }
        #expect(throws: Failure.self) { try TenantAddition(place, tenant: copy, file: [], secrets: ["acme.TOKEN": [1]]) }
        // A node without a configuration keeps the tenant that it had.
        unsafe mkdir(folder.path + "/own", 0o755)
        let embedded = ConfigurationFolder(path: folder.path + "/own", copy: nil, isEmbedded: true)
        let first = try TenantAddition(embedded, tenant: copy, file: [], secrets: [:])
        try first.make(daemonGID: getegid())
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: folder.path + "/own/tenants.d").sorted() == ["copy.yaml", "default.yaml"])
        try first.putBack()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/own").isEmpty)
    }

    @Test("a tenant's file gets another name and other secrets, and every other line stays")
    func tenantFile() throws {
        let text = """
            # ours
            tenant: acme
            quota: {concurrency: 4}   # few
            secrets:
              TOKEN: file:secrets/token
              PIN: "12 34"
            notify: [{webhook: "https://example.com/a", secret: TOKEN}]

            """
        var file = try TenantFile(Array(text.utf8), file: "acme.yaml")
        #expect(file.secrets == ["TOKEN": "file:secrets/token", "PIN": "12 34"])
        try file.setTenant(try FunctionReference.tenant("copy"))
        try file.setSecret("TOKEN", nil)
        try file.setSecret("PIN", nil)
        #expect(!String(decoding: file.bytes, as: UTF8.self).contains("12 34") && file.secrets.isEmpty)
        try file.setSecret("TOKEN", "file:secrets/copy.TOKEN")
        let out = String(decoding: file.bytes, as: UTF8.self)
        #expect(out.contains("# ours") && out.contains("tenant: copy") && out.contains("# few") && out.contains("copy.TOKEN"))
        #expect(throws: Failure.self) { try TenantFile(Array("tenant: a\nsecrets: [x]\n".utf8), file: "a.yaml") }
    }
}
