// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import NodeConfiguration

/// Keys of tokens as JSON Web Keys. The values are those of RFC 7515 (appendix A.2 and A.3) and RFC 8037 (appendix A.2).
@Suite struct KeySetTests {
    private static let modulus =
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOW"
        + "vG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k"
        + "G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    private static let rsa = #""kty":"RSA","n":"\#(modulus)","e":"AQAB""#
    private static let curve =
        #""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#
    private static let edwards = #""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#

    private func read(_ text: String, _ algorithm: TokenAlgorithm) throws -> [TokenRules.Key] {
        try #require(KeySet.read(Array(text.utf8), algorithm)).get()
    }
    private func refusal(_ text: String, _ algorithm: TokenAlgorithm) -> String? {
        guard case .failure(let problem)? = KeySet.read(Array(text.utf8), algorithm) else { return nil }
        return problem.sentence
    }

    @Test("one key of each kind, by itself and in a set")
    func kinds() throws {
        for (algorithm, member, count) in [
            (TokenAlgorithm.rs256, Self.rsa, 294), (.ps512, Self.rsa, 294), (.es256, Self.curve, 65), (.eddsa, Self.edwards, 32),
        ] {
            let alone = try read("{\(member)}", algorithm)
            #expect(alone.map { $0.bytes.count } == [count] && alone[0].id == nil)
            let all = try read(#"{"keys":[{"kid":"one","use":"sig","key_ops":["verify"],"x5t":"?",\#(member)},{\#(member)}]}"#, algorithm)
            #expect(all.map(\.id) == ["one", nil] && all.map(\.bytes) == [alone[0].bytes, alone[0].bytes])
        }
        // The same key as in PEM form is the same key.
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n"
        #expect(try TokenRules.key(Array(pem.utf8), .eddsa).get() == read("{\(Self.edwards)}", .eddsa)[0].secret)
    }

    @Test("of a set those count that verify tokens of the algorithm")
    func chosen() throws {
        let others = [
            #"{"kid":"enc","use":"enc",\#(Self.rsa)}"#, #"{"kid":"wrap","key_ops":["wrapKey"],\#(Self.rsa)}"#,
            #"{"kid":"ps","alg":"PS256",\#(Self.rsa)}"#,
            #"{"kid":"ec",\#(Self.curve)}"#, #"{"kid":"ed",\#(Self.edwards)}"#, #"{"kty":"oct","k":"AAAA"}"#, #"{"kty":"new"}"#,
        ]
        func set(_ mine: [String]) -> String { #"{"keys":[\#((others + mine).joined(separator: ","))]}"# }
        let mine = try read(set([#"{"kid":"a","alg":"RS256",\#(Self.rsa)}"#, #"{"kid":"b",\#(Self.rsa)}"#]), .rs256)
        #expect(mine.map(\.id) == ["a", "b"])
        #expect(try read(set([]), .ps256).map(\.id) == ["ps"] && read(set([]), .es256).map(\.id) == ["ec"])
        #expect(refusal(set([]), .rs512) == "is a JSON Web Key, and none of the 7 here is for RS512")
        let many = (0...KeySet.limit).map { #"{"kid":"\#($0)",\#(Self.edwards)}"# }
        #expect(refusal(set(many), .eddsa)?.contains("at most 16 are taken") == true)
    }

    @Test("a private key, a key that is none and one that is too short are refused by their name, and a JSON Web Key is no secret")
    func refused() {
        let short = String(Self.modulus.prefix(172))
        for (text, algorithm, word) in [
            (#"{"kid":"p","d":"AA",\#(Self.curve)}"#, TokenAlgorithm.es256, "a private JSON Web Key `p`"),
            (#"{"kid":"s","kty":"RSA","n":"\#(short)","e":"AQAB"}"#, .rs256, "`s` that is no public key of 2048 to 8192 bits of RS256"),
            (#"{"kty":"RSA","n":"\#(Self.modulus)"}"#, .rs256, "without `kid` that is no public key"),
            (#"{"kty":"RSA","n":"\#(Self.modulus)=","e":"AQAB"}"#, .rs256, "is no public key"),
            (#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#, .es256, "is no public key"),
            (Self.curve.replacing("x_FE", with: "x_FF"), .es256, "is no public key"),
            (#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#, .eddsa, "is no public key"),
            (#"{\#(Self.rsa)}"#, .hs256, "of HS256 is a secret, and this is a JSON Web Key"),
            (#"{"keys":[]}"#, .hs256, "of HS256 is a secret, and this is a JSON Web Key"),
            (#"{"keys":[]}"#, .rs256, "none of the 0 here"),
            (#"{"kid":"\#(String(repeating: "k", count: 257))",\#(Self.edwards)}"#, .eddsa, "longer than 256 bytes"),
        ] {
            let whole = text.hasPrefix("{") ? text : "{\(text)}"
            #expect(refusal(whole, algorithm)?.contains(word) == true, "\(whole.prefix(80)): \(refusal(whole, algorithm) ?? "taken")")
        }
        // What is no JSON Web Key is what it was before.
        for text in ["", "{", "[]", "{}", #"{"keys":5}"#, "-----BEGIN PUBLIC KEY-----", "a secret"] {
            #expect(KeySet.read(Array(text.utf8), .hs256) == nil)
        }
    }

    @Test("in a tenant's file: a set beside a key in PEM form, and no more keys without a name than are tried")
    func file() throws {
        let path = NSTemporaryDirectory() + "bulkhead-keys-" + UUID().uuidString.prefix(8)
        for folder in ["/tenants.d", "/secrets"] {
            try FileManager.default.createDirectory(atPath: path + folder, withIntermediateDirectories: true)
        }
        defer { try? FileManager.default.removeItem(atPath: path) }
        func write(_ name: String, _ text: String) throws { try text.write(toFile: path + name, atomically: false, encoding: .utf8) }
        try write(
            "/secrets/old.pem",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAPiX5gIIGBk/aoeo4j/LuDRS25TiBEuSqiktNHaT+yY=\n-----END PUBLIC KEY-----\n")
        try write("/secrets/set.json", #"{"keys":[{"kid":"a",\#(Self.edwards)},{"kid":"b",\#(Self.edwards)}]}"# + "\n")
        try write("/tenants.d/acme.yaml", "tenant: acme\ntokens: {algorithm: EdDSA, key: [file:secrets/set.json, file:secrets/old.pem]}\n")
        #expect(try NodeConfiguration.load(directory: path).tenants.first?.tokens?.keys.map(\.id) == ["a", "b", nil])
        try write("/secrets/set.json", #"{"keys":[\#(Array(repeating: "{\(Self.edwards)}", count: 4).joined(separator: ","))]}"#)
        #expect { try NodeConfiguration.load(directory: path) } throws: { "\($0)".contains("more than 4 keys without a `kid`") }
    }
}
