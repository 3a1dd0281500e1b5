// SPDX-License-Identifier: Apache-2.0
import Core
import Crypto
import CryptoExtras
import Foundation
import Testing

@testable import Store

/// RSA with each of its hashes and paddings, and the form of signatures on a curve.
@Suite struct TokenSignatureTests {
    private static let now = 1_700_000_000.0
    /// Made with OpenSSL 3, whose private key is forgotten: `openssl dgst -sha512 -sign KEY -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest`.
    private static let published =
        "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA_U_1-Rt4uRfZI-_Hj1EW5YWx28hIpKxDezC5IIlQufy8ATntJcqBQdvAraKockXR_XJe39Tkkr0tx2u1KwIl"
        + "ENYp6DMUJrdVrmTafvznhXGPe0uXnSXEgVNRy27R7SpOtI2w3xuijxFTAFkE7Sol4xhJpv27r52vjofyMjgfCAitVz28hXmW_X2QbR9uS_5yR--u_nlMrUvv-yWzE6Im"
        + "a5RrBTwmBj2qupCrxfuF09pd0FJbWnWkHeZ5QacPGdAmuStdVoriMKL5cxfs1MtclsQhM22fk8vKgNDcSyQzqQ1n4lmWQwfJjx4RJl_8vldHro3iFiROm8TmtnmJN488"
        + "wQIDAQAB"
    /// `{"exp":1700000100,"sub":"ann"}`
    private static let body = "eyJleHAiOjE3MDAwMDAxMDAsInN1YiI6ImFubiJ9"
    private static let signatures: [TokenAlgorithm: String] = [
        .rs384:
            "gYgaqSpcb4fPfKZ4X5noQBnAkpR2YetXvSGTfGbz9EbaPWvbcvhZPQbfaJ26ZUGH9JTmLT0-"
            + "QKh0tlujuKv5XjMUBLyk82tSMuy5QDzFq4CUJC7Du_9psh8TmtZEGx6LaNvZcqeLYS5f0iU7VcxoBus5UZBDqroUy4Bm50WV3EHkpQ3pKtTzAeK3rTof3xs2fHtG0Jw7"
            + "JaShvyCGRll44cMOiyy9DZDlpeBkODuuipw4Gkjcq08kJdAQrGP2Pp1wvGTHjwRY6aliKUMJVHN75hpQrDcFJn3TKObpJe3-"
            + "SyC6DHxn4XKugJTPzusqM0rRUnnBckdwMVXx-QE9oKcH0A",
        .rs512:
            "C3KJRgnzdpxLjKku_V2zdySVkonojDqYamDIkadfh8GAY6TusnhFXSLcF3SJAfD5sUPHqh6Gz84-KhxcMs_b1a9WkzA-UTuttRccNJnbZB5wzReakftgxH2XqPw2xuI4"
            + "xQXAPhEOq2u916RUuPWWdTIv8wKGN8U-"
            + "HyoaAohoI0LxLiYu26nFaw7rauNcGSaqqB5jGJiAwPfcj2SK5R8zBONWPd3B4SC6x7NOar5KaE9jCH0WplmneGk3RCruHTW4NOho5KP5_prv88OdAPFaunMSB8DQwJbF"
            + "GBiT3-eWdUsFfYFAIGYMbuTO2mUgdOaaB4HSKOSWkUESevaQymHjWw",
        .ps384:
            "LI2FxTnKnB--Oveo_CNZ3jjEohbCyrHoeC0C88syirjWzmwcYTFPWXx9dfHsb62RoGZB6Bjet-"
            + "ps98pJDNHkDYpyGax_PNJV2bjFdYoKL8TxT5mIE1XzwYrA75e7nJPhNggi2ja0BmsQWVy3CK8cmw9zL52W0nnuqgmJk_z-"
            + "zTjs6ff5hLQUO1br4biviEER4gZutcJtcgD6MaVKk9ymc7szPjlAsR2RE0v_OUowLxcgDHABBIk8_JXIlrkjCgG-mKYTLW-_u2Y0Dy-"
            + "dpmspNGQaldh0ou_1NCRZFE3kpDfdGaN58npzmKk4tor4qigjANaXUYQ0O8wfdvlayrYGLA",
        .ps512:
            "DF82ANxAndSq71k5BEzwauM5ziyv3qEZ-4U9NXxkadIZykH5Udk1_JjF8BzfpJJUKb-8E5Qk-kx4QBWEnkerMv4F9GXytpYZhPVGrtJZ0u5PC0uLjXbzqWGBDB_CGhol"
            + "R8w1EZ0HvhzE6ySEU3_2xSzoifmyXPNDgY1nKCKhewppLoullLK_c0HQvjQpr5cujL1-HyEPGo95TFIIyxFjmID1OLHSQSuHD4Zg3_BHoCiF9TI3omUvKBsWhh-"
            + "MFzCtM1T5F-BNfFnsAskHHzCm_Ak6GEa7NqmZ8EfUsBK6xUkqy-VtaSYa8L0inv7QINBYBifvVEd8FrKXhouLBoWf4A",
    ]
    /// PS512 with a salt of 32 bytes: RFC 7518, section 3.5, has one of 64.
    private static let shortSalt =
        "2IRjQ5hTAYQP0fKx542i6BsdhXo2XUJOmzPIH2ggQs3kxo_TM_BGExH5yUJEETs_pQk6dA9ucqzKCREvmFVivAMlKj5jm8ba0-"
        + "FMiGh__n6gE4pKtGl1GYEdLFLuKYHCEMrrgkRSe3x9GR1XEn22Tk9imwnwiAWCW1I5qc_OK8hP_mKey0ERPf_DhsDrRRsfAtxQ_E-"
        + "d1NsyTPITPbXIewVOHXuowiEo7Ve43Znt0WFCpXPhxV4jfMHnJK0H37XPZgtEZhAayyBd3lrKVb4_bdPT9oDwCfcSIPtm_V9kmXneVTk4gounOiztdD6770aWNMLekG-"
        + "1VQ_K0xZyA5PpQA"

