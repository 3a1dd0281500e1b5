// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import CryptoExtras
import Foundation

/// Verifies JSON Web Tokens (RFC 7519) that are signed (RFC 7515, compact form), by one algorithm and its keys, as RFC 8725 advises: the token chooses neither the
/// algorithm nor the key, and what it says counts only when its signature is right. The name of a key in it (`kid`) only leaves out those of other names.
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

    /// What of a token is signed with RSA.
    private enum Hash: Sendable { case sha256, sha384, sha512 }

    private enum Key: Sendable {
        case secret(SymmetricKey)
        case rsa(_RSA.Signing.PublicKey, _RSA.Signing.Padding, Hash)
        case p256(P256.Signing.PublicKey)
        case ed25519(Curve25519.Signing.PublicKey)
    }

    /// Keys that one token is tried with, at most: each costs a signature's time.
    static let tries = 4

    private let algorithm: TokenAlgorithm
    /// Those without an id first.
    private let keys: [(id: String?, key: Key)]
    private let issuer: String?
    private let audience: String?

    /// Nil where a key is none of the algorithm, or where there is none: a secret, an RSA key (DER), a point (X9.63) or the 32 bytes of
    /// an Ed25519 key.
    /// - Parameter ids: the keys' names, in their order; those beyond its end have none.
    public init?(_ algorithm: TokenAlgorithm, keys: [[UInt8]], ids: [String?] = [], issuer: String?, audience: String?) {
        let usable = keys.compactMap { bytes -> Key? in
            switch algorithm {
            case .hs256: bytes.isEmpty ? nil : .secret(SymmetricKey(data: bytes))
            case .rs256: Self.rsa(bytes).map { .rsa($0, .insecurePKCS1v1_5, .sha256) }
            case .rs384: Self.rsa(bytes).map { .rsa($0, .insecurePKCS1v1_5, .sha384) }
            case .rs512: Self.rsa(bytes).map { .rsa($0, .insecurePKCS1v1_5, .sha512) }
            case .ps256: Self.rsa(bytes).map { .rsa($0, .PSS, .sha256) }
            case .ps384: Self.rsa(bytes).map { .rsa($0, .PSS, .sha384) }
            case .ps512: Self.rsa(bytes).map { .rsa($0, .PSS, .sha512) }
            case .es256: (try? P256.Signing.PublicKey(x963Representation: bytes)).map(Key.p256)
            case .eddsa: (try? Curve25519.Signing.PublicKey(rawRepresentation: bytes)).map(Key.ed25519)
            }
        }
        guard !usable.isEmpty, usable.count == keys.count else { return nil }
        self.algorithm = algorithm
        let named = usable.enumerated().map { (id: $0 < ids.count ? ids[$0] : nil, key: $1) }
        self.keys = named.filter { $0.id == nil } + named.filter { $0.id != nil }
        self.issuer = issuer
        self.audience = audience
    }

    private static func rsa(_ bytes: [UInt8]) -> _RSA.Signing.PublicKey? {
        guard let key = try? _RSA.Signing.PublicKey(derRepresentation: bytes), TokenAlgorithm.rsaBits.contains(key.keySizeInBits) else {
            return nil
        }
        return key
    }

    /// What a token says, where it is good at this time (seconds since 1970). It takes as long as a signature does: not for a loop that serves others.
    public func claims(_ token: String?, at now: Double) -> Result<TokenClaims, Fault> {
        guard let token, !token.isEmpty else { return .failure(.missing) }
        guard token.utf8.count <= Self.sizeLimit else { return .failure(.tooLong) }
        let parts = token.utf8.split(separator: 0x2E, omittingEmptySubsequences: false)
        guard parts.count == 3, let head = Base64URL.bytes(parts[0]), let body = Base64URL.bytes(parts[1]),
            let signature = Base64URL.bytes(parts[2]), head.count <= Self.headerLimit,
            let header = try? JSONDecoder().decode(Header.self, from: Data(head)), !header.asksForMore
        else { return .failure(.malformed) }
        let signed = token.utf8.dropLast(parts[2].count + 1)
        guard header.algorithm == algorithm.rawValue, isRight(signature, Array(signed), header.key) else { return .failure(.wrong) }
        guard let claims = Self.object(body).map(TokenClaims.init) else { return .failure(.content) }
        if let fault = fault(claims, now) { return .failure(fault) }
        return .success(claims)
    }

    private func isRight(_ signature: [UInt8], _ signed: [UInt8], _ name: String?) -> Bool {
        keys.lazy.filter { name == nil || $0.id == nil || $0.id == name }.prefix(Self.tries).contains { one in
            switch one.key {
            // In a time that says nothing of where the difference is.
            case .secret(let secret): HMAC<SHA256>.isValidAuthenticationCode(signature, authenticating: signed, using: secret)
            case .rsa(let key, let padding, let hash):
                Self.isRight(_RSA.Signing.RSASignature(rawRepresentation: signature), signed, key, padding, hash)
            case .p256(let key):
                (try? P256.Signing.ECDSASignature(rawRepresentation: signature)).map { key.isValidSignature($0, for: signed) } ?? false
            case .ed25519(let key): key.isValidSignature(signature, for: signed)
            }
        }
    }

    private static func isRight(
        _ signature: _RSA.Signing.RSASignature, _ signed: [UInt8], _ key: _RSA.Signing.PublicKey, _ padding: _RSA.Signing.Padding,
        _ hash: Hash
    ) -> Bool {
        switch hash {
        case .sha256: key.isValidSignature(signature, for: SHA256.hash(data: signed), padding: padding)
        case .sha384: key.isValidSignature(signature, for: SHA384.hash(data: signed), padding: padding)
        case .sha512: key.isValidSignature(signature, for: SHA512.hash(data: signed), padding: padding)
        }
    }

    private func fault(_ claims: TokenClaims, _ now: Double) -> Fault? {
        if let fault = claims.fault(at: now) { return fault }
        let claims = claims.values
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
        /// Which key it says it is signed with.
        let key: String?
        let asksForMore: Bool

        enum CodingKeys: String, CodingKey {
            case algorithm = "alg"
            case key = "kid"
            case extensions = "crit"
        }
        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            asksForMore = container.contains(.extensions)
            algorithm = try? container.decodeIfPresent(String.self, forKey: .algorithm)
            key = try? container.decodeIfPresent(String.self, forKey: .key)
        }
    }

    private static func object(_ bytes: [UInt8]) -> [String: TokenClaims.Value]? {
        try? JSONDecoder().decode([String: TokenClaims.Value].self, from: Data(bytes))
    }
}
