// SPDX-License-Identifier: Apache-2.0
import Crypto

/// HMAC-SHA-256 signatures of what webhooks carry, sent and received.
public enum Signature {
    /// How far the time of a signature may be from now, in seconds.
    public static let tolerance: UInt64 = 300
    public static let header = "Bulkhead-Signature"

    /// `t=SECONDS,v1=HEX` over `SECONDS.BODY`, so that an old message cannot be sent again with a new time.
    public static func value(_ body: [UInt8], secret: [UInt8], at seconds: UInt64) -> String {
        "t=\(seconds),v1=" + hex(mac(Array("\(seconds).".utf8) + body, secret))
    }

    /// Why a message is not taken.
    public enum Fault: String, Error, Hashable, Sendable {
        /// None of the headers is there.
        case missing
        case malformed
        /// Its time is more than ``tolerance`` away.
        case expired
        /// Not made with this secret over this body.
        case wrong
    }

    /// Nil where the message is from somebody who has the secret. Takes ``header`` and `Stripe-Signature`, which are alike, and GitHub's `X-Hub-Signature-256`, which has
    /// no time: such a message can be sent again by whoever saw it. The first of them that is there decides.
    /// - Parameter header: finds a header without regard to case.
    public static func fault(_ header: (String) -> String?, _ body: [UInt8], secret: [UInt8], at seconds: UInt64) -> Fault? {
        if let value = header(Self.header) ?? header("Stripe-Signature") { return timed(value, body, secret, seconds) }
        guard let value = header("X-Hub-Signature-256") else { return .missing }
        guard value.hasPrefix("sha256="), let code = bytes(hex: value.dropFirst(7)) else { return .malformed }
        return isRight(code, body, secret) ? nil : .wrong
    }

    private static func timed(_ value: String, _ body: [UInt8], _ secret: [UInt8], _ now: UInt64) -> Fault? {
        var times: [UInt64] = [], codes: [[UInt8]] = []
        for part in value.split(separator: ",").prefix(16) {
            let sides = part.split(separator: "=", maxSplits: 1).map { $0.drop { $0 == " " } }
            guard sides.count == 2 else { return .malformed }
            if sides[0] == "t" {
                guard (1...12).contains(sides[1].utf8.count), sides[1].utf8.allSatisfy({ (48...57).contains($0) }),
                    let time = UInt64(sides[1])
                else { return .malformed }
                times.append(time)
            } else if sides[0] == "v1" {
                // While a secret is changed there may be two of them.
                guard let code = bytes(hex: sides[1]) else { return .malformed }
                codes.append(code)
            }
        }
        guard let time = times.first, times.count == 1, !codes.isEmpty else { return .malformed }
        guard max(time, now) - min(time, now) <= tolerance else { return .expired }
        let signed = Array("\(time).".utf8) + body
        // Once, however many codes there are: a body may be long.
        let right = mac(signed, secret)
        guard !secret.isEmpty, codes.contains(where: { isSame($0, right) }) else { return .wrong }
        return nil
    }

    static func mac(_ bytes: [UInt8], _ secret: [UInt8]) -> [UInt8] {
        Array(HMAC<SHA256>.authenticationCode(for: bytes, using: SymmetricKey(data: secret)))
    }

    /// Compares in a time that says nothing of where the difference is. An empty secret signs nothing.
    static func isRight(_ code: [UInt8], _ bytes: [UInt8], _ secret: [UInt8]) -> Bool {
        !secret.isEmpty && HMAC<SHA256>.isValidAuthenticationCode(code, authenticating: bytes, using: SymmetricKey(data: secret))
    }

    private static func isSame(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.count == b.count && zip(a, b).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0 }

    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { String(UInt16($0) + 0x100, radix: 16).dropFirst() }.joined()
    }

    private static func bytes(hex text: Substring) -> [UInt8]? {
        guard text.utf8.count == 64 else { return nil }
        let digits = text.utf8.compactMap { byte -> UInt8? in
            switch byte {
            case 48...57: byte - 48
            case 65...70: byte - 55
            case 97...102: byte - 87
            default: nil
            }
        }
        guard digits.count == 64 else { return nil }
        return stride(from: 0, to: 64, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}