    private static let algorithms: [TokenAlgorithm] = [.rs256, .rs384, .rs512, .ps256, .ps384, .ps512]

    private func head(_ algorithm: TokenAlgorithm) -> String { encoded(Array(#"{"alg":"\#(algorithm.rawValue)"}"#.utf8)) }
    private func encoded(_ bytes: [UInt8]) -> String {
        Data(bytes).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
    }
    private func verifier(_ algorithm: TokenAlgorithm, _ key: [UInt8]) throws -> TokenVerifier {
        try #require(TokenVerifier(algorithm, keys: [key], issuer: nil, audience: nil))
    }
    private func fault(_ token: String, _ verifier: TokenVerifier) -> TokenVerifier.Fault? {
        if case .failure(let fault) = verifier.claims(token, at: Self.now) { fault } else { nil }
    }

    @Test("what another library signed is taken under its own name, and as nothing else", arguments: signatures.keys)
    func vectors(algorithm: TokenAlgorithm) throws {
        let key = try #require(Base64URL.bytes(Array(Self.published.utf8)))
        let signature = try #require(Self.signatures[algorithm])
        let token = "\(head(algorithm)).\(Self.body).\(signature)"
        #expect(try verifier(algorithm, key).claims(token, at: Self.now).get().word("sub") == "ann")
        #expect(
            try fault(
                token.replacing(signature, with: (signature.first == "A" ? "B" : "A") + signature.dropFirst()), verifier(algorithm, key))
                == .wrong)
        for other in Self.algorithms where other != algorithm { #expect(try fault(token, verifier(other, key)) == .wrong, "\(other)") }
    }

    @Test("a salt that is not as long as the hash is none of the algorithm's")
    func salt() throws {
        let key = try #require(Base64URL.bytes(Array(Self.published.utf8)))
        #expect(try fault("\(head(.ps512)).\(Self.body).\(Self.shortSalt)", verifier(.ps512, key)) == .wrong)
    }

    @Test("a token is taken with the configured hash and padding alone, whatever it says of itself")
    func confusion() throws {
        let privateKey = try _RSA.Signing.PrivateKey(keySize: .bits2048)
        let key = Array(privateKey.publicKey.derRepresentation)
        for named in Self.algorithms {
            let text = head(named) + "." + Self.body
            for signedAs in Self.algorithms {
                let token = text + "." + encoded(Array(try signature(text, privateKey, signedAs).rawRepresentation))
                #expect(try fault(token, verifier(named, key)) == (named == signedAs ? nil : .wrong), "\(named) that is \(signedAs)")
            }
            // What everybody knows of the key, taken for a secret.
            let forged = Signature.mac(Array(text.utf8), key)
            #expect(try fault(text + "." + encoded(forged), verifier(named, key)) == .wrong)
        }
    }

    @Test("ES256 takes the two numbers one after the other (RFC 7518, section 3.4), and the same signature in DER form is none")
    func curve() throws {
        let privateKey = P256.Signing.PrivateKey()
        let text = head(.es256) + "." + Self.body
        let signature = try privateKey.signature(for: Array(text.utf8))
        let verifier = try verifier(.es256, Array(privateKey.publicKey.x963Representation))
        let raw = Array(signature.rawRepresentation)
        #expect(raw.count == 64 && fault(text + "." + encoded(raw), verifier) == nil)
        for wrong in [Array(signature.derRepresentation), raw + [0], raw.dropLast(), Array(raw[32...] + raw[..<32])] {
            #expect(fault(text + "." + encoded(wrong), verifier) == .wrong, "\(wrong.count) bytes")
        }
    }

    private func signature(_ text: String, _ key: _RSA.Signing.PrivateKey, _ algorithm: TokenAlgorithm) throws -> _RSA.Signing.RSASignature
    {
        let data = Array(text.utf8)
        return switch algorithm {
        case .rs384: try key.signature(for: SHA384.hash(data: data), padding: .insecurePKCS1v1_5)
        case .rs512: try key.signature(for: SHA512.hash(data: data), padding: .insecurePKCS1v1_5)
        case .ps384: try key.signature(for: SHA384.hash(data: data), padding: .PSS)
        case .ps512: try key.signature(for: SHA512.hash(data: data), padding: .PSS)
        case .ps256: try key.signature(for: SHA256.hash(data: data), padding: .PSS)
        default: try key.signature(for: SHA256.hash(data: data), padding: .insecurePKCS1v1_5)
        }
    }
}
