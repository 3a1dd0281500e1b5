// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Testing

private func told(_ body: () throws(ConfigurationErrors) -> Void) -> String {
    do throws(ConfigurationErrors) {
        try body()
        return ""
    } catch { return error.description }
}

/// A configuration's directory that goes away with it.
private final class Folder {
    let path = NSTemporaryDirectory() + "bulkhead-secret-" + UUID().uuidString.prefix(8)
    init() throws {
        for folder in ["/tenants.d", "/secrets"] {
            try FileManager.default.createDirectory(atPath: path + folder, withIntermediateDirectories: true)
        }
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ text: String) throws { try text.write(toFile: path + "/" + name, atomically: false, encoding: .utf8) }

    func load() throws(ConfigurationErrors) -> NodeConfiguration { try NodeConfiguration.load(directory: path) }
}

@Suite struct SecretTests {
    @Test("secrets from the file itself and from files beside it, and whom to tell")
    func whole() throws {
        let folder = try Folder()
        try folder.write("secrets/token", "from a file\n\n")
        try folder.write(
            "bulkhead.yaml",
            "notify: [{command: [/usr/bin/logger, -t, bulkhead]}, {webhook: \"https://ops/\", secret: file:secrets/token}]\n")
        try folder.write(
            "tenants.d/acme.yaml",
            """
            tenant: acme
            quota: {buckets: 5GiB}
            secrets: {API_TOKEN: s3cret, OTHER: "file:secrets/token"}
            notify: [{webhook: "https://hooks/x", secret: OTHER}, {webhook: "http://hooks/y"}]
            buckets: [thumbs, photos]
            """)
        let node = try folder.load()
        let acme = try #require(node.tenants.first)
        let token = Secret(Array("from a file\n".utf8))
        #expect(acme.secrets == ["API_TOKEN": Secret(Array("s3cret".utf8)), "OTHER": token])
        #expect(acme.notify == [.webhook(url: "https://hooks/x", secret: token), .webhook(url: "http://hooks/y", secret: nil)])
        #expect(acme.buckets.map(\.text) == ["photos", "thumbs"] && acme.bucketBytes == 5 << 30)
        #expect(node.notify == [.command(["/usr/bin/logger", "-t", "bulkhead"]), .webhook(url: "https://ops/", secret: token)])
    }

    @Test(
        "mistakes about secrets and who is told have a place and a way out",
        arguments: [
            ("secrets: [A]", "`key: value` pairs"), ("secrets: {a-b: x}", "2:16: `a-b` is not a secret's name"),
            ("secrets: {A: \"\"}", "1 to 65536 bytes"), ("secrets: {A: [x]}", "`A` must be a text"),
            ("secrets: {A: \"file:secrets/none\"}", "2:14: `secrets/none` is not a file that can be read"),
            ("secrets: {A: \"file:../x\"}", "`../x` must be a file in the folder `secrets`"),
            ("secrets: {A: \"file:/etc/hostname\"}", "must be a file in"), ("secrets: {A: \"file:secrets/out\"}", "no link out of it"),
            ("secrets: {A: \"file:secrets/outer/hostname\"}", "no link out of it"),
            ("secrets: {A: \"file:tenants.d/acme.yaml\"}", "must be a file in"),
            ("secrets: {A: \"file:secrets/empty\"}", "`secrets/empty` is empty"),
            ("secrets: {A: \"file:secrets/long\"}", "longer than 65536 bytes"),
            ("secrets: {A: \"file:\"}", "must be a file in"), ("secrets: {A: \"file:secrets/pipe\"}", "is not a file"),
            ("notify: [{command: [/bin/sh]}]", "2:20: `command` is only for the node's owner"),
            ("notify: [{webhook: \"https://x\", secret: A}]", "`A` is not in `secrets`: add it there"),
            ("notify: [{secret: A}]", "`webhook` is missing"), ("notify: [{webhook: \"file:///x\"}]", "an URL with http or https"),
            ("notify: [{webhook: \"https://u@x/\"}]", "without a user in it"), ("buckets: [A]", "`buckets` lists buckets' names, not `A`"),
            ("quota: {buckets: 1}", "`buckets` must be written as a size"),
        ])
    func mistakes(line: String, sentence: String) throws {
        let folder = try Folder()
        try folder.write("secrets/empty", "\n")
        try folder.write("secrets/long", String(repeating: "x", count: (64 << 10) + 1))
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/secrets/out", withDestinationPath: "/etc/hostname")
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/secrets/outer", withDestinationPath: "/etc")
        _ = unsafe mkfifo(folder.path + "/secrets/pipe", 0o600)
        try folder.write("tenants.d/acme.yaml", "tenant: acme\n\(line)\n")
        let text = told { () throws(ConfigurationErrors) in _ = try folder.load() }
        #expect(text.hasPrefix("tenants.d/acme.yaml:") && text.contains(sentence), "\(text)")
    }

    @Test("a link that stays inside is followed; the largest file fits")
    func inside() throws {
        let folder = try Folder()
        try folder.write("secrets/real", String(repeating: "x", count: 64 << 10))
        try FileManager.default.createSymbolicLink(atPath: folder.path + "/secrets/link", withDestinationPath: "real")
        try folder.write("tenants.d/acme.yaml", "tenant: acme\nsecrets: {A: \"file:secrets/link\"}\n")
        #expect(try folder.load().tenants.first?.secrets["A"]?.bytes.count == 64 << 10)
    }

    @Test("the node's own commands are whole paths")
    func commands() throws {
        let folder = try Folder()
        try folder.write("bulkhead.yaml", "notify: [{command: logger}]\n")
        let text = told { () throws(ConfigurationErrors) in _ = try folder.load() }
        #expect(text.contains("bulkhead.yaml:1:20: `command` begins with the whole path"), "\(text)")
    }

    @Test("no secret's value is in a difference, a text or a dump")
    func hidden() throws {
        func node(_ text: String) throws -> NodeConfiguration {
            var node = NodeConfiguration()
            node.tenants = [try TenantConfiguration(yaml: Array(("tenant: acme\n" + text).utf8), file: "t", name: "acme")]
            return node
        }
        let old = try node("secrets: {A: hunter1, B: hunter2, D: hunter4}\n")
        let new = try node(
            "secrets: {B: hunter3, C: hunter3, D: hunter4}\nnotify: [{webhook: \"https://x/y?token=hunter5\", secret: C}]\nbuckets: [p]\n")
        let changes = new.difference(from: old).map { "\($0.tenant) \($0.key): \($0.before) -> \($0.after)" }
        #expect(
            changes == [
                "acme notify: none -> https://x/y signed", "acme buckets: none -> p", "acme secrets.A: set -> none",
                "acme secrets.B: set -> changed",
                "acme secrets.C: none -> set",
            ])
        var dumped = ""
        dump(old, to: &dumped)
        let secret = Secret(Array("hunter2".utf8))
        for text in ["\(secret)", String(reflecting: secret), String(reflecting: old), "\(old)", dumped] {
            #expect(!text.contains("hunter") && !text.contains("104"), "\(text)")
        }
    }
}
