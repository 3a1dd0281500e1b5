// SPDX-License-Identifier: Apache-2.0
import Crypto
import Foundation

/// Who sent a webhook, and when: HMAC-SHA-256 (RFC 2104) over `time.body`, so that neither can be changed and an old one cannot be sent again.
public enum WebhookSignature {
    public static let header = "Bulkhead-Signature"
    /// How far a signature's time may be from now, in seconds.
    public static let tolerance: Int64 = 300

    /// `t=SECONDS,v1=HEX`.
    public static func sign(_ body: [UInt8], secret: [UInt8], at seconds: Int64) -> String {
        let code = HMAC<SHA256>.authenticationCode(for: Self.message(body, seconds), using: SymmetricKey(data: secret))
        return "t=\(seconds),v1=" + code.map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }.joined()
    }

    /// Whether `text` signs this body within the tolerance; takes the same time for every wrong code.
    public static func isValid(_ text: String, _ body: [UInt8], secret: [UInt8], at now: Int64) -> Bool {
        var seconds: Int64?
        var codes: [[UInt8]] = []
        for part in text.split(separator: ",").prefix(8) {
            if part.hasPrefix("t=") { seconds = Int64(part.dropFirst(2)) }
            if part.hasPrefix("v1="), let code = bytes(part.dropFirst(3)) { codes.append(code) }
        }
        guard let seconds, seconds > now - tolerance, seconds < now + tolerance else { return false }
        let key = SymmetricKey(data: secret)
        let message = message(body, seconds)
        return codes.reduce(false) { HMAC<SHA256>.isValidAuthenticationCode($1, authenticating: message, using: key) || $0 }
    }

    private static func message(_ body: [UInt8], _ seconds: Int64) -> Data { Data("\(seconds).".utf8) + body }

    private static func bytes(_ hex: Substring) -> [UInt8]? {
        guard hex.utf8.count == 64 else { return nil }
        var found: [UInt8] = []
        var rest = hex
        while !rest.isEmpty {
            guard let byte = UInt8(rest.prefix(2), radix: 16) else { return nil }
            found.append(byte)
            rest = rest.dropFirst(2)
        }
        return found
    }
}
