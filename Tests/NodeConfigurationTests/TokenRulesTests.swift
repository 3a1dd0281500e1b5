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

/// A configuration's directory with keys of every kind, that goes away with it.
private final class KeyFolder {
    static let secret = "0123456789abcdef0123456789abcdef"
    static let files = [
        "secret": secret, "other": String(secret.reversed()), "short": String(secret.dropLast()),
        "p256.pem": """
        -----BEGIN PUBLIC KEY-----
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVXltP7KJtR55aXn1jnfG3rgieTJf
        fzUlLs9xIGJutGNQ9Lqwy7EN2t8qddXmiqiDz4k7Mq4pfcXMU3fvZ/7q5g==
        -----END PUBLIC KEY-----

        """,
        "p384.pem": """
        -----BEGIN PUBLIC KEY-----
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEm/YQasjpqhVj9X04C1wKq+EPJ1S1po4s
        4UAmUVvFnkgKOVIKXaWd34mHv00oiPWETcEnb9uDaJkvAcd7z8nyh+9LVc77XZs0
        itzckpCb9XxAuG9z0MHpAzWDE6phD+X2
        -----END PUBLIC KEY-----

        """,
        "ed25519.pem": """
        -----BEGIN PUBLIC KEY-----
        MCowBQYDK2VwAyEAAPiX5gIIGBk/aoeo4j/LuDRS25TiBEuSqiktNHaT+yY=
        -----END PUBLIC KEY-----

        """,
    ]

    let path = NSTemporaryDirectory() + "bulkhead-tokens-" + UUID().uuidString.prefix(8)
    init() throws {
        for folder in ["/tenants.d", "/secrets"] {
            try FileManager.default.createDirectory(atPath: path + folder, withIntermediateDirectories: true)
        }
        for (name, text) in Self.files { try write("secrets/" + name, text) }
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ text: String) throws { try text.write(toFile: path + "/" + name, atomically: false, encoding: .utf8) }

    func tenant(_ text: String) throws(ConfigurationErrors) -> TenantConfiguration? {
        try? write("tenants.d/acme.yaml", "tenant: acme\n" + text)
        return try NodeConfiguration.load(directory: path).tenants.first
    }
}

