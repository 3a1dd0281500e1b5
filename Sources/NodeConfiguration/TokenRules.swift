// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import CryptoExtras
import Foundation

/// How the JSON Web Tokens that a tenant's end users show are verified (RFC 7519, RFC 8725).
public struct TokenRules: Hashable, Sendable {
    /// The header that a token comes in; as written, so compare without regard to case. Never `Authorization`, which is the API key's.
    public var header = "Bulkhead-User-Token"
    /// The token's `iss` must be this; nil where the key alone says who issued it.
    public var issuer: String?
    /// The token's `aud` must name this; where it is nil, a token that names an audience is for somebody else.
    public var audience: String?
    public var algorithm: TokenAlgorithm
    /// Each verifies: while a key is changed there are two.
    public var keys: [Key]

    /// The secret of HS256, the key (DER) of RS256 to PS512, the point (X9.63) of ES256, the 32 bytes of an Ed25519 key.
    public struct Key: Hashable, Sendable {
        public let secret: Secret
        /// The `kid` of a JSON Web Key: only tokens that name it, or name none, are tried with it.
        public let id: String?
        public var bytes: [UInt8] { secret.bytes }
        public init(_ secret: Secret, id: String? = nil) { (self.secret, self.id) = (secret, id) }
    }

    public init(algorithm: TokenAlgorithm, keys: [Key], issuer: String? = nil, audience: String? = nil) {
        self.algorithm = algorithm
        self.keys = keys
        self.issuer = issuer
        self.audience = audience
    }

    /// The longest `issuer` and `audience`, in bytes.
    static let textLimit = 256
    static let keyLimit = 4
    /// RFC 7518, section 3.2: a secret is at least as long as the hash.
    static let secretFloor = 32

    /// `{header: X-User-Token, issuer: ..., audience: ..., algorithm: ES256, key: file:secrets/issuer.pem}`.
    static func read(_ tokens: Mapping, directory: String?) -> TokenRules? {
        let header = tokens.parsed("header", "a header's name, and not Authorization, which is the API key's") { text in
            UserKey.isHeader(text) && text.lowercased() != "authorization" ? text : nil
        }
        let (issuer, audience) = (tokens.shortText("issuer"), tokens.shortText("audience"))
        let names = TokenAlgorithm.allCases.map(\.rawValue).joined(separator: ", ")
        let algorithm = tokens.parsed("algorithm", "one of \(names)", TokenAlgorithm.init)
        let texts = tokens.words("key")
        tokens.finish()
        for key in ["algorithm", "key"] where !tokens.keys.contains(key) {
            tokens.document.fail(tokens.node, "`\(key)` is missing: tokens are verified with one algorithm and its key")
        }
        guard let algorithm, let texts else { return nil }
        guard texts.count <= keyLimit else {
            tokens.document.fail(tokens.value("key"), "`key` has \(texts.count) entries; at most \(keyLimit) are tried")
            return nil
        }
        var keys: [Key] = []
        for text in texts {
            guard let secret = tokens.secret(text, tokens.value("key"), directory) else { return nil }
            switch KeySet.read(secret.bytes, algorithm) ?? Self.key(secret.bytes, algorithm).map({ [Key($0)] }) {
            case .success(let found): keys += found
            case .failure(let problem):
                tokens.document.fail(tokens.value("key"), "`key` \(problem.sentence)")
                return nil
            }
        }
        guard keys.count(where: { $0.id == nil }) <= keyLimit else {
            tokens.document.fail(tokens.value("key"), "`key` has more than \(keyLimit) keys without a `kid`, and no more are tried")
            return nil
        }
        var rules = TokenRules(algorithm: algorithm, keys: keys, issuer: issuer, audience: audience)
        if let header { rules.header = header }
        return rules
    }

    struct Problem: Error { let sentence: String }

    /// The key itself, of what a file holds.
    static func key(_ bytes: [UInt8], _ algorithm: TokenAlgorithm) -> Result<Secret, Problem> {
        let pem = String(validating: bytes, as: UTF8.self).map { $0.trimmingCharacters(in: .whitespacesAndNewlines) } ?? ""
        switch algorithm {
        case .hs256:
            // A public key taken for a secret lets everybody who has it sign.
            if pem.hasPrefix("-----BEGIN") { return .failure(Problem(sentence: "of HS256 is a secret, and this is a key in PEM form")) }
            guard bytes.count >= secretFloor else {
                return .failure(Problem(sentence: "of HS256 has at least \(secretFloor) bytes, and this has \(bytes.count)"))
            }
            return .success(Secret(bytes))
        case .rs256, .rs384, .rs512, .ps256, .ps384, .ps512:
            let (name, bits) = (algorithm.rawValue, TokenAlgorithm.rsaBits)
            // "Unsafe" takes keys of 1024 bits, too: they are refused below, by what is wrong with them.
            guard pem.hasPrefix("-----BEGIN PUBLIC KEY-----"), let key = try? _RSA.Signing.PublicKey(unsafePEMRepresentation: pem) else {
                return .failure(
                    Problem(
                        sentence:
                            "of \(name) is a public RSA key of \(bits.lowerBound) to \(bits.upperBound) bits, in PEM form (BEGIN PUBLIC KEY)"
                    ))
            }
            guard bits.contains(key.keySizeInBits) else {
                return .failure(
                    Problem(sentence: "of \(name) has \(bits.lowerBound) to \(bits.upperBound) bits, and this has \(key.keySizeInBits)"))
            }
            return .success(Secret(Array(key.derRepresentation)))
        case .es256:
            guard let key = try? P256.Signing.PublicKey(pemRepresentation: pem) else {
                return .failure(Problem(sentence: "of ES256 is a public key on the curve P-256, in PEM form (BEGIN PUBLIC KEY)"))
            }
            return .success(Secret(Array(key.x963Representation)))
        case .eddsa:
            guard let key = ed25519(pem) else {
                return .failure(Problem(sentence: "of EdDSA is a public Ed25519 key in PEM form (BEGIN PUBLIC KEY)"))
            }
            return .success(Secret(key))
        }
    }

    /// RFC 8410: the structure around such a key is always the same twelve bytes.
    private static func ed25519(_ pem: String) -> [UInt8]? {
        let (first, last) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----")
        guard pem.hasPrefix(first), pem.hasSuffix(last), pem.utf8.count > first.utf8.count + last.utf8.count else { return nil }
        let text = pem.dropFirst(first.count).dropLast(last.count).filter { !$0.isWhitespace }
        let prefix: [UInt8] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00]
        guard let bytes = Data(base64Encoded: String(text)).map(Array.init), bytes.count == 44, bytes.starts(with: prefix),
            (try? Curve25519.Signing.PublicKey(rawRepresentation: bytes.dropFirst(12))) != nil
        else { return nil }
        return Array(bytes.dropFirst(12))
    }
}

extension Mapping {
    /// One that a claim is compared with.
    fileprivate func shortText(_ key: String) -> String? {
        guard let text = text(key) else { return nil }
        guard (1...TokenRules.textLimit).contains(text.utf8.count) else {
            document.fail(value(key), "`\(key)` has 1 to \(TokenRules.textLimit) bytes")
            return nil
        }
        return text
    }
}
