// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation

/// A lineage that leaves the node and comes back: `base64url(payload).base64url(HMAC)`. Who gets it may pass it on and cannot change it.
public enum LineageToken {
    public enum Fault: String, Error, Hashable, Sendable {
        case malformed, forged, expired
    }

    /// No token is longer, in bytes.
    public static let maximumLength = 2048
    private static let version: UInt8 = 1
    /// What else is signed with the same secret never looks like a token.
    private static let domain = Array("bulkhead-lineage\0".utf8)

    /// - Parameter expiresAt: milliseconds since 1970.
    public static func sign(_ lineage: Lineage, tenant: Name, expiresAt: UInt64, secret: [UInt8]) -> String {
        var payload: [UInt8] = [version]
        for shift in stride(from: UInt64(0), to: 64, by: 8) { payload.append(UInt8(truncatingIfNeeded: expiresAt >> shift)) }
        payload.append(UInt8(tenant.text.utf8.count))
        payload += Array(tenant.text.utf8) + lineage.encoded
        return encoded(payload) + "." + encoded(Signature.mac(domain + payload, secret))
    }

    /// The lineage of a token that this node made and that is not too old, and the tenant for which it was made.
    public static func verify(_ token: String, at now: UInt64, secret: [UInt8]) throws(Fault) -> (lineage: Lineage, tenant: Name) {
        guard token.utf8.count <= maximumLength else { throw .malformed }
        let parts = token.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let payload = decoded(parts[0]), let code = decoded(parts[1]) else { throw .malformed }
        // Nothing of it is believed before this.
        guard Signature.isRight(code, domain + payload, secret) else { throw .forged }
        guard payload.count > 10, payload[0] == version else { throw .malformed }
        let expiresAt = payload[1...8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let end = 10 + Int(payload[9])
        guard payload.count > end else { throw .malformed }
        guard now < expiresAt else { throw .expired }
        guard let tenant = Name(String(decoding: payload[10..<end], as: UTF8.self)), let lineage = Lineage(encoded: payload[end...]) else {
            throw .malformed
        }
        return (lineage, tenant)
    }

    /// RFC 4648, section 5, without padding.
    private static func encoded(_ bytes: [UInt8]) -> String {
        Data(bytes).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
    }

    /// Nil unless `text` is what ``encoded(_:)`` writes: one token has one spelling.
    private static func decoded(_ text: Substring) -> [UInt8]? {
        let plain = String(text).replacing("-", with: "+").replacing("_", with: "/")
        let padded = plain + String(repeating: "=", count: (4 - plain.utf8.count % 4) % 4)
        guard let data = Data(base64Encoded: padded) else { return nil }
        return encoded(Array(data)) == text ? Array(data) : nil
    }
}
