// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import Foundation

/// Verifies JSON Web Tokens (RFC 7519) that are signed (RFC 7515, compact form), by one algorithm and its keys, as RFC 8725 advises: the token chooses neither the
/// algorithm nor the key, and what it says counts only when its signature is right.
public struct TokenVerifier: Sendable {
    /// The longest token, in bytes.
    public static let sizeLimit = 8 << 10
    /// The longest first part, in bytes of JSON: nobody has vouched for it when it is read.
    static let headerLimit = 1 << 10
    /// How far the clocks of issuer and node may differ, in seconds.
    public static let leeway = 30.0

    /// Why a token is not taken. What is behind the signature is told only to who holds a token of the issuer.
    public enum Fault: String, Error, Hashable, Sendable, CaseIterable {
        case missing
        case tooLong
        /// Not three parts in base64url, a JSON object in the first; or an extension that must be understood (`crit`).
        case malformed
        /// Another algorithm, or not signed with one of the keys.
        case wrong
        /// Signed, and its content is no object of claims, or a time in it is no number.
        case content
        /// It would be good for ever.
        case endless
        case expired
        case early
        case issuer
        case audience
    }

    private enum Key: Sendable {
        case secret(SymmetricKey)
        case p256(P256.Signing.PublicKey)
        case ed25519(Curve25519.Signing.PublicKey)
    }

    private let algorithm: TokenAlgorithm
    private let keys: [Key]
    private let issuer: String?
    private let audience: String?

    /// Nil where a key is none of the algorithm, or where there is none: a secret, a point (X9.63) or the 32 bytes of an Ed25519 key.
    public init?(_ algorithm: TokenAlgorithm, keys: [[UInt8]], issuer: String?, audience: String?) {
        let usable = keys.compactMap { bytes -> Key? in
            switch algorithm {
            case .hs256: bytes.isEmpty ? nil : .secret(SymmetricKey(data: bytes))
            case .es256: (try? P256.Signing.PublicKey(x963Representation: bytes)).map(Key.p256)
            case .eddsa: (try? Curve25519.Signing.PublicKey(rawRepresentation: bytes)).map(Key.ed25519)
            }
        }
        guard !usable.isEmpty, usable.count == keys.count else { return nil }
        self.algorithm = algorithm
        self.keys = usable
        self.issuer = issuer
        self.audience = audience
    }

    /// What a token says, where it is good at this time (seconds since 1970).
    public func claims(_ token: String?, at now: Double) -> Result<TokenClaims, Fault> {
        guard let token, !token.isEmpty else { return .failure(.missing) }
        guard token.utf8.count <= Self.sizeLimit else { return .failure(.tooLong) }
        let parts = token.utf8.split(separator: 0x2E, omittingEmptySubsequences: false)
        guard parts.count == 3, let head = Base64URL.bytes(parts[0]), let body = Base64URL.bytes(parts[1]),
            let signature = Base64URL.bytes(parts[2]), head.count <= Self.headerLimit,
            let header = try? JSONDecoder().decode(Header.self, from: Data(head)), !header.asksForMore
        else { return .failure(.malformed) }
        let signed = token.utf8.dropLast(parts[2].count + 1)
        guard header.algorithm == algorithm.rawValue, isRight(signature, Array(signed)) else { return .failure(.wrong) }
        guard let claims = Self.object(body) else { return .failure(.content) }
        if let fault = fault(claims, now) { return .failure(fault) }
        return .success(TokenClaims(values: claims))
    }

    private func isRight(_ signature: [UInt8], _ signed: [UInt8]) -> Bool {
        keys.contains { key in
            switch key {
            // In a time that says nothing of where the difference is.
            case .secret(let secret): HMAC<SHA256>.isValidAuthenticationCode(signature, authenticating: signed, using: secret)
            case .p256(let key):
                (try? P256.Signing.ECDSASignature(rawRepresentation: signature)).map { key.isValidSignature($0, for: signed) } ?? false
            case .ed25519(let key): key.isValidSignature(signature, for: signed)
            }
        }
    }

    private func fault(_ claims: [String: TokenClaims.Value], _ now: Double) -> Fault? {
        guard let end = claims["exp"] else { return .endless }
        guard let end = end.number else { return .content }
        guard now < end + Self.leeway else { return .expired }
        if let start = claims["nbf"] {
            guard let start = start.number else { return .content }
            guard now + Self.leeway >= start else { return .early }
        }
        if let issuer, claims["iss"] != .text(issuer) { return .issuer }
        switch (audience, claims["aud"]) {
        case (nil, nil): return nil
        case (let audience?, .text(let only)?): return only == audience ? nil : .audience
        case (let audience?, .texts(let all)?): return all.contains(audience) ? nil : .audience
        default: return .audience
        }
    }

    /// Of a token's first part, which anybody can write, nothing is read but these.
    private struct Header: Decodable {
        let algorithm: String?
        let asksForMore: Bool

        enum CodingKeys: String, CodingKey {
            case algorithm = "alg"
            case extensions = "crit"
        }
        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            asksForMore = container.contains(.extensions)
            algorithm = try? container.decodeIfPresent(String.self, forKey: .algorithm)
        }
    }

    private static func object(_ bytes: [UInt8]) -> [String: TokenClaims.Value]? {
        try? JSONDecoder().decode([String: TokenClaims.Value].self, from: Data(bytes))
    }
}

/// What a verified token says.
public struct TokenClaims: Sendable {
    enum Value: Hashable, Sendable, Decodable {
        case text(String)
        case integer(Int64)
        case number(Double)
        case texts([String])
        case other

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .text(text)
            } else if let integer = try? container.decode(Int64.self) {
                self = .integer(integer)
            } else if let number = try? container.decode(Double.self) {
                self = .number(number)
            } else if let texts = try? container.decode([String].self) {
                self = .texts(texts)
            } else {
                self = .other
            }
        }

        var number: Double? {
            switch self {
            case .integer(let number): Double(number)
            case .number(let number): number
            default: nil
            }
        }
    }

    let values: [String: Value]

    /// The claim as one word: a string that is not empty and has no control characters, or a whole number. Nil for all else.
    public func word(_ name: String) -> String? {
        switch values[name] {
        case .text(let text)?: text.isEmpty || text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) ? nil : text
        case .integer(let number)?: "\(number)"
        default: nil
        }
    }
}

/// RFC 4648, section 5, without padding, and only the one way to write some bytes.
enum Base64URL {
    static func bytes(_ text: some Collection<UInt8>) -> [UInt8]? {
        guard text.count % 4 != 1 else { return nil }
        var out: [UInt8] = []
        out.reserveCapacity(text.count * 3 / 4)
        var bits: UInt32 = 0, count = 0
        for byte in text {
            guard let value = value(byte) else { return nil }
            bits = bits << 6 | value
            count += 6
            if count >= 8 {
                count -= 8
                out.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
            }
            bits &= 0xFF
        }
        guard bits & ((1 << UInt32(count)) - 1) == 0 else { return nil }
        return out
    }

    private static func value(_ byte: UInt8) -> UInt32? {
        switch byte {
        case 65...90: UInt32(byte - 65)
        case 97...122: UInt32(byte - 71)
        case 48...57: UInt32(byte) + 4
        case 0x2D: 62
        case 0x5F: 63
        default: nil
        }
    }
}
