// SPDX-License-Identifier: Apache-2.0
import Core
import Store
import Testing

private let secret = Array("It's a Secret to Everybody".utf8)
private let now: UInt64 = 1_700_000_000

private func fault(_ headers: [String: String], _ body: String, at time: UInt64 = now, secret: [UInt8] = secret) -> Signature.Fault? {
    Signature.fault({ headers[$0] }, Array(body.utf8), secret: secret, at: time)
}

@Suite struct SignatureTests {
    @Test("GitHub's documented example")
    func github() {
        let code = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        #expect(fault(["X-Hub-Signature-256": code], "Hello, World!") == nil)
        #expect(fault(["X-Hub-Signature-256": code.replacing("757107", with: "757108")], "Hello, World!") == .wrong)
        #expect(fault(["X-Hub-Signature-256": code], "Hello, World?") == .wrong)
        #expect(fault(["X-Hub-Signature-256": code], "Hello, World!", secret: Array("other".utf8)) == .wrong)
        #expect(fault(["X-Hub-Signature-256": String(code.dropLast(2))], "Hello, World!") == .malformed)
        #expect(fault(["X-Hub-Signature-256": code.replacing("sha256=", with: "sha1=")], "Hello, World!") == .malformed)
    }

    @Test("what is sent is taken, in both headers that look like it, within five minutes")
    func own() {
        let value = Signature.value(Array("body".utf8), secret: secret, at: now)
        #expect(value.hasPrefix("t=1700000000,v1=") && value.utf8.count == 16 + 64)
        for name in [Signature.header, "Stripe-Signature"] {
            #expect(fault([name: value], "body") == nil && fault([name: value], "bodY") == .wrong)
            for time in [now - 300, now + 300] { #expect(fault([name: value], "body", at: time) == nil) }
            for time in [now - 301, now + 301, 0, .max] { #expect(fault([name: value], "body", at: time) == .expired) }
        }
        #expect(fault([Signature.header: value.replacing("1700000000", with: "1700000001")], "body") == .wrong)
        let twice = "t=1700000000, v1=" + String(repeating: "0", count: 64) + "," + value.split(separator: ",")[1] + ",v0=x"
        #expect(fault([Signature.header: twice], "body") == nil)
    }

    @Test("the time is part of what is signed: moving the point moves nothing")
    func boundary() {
        let value = Signature.value(Array("5.x".utf8), secret: secret, at: 170_000_000)
        #expect(fault([Signature.header: value.replacing("t=170000000,", with: "t=1700000005,")], ".x") == .wrong)
    }

    @Test(
        "what is no signature",
        arguments: ["", "t=1", "v1=00", "t=,v1=00", "t=-1,v1=00", "t=1,t=1700000000,v1=00", "x", "t=99999999999999999999,v1=00"])
    func malformed(text: String) {
        let value = text.replacing("v1=00", with: "v1=" + String(repeating: "0", count: 64))
        #expect(fault([Signature.header: value], "body") == .malformed)
    }

    @Test("no header, and a secret that is empty")
    func missing() {
        #expect(fault([:], "body") == .missing)
        let value = Signature.value([], secret: [], at: now)
        #expect(fault([Signature.header: value], "", secret: []) == .wrong)
    }
}

@Suite struct LineageTokenTests {
    private let acme: Name
    private let lineage = Lineage(root: InvocationID(milliseconds: 5, random: (1, 2)), born: Instant(nanoseconds: 9))

    init() throws {
        acme = try #require(Name("acme"))
    }

    private func fault(_ token: String, at time: UInt64 = 999, secret: [UInt8] = secret) -> LineageToken.Fault? {
        do throws(LineageToken.Fault) {
            _ = try LineageToken.verify(token, at: time, secret: secret)
            return nil
        } catch { return error }
    }

    @Test("a token brings its lineage back, with its tenant's name, in its time")
    func round() throws {
        let token = LineageToken.sign(lineage, tenant: acme, expiresAt: 1000, secret: secret)
        let found = try LineageToken.verify(token, at: 999, secret: secret)
        #expect(found.lineage.encoded == lineage.encoded && found.tenant == acme)
        #expect(
            token.utf8.allSatisfy { (48...57).contains($0) || (65...90).contains($0) || (97...122).contains($0) || "-_.".utf8.contains($0) }
        )
        #expect(fault(token, at: 1000) == .expired)
        #expect(fault(token, secret: [1]) == .forged)
    }

    @Test("no byte of it can be changed")
    func forged() {
        let token = LineageToken.sign(lineage, tenant: acme, expiresAt: 1000, secret: secret)
        let bytes = Array(token.utf8)
        for place in bytes.indices {
            var other = bytes
            other[place] = bytes[place] == 0x41 ? 0x42 : 0x41
            #expect(fault(String(decoding: other, as: UTF8.self)) != nil, "\(place)")
        }
        let parts = token.split(separator: ".")
        for other in ["", ".", String(parts[0]), parts[0] + ".", "." + parts[1], token + "=", token + ".x", token + "\n"] {
            #expect(fault(other) != nil, "\(other)")
        }
        #expect(fault(String(repeating: "A", count: 5000)) == .malformed)
    }
}
