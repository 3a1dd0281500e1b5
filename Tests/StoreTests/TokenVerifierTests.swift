// SPDX-License-Identifier: Apache-2.0
import Core
import Crypto
import CryptoExtras
import Foundation
import Testing

@testable import Store

private let secret = Array("0123456789abcdef0123456789abcdef".utf8)
private let now = 1_700_000_000.0

private func encoded(_ bytes: [UInt8]) -> String {
    Data(bytes).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
}

/// A token with these claims, signed with HS256.
private func token(_ claims: String, header: String = #"{"alg":"HS256","typ":"JWT"}"#, secret: [UInt8] = secret) -> String {
    let signed = encoded(Array(header.utf8)) + "." + encoded(Array(claims.utf8))
    return signed + "." + encoded(Signature.mac(Array(signed.utf8), secret))
}

private func verifier(
    _ algorithm: TokenAlgorithm = .hs256, _ keys: [[UInt8]] = [secret], issuer: String? = nil, audience: String? = nil
) throws -> TokenVerifier { try #require(TokenVerifier(algorithm, keys: keys, issuer: issuer, audience: audience)) }

private func fault(_ token: String?, _ verifier: TokenVerifier, at time: Double = now) -> TokenVerifier.Fault? {
    if case .failure(let fault) = verifier.claims(token, at: time) { fault } else { nil }
}

@Suite struct TokenVerifierTests {
    /// RFC 7515, appendix A: the claims of its examples, which end at 1300819380.
    static let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    static let hs256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\(claims).dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    static let es256 =
        "eyJhbGciOiJFUzI1NiJ9.\(claims)."
        + "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    static let rs256 =
        "eyJhbGciOiJSUzI1NiJ9.\(claims)."
        + "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4"
        + "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv"
        + "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    static let modulus =
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOW"
        + "vG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k"
        + "G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    static let symmetric = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    static let point = (x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")

    private func bytes(_ text: String) throws -> [UInt8] { try #require(Base64URL.bytes(Array(text.utf8))) }

    @Test("the examples of RFC 7515, A.1 (HS256), A.2 (RS256) and A.3 (ES256)")
    func vectors() throws {
        let shared = try verifier(.hs256, [bytes(Self.symmetric)], issuer: "joe")
        let published = try verifier(.es256, [[4] + bytes(Self.point.x) + bytes(Self.point.y)], issuer: "joe")
        let rsa = try verifier(
            .rs256, [Array(_RSA.Signing.PublicKey(n: bytes(Self.modulus), e: [1, 0, 1] as [UInt8]).derRepresentation)], issuer: "joe")
        for (example, verifier) in [(Self.hs256, shared), (Self.rs256, rsa), (Self.es256, published)] {
            let claims = try verifier.claims(example, at: 1_300_819_000).get()
            #expect(claims.word("iss") == "joe" && claims.word("exp") == "1300819380" && claims.word("http://example.com/is_root") == nil)
            #expect(fault(example, verifier, at: 1_300_819_409.9) == nil)
            #expect(fault(example, verifier, at: 1_300_819_410) == .expired)
            // One bit of each part; the last letter of a part may hold bits that mean nothing, which are no other way to write it.
            for part in 0..<3 {
                var parts = example.split(separator: ".").map(String.init)
                let place = parts[part].index(parts[part].startIndex, offsetBy: 12)
                parts[part].replaceSubrange(place...place, with: parts[part][place] == "A" ? "B" : "A")
                #expect([.wrong, .malformed].contains(fault(parts.joined(separator: "."), verifier, at: 1_300_819_000)), "part \(part)")
            }
        }
        #expect(fault(Self.hs256, published, at: 1_300_819_000) == .wrong && fault(Self.es256, shared, at: 1_300_819_000) == .wrong)
    }

    @Test("the example of RFC 8037, A.4: an Ed25519 signature over what is no JSON")
    func ed25519() throws {
        let hex = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        let key = stride(from: 0, to: 64, by: 2).compactMap { UInt8(hex.dropFirst($0).prefix(2), radix: 16) }
        let example =
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
            + "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        #expect(try fault(example, verifier(.eddsa, [key])) == .content, "its signature is right")
        #expect(try fault(example.replacing("hgyY", with: "hgyZ"), verifier(.eddsa, [key])) == .wrong)
    }

    @Test(
        "the token chooses neither algorithm nor key",
        arguments: [
            (#"{"alg":"none"}"#, ""), (#"{"alg":"None"}"#, ""), (#"{"alg":"HS256"}"#, ""), (#"{"alg":"HS512"}"#, nil),
            (#"{"alg":"hs256"}"#, nil),
            (#"{"alg":"ES256"}"#, nil), (#"{"alg":["HS256"]}"#, nil), (#"{}"#, nil),
        ] as [(String, String?)])
    func chosen(header: String, signature: String?) throws {
        var text = token(#"{"exp":1700000100,"sub":"ann"}"#, header: header)
        if let signature { text = text.split(separator: ".")[..<2].joined(separator: ".") + "." + signature }
        #expect(try fault(text, verifier()) == .wrong)
    }

    @Test("a public key is no secret: who signs with it is refused")
    func confusion() throws {
        let point = [4] + (try bytes(Self.point.x)) + (try bytes(Self.point.y))
        let forged = token(#"{"exp":1700000100,"sub":"ann"}"#, secret: point)
        #expect(try fault(forged, verifier(.es256, [point])) == .wrong)
        #expect(try fault(token(#"{"exp":1700000100}"#, header: #"{"alg":"ES256"}"#, secret: point), verifier(.es256, [point])) == .wrong)
    }

    /// A token that a holder of the private key signs, in whichever way.
    private func signed(_ algorithm: String, _ key: _RSA.Signing.PrivateKey, _ padding: _RSA.Signing.Padding, claims: String) throws
        -> String
    {
        let text = encoded(Array(#"{"alg":"\#(algorithm)"}"#.utf8)) + "." + encoded(Array(claims.utf8))
        let signature = try key.signature(for: SHA256.hash(data: Array(text.utf8)), padding: padding)
        return text + "." + encoded(Array(signature.rawRepresentation))
    }

    @Test("RSA in both paddings, each for its own name alone, and no algorithm's token by another's key")
    func rsa() throws {
        let private_ = try _RSA.Signing.PrivateKey(keySize: .bits2048)
        let key = Array(private_.publicKey.derRepresentation)
        let (plain, salted) = (try verifier(.rs256, [key]), try verifier(.ps256, [key]))
        let claims = #"{"exp":1700000100,"sub":"ann"}"#
        let (rs256, ps256) = (
            try signed("RS256", private_, .insecurePKCS1v1_5, claims: claims), try signed("PS256", private_, .PSS, claims: claims)
        )
        #expect(try plain.claims(rs256, at: now).get().word("sub") == "ann")
        #expect(try salted.claims(ps256, at: now).get().word("sub") == "ann")
        #expect(fault(ps256, plain) == .wrong && fault(rs256, salted) == .wrong)
        // The name of the one over the signature of the other.
        #expect(try fault(signed("RS256", private_, .PSS, claims: claims), plain) == .wrong)
        #expect(try fault(signed("PS256", private_, .insecurePKCS1v1_5, claims: claims), salted) == .wrong)
        #expect(
            try fault(signed("RS256", _RSA.Signing.PrivateKey(keySize: .bits2048), .insecurePKCS1v1_5, claims: claims), plain) == .wrong)
        // While a key is changed there are two.
        let other = Array(try _RSA.Signing.PrivateKey(keySize: .bits2048).publicKey.derRepresentation)
        #expect(try fault(rs256, verifier(.rs256, [other, key])) == nil && fault(rs256, verifier(.rs256, [other])) == .wrong)
        // What everybody knows of the key, taken for the secret of HS256, under the name of either.
        for secret in [key, Array(private_.publicKey.pemRepresentation.utf8), Array(private_.publicKey.pkcs1DERRepresentation)] {
            for name in ["HS256", "RS256", "none"] {
                #expect(fault(token(claims, header: #"{"alg":"\#(name)"}"#, secret: secret), plain) == .wrong, "\(name)")
            }
        }
        for name in ["none", "None", "NONE", "", "RS256"] {
            let bare = encoded(Array(#"{"alg":"\#(name)"}"#.utf8)) + "." + encoded(Array(claims.utf8)) + "."
            #expect(fault(bare, plain) == .wrong && fault(bare, salted) == .wrong, "\(name)")
        }
        #expect(try fault(rs256, verifier(.es256, [[4] + bytes(Self.point.x) + bytes(Self.point.y)])) == .wrong)
        #expect(fault(Self.es256, plain) == .wrong && fault(Self.hs256, plain) == .wrong)
    }

    @Test("a key of another kind or size makes no verifier")
    func kinds() throws {
        let point = [4] + (try bytes(Self.point.x)) + (try bytes(Self.point.y))
        let small = Array(try _RSA.Signing.PrivateKey(unsafeKeySize: .init(bitCount: 1024)).publicKey.derRepresentation)
        let rsa = Array(try _RSA.Signing.PublicKey(n: bytes(Self.modulus), e: [1, 0, 1] as [UInt8]).derRepresentation)
        for (algorithm, key) in [
            (TokenAlgorithm.rs256, point), (.ps256, point), (.rs256, small), (.ps256, small), (.rs256, secret), (.es256, rsa),
            (.eddsa, rsa), (.rs384, point), (.rs512, small), (.ps384, small), (.ps512, secret),
        ] {
            #expect(TokenVerifier(algorithm, keys: [key], issuer: nil, audience: nil) == nil, "\(algorithm) of \(key.count) bytes")
        }
        #expect(TokenVerifier(.rs256, keys: [rsa], issuer: nil, audience: nil) != nil)
        #expect(TokenVerifier(.rs256, keys: [rsa, small], issuer: nil, audience: nil) == nil)
    }

    @Test(
        "what is no token",
        arguments: [
            ".", "..", "a.b", "a.b.c.d", "Bearer a.b.c", "=.=.=", "A.A.A", "e30=.e30.AAAA", "e30.e31.AAAA", "bm8.e30.AAAA", "W10.e30.AAAA",
            "e3+.e30.AAAA", "e3/.e30.AAAA",
            "eyJhbGciOiJIUzI1NiIsImNyaXQiOlsiYjY0Il19.e30.AAAA", "\u{e9}.e30.AAAA", " e30.e30.AAAA",
        ])
    func malformed(text: String) throws { #expect(try fault(text, verifier()) == .malformed) }

    @Test("of the part that anybody can write no more is read than is needed: a long one is refused, and what else is in it does not count")
    func header() throws {
        let claims = #"{"exp":1700000100,"sub":"ann"}"#
        func padded(_ count: Int) -> String { token(claims, header: #"{"alg":"HS256","x":[\#(String(repeating: "{},", count: count))1]}"#) }
        #expect(try fault(padded(300), verifier()) == nil)
        #expect(try fault(padded(340), verifier()) == .malformed)
        for algorithm in ["null", "7", "[]", "{}"] {
            #expect(try fault(token(claims, header: #"{"alg":\#(algorithm)}"#), verifier()) == .wrong, "\(algorithm)")
        }
        #expect(try fault(token(claims, header: #"{"alg":"HS256","crit":null}"#), verifier()) == .malformed)
    }

    @Test("no token, an empty one, and one that is too long")
    func size() throws {
        #expect(try fault(nil, verifier()) == .missing && fault("", verifier()) == .missing)
        func padded(_ count: Int) -> String { token(#"{"exp":1700000100,"sub":"ann","x":"\#(String(repeating: "x", count: count))"}"#) }
        let most = try #require((6000...6100).map(padded).last { $0.utf8.count <= TokenVerifier.sizeLimit })
        #expect(try TokenVerifier.sizeLimit - most.utf8.count < 4 && fault(most, verifier()) == nil)
        #expect(try fault(padded(6101), verifier()) == .tooLong)
        #expect(try fault(String(repeating: ".", count: TokenVerifier.sizeLimit + 1), verifier()) == .tooLong)
    }

    @Test(
        "times, issuer and audience",
        arguments: [
            (#"{"exp":1699999971}"#, nil), (#"{"exp":1699999970}"#, .expired), (#"{"exp":1699999970.5}"#, nil), (#"{"exp":0}"#, .expired),
            (#"{"exp":-1e300}"#, .expired), (#"{"exp":1e300}"#, nil), (#"{}"#, .endless), (#"{"exp":"1700000100"}"#, .content),
            (#"{"exp":true}"#, .content), (#"{"exp":null}"#, .content), (#"{"exp":[1700000100]}"#, .content), (#"[]"#, .content),
            (#"{"exp":1e999}"#, .content), (#"{"exp":1700000100,"nbf":1700000030}"#, nil),
            (#"{"exp":1700000100,"nbf":1700000031}"#, .early),
            (#"{"exp":1700000100,"nbf":"0"}"#, .content), (#"{"exp":1700000100,"aud":"shop"}"#, .audience),
            (#"{"exp":1700000100,"aud":[]}"#, .audience),
        ] as [(String, TokenVerifier.Fault?)])
    func plain(claims: String, expected: TokenVerifier.Fault?) throws { #expect(try fault(token(claims), verifier()) == expected) }

    @Test(
        "a tenant's issuer and audience must be the token's",
        arguments: [
            (#"{"exp":1700000100,"iss":"joe","aud":"shop"}"#, nil), (#"{"exp":1700000100,"iss":"joe","aud":["other","shop"]}"#, nil),
            (#"{"exp":1700000100,"aud":"shop"}"#, .issuer), (#"{"exp":1700000100,"iss":"Joe","aud":"shop"}"#, .issuer),
            (#"{"exp":1700000100,"iss":["joe"],"aud":"shop"}"#, .issuer), (#"{"exp":1700000100,"iss":"joe"}"#, .audience),
            (#"{"exp":1700000100,"iss":"joe","aud":"shop2"}"#, .audience), (#"{"exp":1700000100,"iss":"joe","aud":["other"]}"#, .audience),
            (#"{"exp":1700000100,"iss":"joe","aud":{"shop":1}}"#, .audience),
        ] as [(String, TokenVerifier.Fault?)])
    func named(claims: String, expected: TokenVerifier.Fault?) throws {
        #expect(try fault(token(claims), verifier(issuer: "joe", audience: "shop")) == expected)
    }

    @Test("each of the keys verifies, and a key that is none makes no verifier")
    func keys() throws {
        let (old, new) = (secret, Array(secret.reversed()))
        let both = try verifier(.hs256, [old, new])
        for key in [old, new] { #expect(fault(token(#"{"exp":1700000100}"#, secret: key), both) == nil) }
        #expect(try fault(token(#"{"exp":1700000100}"#, secret: old), verifier(.hs256, [new])) == .wrong)
        #expect(TokenVerifier(.hs256, keys: [], issuer: nil, audience: nil) == nil)
        #expect(TokenVerifier(.hs256, keys: [old, []], issuer: nil, audience: nil) == nil)
        #expect(TokenVerifier(.es256, keys: [old], issuer: nil, audience: nil) == nil)
        #expect(TokenVerifier(.eddsa, keys: [old + old], issuer: nil, audience: nil) == nil)
    }

    @Test("a token that names its key is tried with that one and those without a name, and one that names none with a few")
    func named() throws {
        let secrets = (0..<6).map { number in secret.map { $0 ^ UInt8(number) } }
        func signed(_ number: Int, _ header: String) -> String { token(#"{"exp":1700000100}"#, header: header, secret: secrets[number]) }
        let ids = ["a", "b", "b", "c", "d", nil]
        let some = try #require(TokenVerifier(.hs256, keys: secrets, ids: ids, issuer: nil, audience: nil))
        for (number, id) in ids.enumerated() {
            guard let id else { continue }
            #expect(fault(signed(number, #"{"alg":"HS256","kid":"\#(id)"}"#), some) == nil, "\(id)")
            #expect(fault(signed(number, #"{"alg":"HS256","kid":"x"}"#), some) == .wrong, "\(id): another's name")
            // A name that is none is not there.
            #expect(
                fault(signed(number, #"{"alg":"HS256","kid":5}"#), some) == (number < TokenVerifier.tries - 1 ? nil : .wrong), "\(number)")
            #expect(fault(signed(number, #"{"alg":"HS256"}"#), some) == (number < TokenVerifier.tries - 1 ? nil : .wrong), "\(number)")
        }
        for header in [#"{"alg":"HS256"}"#, #"{"alg":"HS256","kid":"a"}"#, #"{"alg":"HS256","kid":"x"}"#] {
            #expect(fault(signed(5, header), some) == nil, "the key without a name")
        }
    }

    @Test("a claim is a text or a whole number, as one word")
    func words() throws {
        let claims = try verifier().claims(
            token(
                #"{"exp":1700000100,"a":"ann","b":7,"c":-7,"d":1.5,"e":true,"f":["x"],"g":{"h":1},"h":"","i":"a\u0000b","j":"\n","k":null,"l":"Zo\u00eb"}"#
            ),
            at: now
        ).get()
        #expect(claims.word("a") == "ann" && claims.word("b") == "7" && claims.word("c") == "-7" && claims.word("l") == "Zo\u{eb}")
        for name in ["d", "e", "f", "g", "h", "i", "j", "k", "z"] { #expect(claims.word(name) == nil, "\(name)") }
    }
}
