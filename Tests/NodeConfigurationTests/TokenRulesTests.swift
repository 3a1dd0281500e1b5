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
        "rsa1024.pem": """
        -----BEGIN PUBLIC KEY-----
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDIcTuq7tZSHCJ+nbGhok/pdMzg
        SaFoTYjBO83wFjpj36Y0EU5eAEPN3H/XDgmiZDrTkovi7fbxfrMcMuEXWOhx5ncN
        zwbRsEBCX0urCLf7g2Rt3wuuQq7CqfSPSgBSr7mzfWqP+KylnR85yJ8zzoqC8Tfp
        YuZY8wDbPFLI1frvAwIDAQAB
        -----END PUBLIC KEY-----

        """,
        "rsa2048.pem": """
        -----BEGIN PUBLIC KEY-----
        MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqM/bDUD9SxHRSEXsRr78
        doElH67+7k0Xlx7/kWs7YCFzg6d+1EA2RsxG3SF/V0rVcnXln7osX3boBiY1W+I9
        8N6BgsURiJfctB/UOzgjR4IK4AZU7LcSWpNxdZpdbAw5zH9ID4T38BnWlxUYGuFR
        1n09yvb6SthgZdaLy+s7LhUMBenrDkB9LdAv5q/BA7+WXZHNKFSyiKWlWdLjnYUV
        O8OR7/tY3+4DqjNn6YKKnypcVaAqZN0PJOVqANRwjZG3ePcyQLE2d/tvpp8muX/f
        A5vFqNyQlvKRHLWnaWkR2xMI/AJptJTg/JYRXkc592hDPOluZiR/XythIUPzLtNp
        +QIDAQAB
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
        for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
            let rsa = try #require(try folder.tenant("tokens: {algorithm: \(algorithm), key: file:secrets/rsa2048.pem}\n")?.tokens)
            #expect(rsa.algorithm.rawValue == algorithm && rsa.keys.map { $0.bytes.count } == [294] && rsa.keys[0].bytes.first == 0x30)
        }
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
                "2:21: `algorithm` must be written as one of HS256, RS256, RS384, RS512, PS256, PS384, PS512, ES256, EdDSA, not `none`"
            ),
            ("tokens: {algorithm: HS512, key: file:secrets/secret}", "not `HS512`"),
            ("tokens: {algorithm: RS512, key: file:secrets/secret}", "2:33: `key` of RS512 is a public RSA key of 2048 to 8192 bits"),
            ("tokens: {algorithm: RS384, key: file:secrets/p256.pem}", "2:33: `key` of RS384 is a public RSA key"),
            ("tokens: {algorithm: PS384, key: file:secrets/ed25519.pem}", "2:33: `key` of PS384 is a public RSA key"),
            ("tokens: {algorithm: PS512, key: file:secrets/rsa1024.pem}", "2:33: `key` of PS512 has 2048 to 8192 bits, and this has 1024"),
            ("tokens: {algorithm: RS256, key: file:secrets/secret}", "2:33: `key` of RS256 is a public RSA key of 2048 to 8192 bits"),
            ("tokens: {algorithm: RS256, key: file:secrets/p256.pem}", "2:33: `key` of RS256 is a public RSA key"),
            ("tokens: {algorithm: RS256, key: file:secrets/ed25519.pem}", "2:33: `key` of RS256 is a public RSA key"),
            ("tokens: {algorithm: RS256, key: file:secrets/rsa1024.pem}", "2:33: `key` of RS256 has 2048 to 8192 bits, and this has 1024"),
            ("tokens: {algorithm: PS256, key: file:secrets/rsa1024.pem}", "2:33: `key` of PS256 has 2048 to 8192 bits, and this has 1024"),
            ("tokens: {algorithm: ES256, key: file:secrets/rsa2048.pem}", "on the curve P-256"),
            ("tokens: {algorithm: EdDSA, key: file:secrets/rsa2048.pem}", "is a public Ed25519 key"),
            ("tokens: {algorithm: HS256, key: file:secrets/rsa2048.pem}", "of HS256 is a secret, and this is a key in PEM form"),
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

    @Test("an RSA key beyond the largest size, and a private one, are refused where they are named")
    func sizes() throws {
        let folder = try KeyFolder()
        try folder.write("secrets/big.pem", Self.big)
        for (name, sentence) in [("big.pem", "of RS256 "), ("rsa.key", "of RS256 is a public RSA key")] {
            if name == "rsa.key" {
                try folder.write(
                    "secrets/rsa.key", try #require(KeyFolder.files["rsa2048.pem"]).replacing("PUBLIC KEY", with: "RSA PRIVATE KEY"))
            }
            let text = told { () throws(ConfigurationErrors) in
                _ = try folder.tenant("tokens: {algorithm: RS256, key: [file:secrets/rsa2048.pem, file:secrets/\(name)]}\n")
            }
            #expect(text.contains("acme.yaml:2:33: `key` \(sentence)") && text.contains("8192 bits"), "\(text)")
        }
    }
    /// 8200 bits.
    private static let big = """
        -----BEGIN PUBLIC KEY-----
        MIIEIzANBgkqhkiG9w0BAQEFAAOCBBAAMIIECwKCBAIAtX9oHF8q0daCrAJ1gTyZ
        uLgHPeUPeYGEq+HejlzktuUUBQSRRE8DQXSYjHiKI23P4/d35WjcaScVcQEZoGKe
        +tYhJUfcScaXPFy09mATJrNlNf2X1JWGCTVgnnJLVIcGwyLKH9P2w2j3efawEoPX
        IhhSrrTwHIBvQEReqdRbVW3+3dlMgYa3US66R5G5qFBh3n7r+IqER2tTBDYuyx6n
        gt0+hsYnBUpXAsedyvKUA73uKweLN0luiIzscp31XkgJLswkomtiwJxRM47CaBnD
        oX0DHBBcH4fc7lfFUInJroQNhawKPyUkYOhjpCp4GPk3T9QUdG5Aa1E7eQsLrz61
        8eP6BJjOP1UrMRMu79pf52kjxaofci9yx3341kQ2gkhkSPlbSFgwpmF0scq6JvEp
        Q1GudFuZUc9hfy3118XErAX4HORibL0NzQV0aWCUmj575DENwkuwPW36hGVnQW6E
        3vrXxmPw5AKQb98k5UloDUA6P/9r6f/spn80Uo3I98fPK18KMrFlhFeLbf+jyUVF
        AFE/peju076D25HwWNWxJKgV55oL/+X0SOAAUgJ1NQVldrt5dTLq620uqYXSzBC+
        TtO1a4BCJy7JypNd1+fKmxzrJQNWZT68FFBX9lXb7Yb+ctcm4WUhezuJzmx/SwyR
        QMeo+x4Be+KtNlvCcNRwsVRH349fCuTiUR/Z7CTfzljLHkmqId/vWUEf1IDYxcZN
        GmSYMzKV8kkoEPcFDDcn+ewS2HojGP5wHDogYhZYgvnYbHHK1q5yWfS5tmqJeBIj
        hRPSsK7eYDkqMrEWYp476fxbdXO8DwSdw/Vc7dbnCI3GIWEzmQwM18U/09sIRYTh
        Zl1Be/UB0z75B6ekVkYXTe2DAAV2N/Q3nsNnlNBM8kMtjHTDz4q9vZCpDckpYEQ9
        y6lTnerwkbvRVWKLOlo2hv49Uw5aC5wS18JNjCrjS5jrEBC8pEo9zo6WqZv3eG5l
        zxy/mzdPYEKzRtykVIzBh3LlG72mFEIqjRbCmj/CX4M0rNPYIKbZD3A3QnpcgNE3
        8bToHZZHFnEOt91nZPUWmsGlKdDEXXea41M+WlMjxNjfb8M6/aQUOV9RPFWL+F1z
        AiYUQuL9qGd2NiydgS5c2ItQIdjpvME3R3r9jIHbOPKktyAEXCwmbV340VINhEmj
        fxDiGLRylu6xBPlw9ON1lKJwYqf3tP5uHdJsdaaT/aPdXrSNwDMr9QszM3oD+7Cd
        s63S59QYzcI760EBnFKXHH4tOjTVFhiDtrpUv4/C/RsYM+ZnuLA4P9/RLPloA3ZT
        HEl4WalTLNEdp9QYNrslfWIbhNUIUibn4dkYv/uFw+4Ei9QnZqD+x+2i//NjrE6D
        2EMCAwEAAQ==
        -----END PUBLIC KEY-----

        """

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