@Suite struct TokenRulesTests {
    @Test("how tokens are verified, with keys of every kind")
    func whole() throws {
        let folder = try KeyFolder()
        let acme = try #require(
            try folder.tenant(
                """
                users: {key: claim:sub, default: {concurrency: 2}}
                tokens:
                  {header: X-Token, issuer: "https://id.example/", audience: shop, algorithm: HS256,
                   key: [file:secrets/secret, file:secrets/other]}
                """))
        #expect(acme.users?.key == .claim("sub") && acme.users?.key.description == "claim:sub")
        let tokens = try #require(acme.tokens)
        #expect(tokens.header == "X-Token" && tokens.issuer == "https://id.example/" && tokens.audience == "shop")
        #expect(tokens.algorithm == .hs256 && tokens.keys.map { $0.bytes.count } == [32, 32])
        let elliptic = try #require(try folder.tenant("tokens: {algorithm: ES256, key: file:secrets/p256.pem}\n")?.tokens)
        #expect(elliptic.header == "Bulkhead-User-Token" && elliptic.issuer == nil && elliptic.audience == nil)
        #expect(elliptic.keys.map { $0.bytes.count } == [65] && elliptic.keys[0].bytes.prefix(2) == [4, 0x55])
        let edwards = try #require(try folder.tenant("tokens: {algorithm: EdDSA, key: file:secrets/ed25519.pem}\n")?.tokens)
        #expect(edwards.keys.map { $0.bytes.count } == [32] && edwards.keys[0].bytes.prefix(2) == [0, 0xF8])
        // As a key that stands in the file itself, like every other secret may.
        #expect(try folder.tenant("tokens: {algorithm: HS256, key: \(KeyFolder.secret)}\n")?.tokens?.keys.count == 1)
    }

    @Test(
        "mistakes have a place and a way out",
        arguments: [
            ("users: {key: claim:sub}", "2:8: `key: claim:NAME` needs `tokens`"), ("tokens: 5", "`key: value` pairs"),
            ("tokens: {}", "2:9: `algorithm` is missing"), ("tokens: {}", "`key` is missing"),
            ("tokens: {algorithm: HS256}", "2:9: `key` is missing"), ("tokens: {key: file:secrets/secret}", "`algorithm` is missing"),
            (
                "tokens: {algorithm: none, key: file:secrets/secret}",
                "2:21: `algorithm` must be written as one of HS256, ES256, EdDSA, not `none`"
            ),
            ("tokens: {algorithm: RS256, key: file:secrets/secret}", "not `RS256`"),
            ("tokens: {algorithm: [HS256], key: x}", "not `a list`"),
            ("tokens: {algorithm: HS256, key: file:secrets/none}", "2:33: `secrets/none` is not a file that can be read"),
            ("tokens: {algorithm: HS256, key: file:../x}", "must be a file in the folder `secrets`"),
            ("tokens: {algorithm: HS256, key: file:secrets/short}", "2:33: `key` of HS256 has at least 32 bytes, and this has 31"),
            ("tokens: {algorithm: HS256, key: file:secrets/p256.pem}", "2:33: `key` of HS256 is a secret, and this is a key in PEM form"),
            ("tokens: {algorithm: ES256, key: file:secrets/secret}", "2:33: `key` of ES256 is a public key on the curve P-256"),
            ("tokens: {algorithm: ES256, key: file:secrets/p384.pem}", "on the curve P-256"),
            ("tokens: {algorithm: ES256, key: file:secrets/ed25519.pem}", "on the curve P-256"),
            ("tokens: {algorithm: EdDSA, key: file:secrets/p256.pem}", "2:33: `key` of EdDSA is a public Ed25519 key"),
            ("tokens: {algorithm: EdDSA, key: file:secrets/secret}", "is a public Ed25519 key"),
            ("tokens: {algorithm: HS256, key: [a, b, c, d, e]}", "2:33: `key` has 5 entries; at most 4"),
            (
                "tokens: {algorithm: HS256, key: file:secrets/secret, header: Authorization}",
                "2:62: `header` must be written as a header's name"
            ),
            ("tokens: {algorithm: HS256, key: file:secrets/secret, header: authorization}", "which is the API key's"),
            ("tokens: {algorithm: HS256, key: file:secrets/secret, header: \"X Y\"}", "`header` must be written as"),
            ("tokens: {algorithm: HS256, key: file:secrets/secret, issuer: \"\"}", "2:62: `issuer` has 1 to 256 bytes"),
            ("tokens: {algorithm: HS256, key: file:secrets/secret, isuer: x}", "did you mean `issuer`?"),
            ("users: {key: \"claim:\"}", "claim:NAME"), ("users: {key: \"claim:a b\"}", "`key` must be written as key"),
        ])
    func mistakes(line: String, sentence: String) throws {
        let folder = try KeyFolder()
        let text = told { () throws(ConfigurationErrors) in _ = try folder.tenant(line + "\n") }
        #expect(text.hasPrefix("tenants.d/acme.yaml:2:") && text.contains(sentence), "\(text)")
    }

    @Test("a file of a key is read again at each reload, and the difference shows that it changed and not what it is")
    func change() throws {
        let folder = try KeyFolder()
        var files = TenantFiles()
        func load() throws -> NodeConfiguration { try NodeConfiguration.load(directory: folder.path, &files) }
        try folder.write("tenants.d/acme.yaml", "tenant: acme\ntokens: {algorithm: HS256, key: file:secrets/secret}\n")
        // Long ago, so that the file of the tenant is known again by its times.
        try FileManager.default.setAttributes(
            [.modificationDate: Date(timeIntervalSince1970: 1_600_000_000)], ofItemAtPath: folder.path + "/tenants.d/acme.yaml")
        let old = try load()
        try folder.write("secrets/secret", String(KeyFolder.secret.reversed()))
        let new = try load()
        #expect(new.difference(from: old).map { "\($0.key): \($0.before) -> \($0.after)" } == ["tokens.key: set -> changed"])
        try folder.write("tenants.d/acme.yaml", "tenant: acme\n")
        #expect(
            try load().difference(from: new).map { "\($0.key): \($0.before) -> \($0.after)" } == [
                "tokens.header: Bulkhead-User-Token -> none", "tokens.algorithm: HS256 -> none",
            ])
    }

    @Test("a function's users may be told apart by a claim")
    func function() throws {
        let text = "function: x\nruntime: python3\nhandler: a.b\nusers: {concurrency: 1, key: \"claim:https://example.com/team\"}\n"
        #expect(try FunctionManifest(yaml: Array(text.utf8)).users?.key == .claim("https://example.com/team"))
    }
}
