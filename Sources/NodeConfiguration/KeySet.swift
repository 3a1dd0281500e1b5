// SPDX-License-Identifier: Apache-2.0
import Core
import Crypto
import CryptoExtras
import Foundation

/// Public keys as issuers publish them: one JSON Web Key, or a set of them (RFC 7517; RFC 7518, section 6; RFC 8037, section 2). Nothing is fetched: the file has been.
enum KeySet {
    /// Keys of one file that are taken.
    static let limit = 16
    /// The longest `kid`, in bytes.
    static let idLimit = 256

    private struct Member: Decodable {
        let kty: String
        let kid, use, alg, crv: String?
        let n, e, x, y, d, k: String?
        let operations: [String]?

        enum CodingKeys: String, CodingKey {
            case kty, kid, use, alg, crv, n, e, x, y, d, k
            case operations = "key_ops"
        }

        /// What cannot verify these tokens is passed over, as RFC 7517 asks for in section 5: a set has keys for other uses, too.
        func isFor(_ algorithm: TokenAlgorithm) -> Bool {
            guard use ?? "sig" == "sig", operations?.contains("verify") ?? true, alg ?? algorithm.rawValue == algorithm.rawValue else {
                return false
            }
            return switch algorithm {
            case .hs256: kty == "oct"
            case .rs256, .rs384, .rs512, .ps256, .ps384, .ps512: kty == "RSA"
            case .es256: kty == "EC" && crv == "P-256"
            case .eddsa: kty == "OKP" && crv == "Ed25519"
            }
        }
    }

    private struct Members: Decodable { let keys: [Member] }

    /// The keys in it that are for this algorithm; nil where this is no JSON Web Key at all.
    static func read(_ bytes: [UInt8], _ algorithm: TokenAlgorithm) -> Result<[TokenRules.Key], TokenRules.Problem>? {
        let data = Data(bytes), decoder = JSONDecoder()
        guard
            let all = (try? decoder.decode(Members.self, from: data))?.keys ?? (try? decoder.decode(Member.self, from: data)).map({ [$0] })
        else { return nil }
        func failure(_ sentence: String) -> Result<[TokenRules.Key], TokenRules.Problem> { .failure(.init(sentence: sentence)) }
        // A public key taken for a secret lets everybody who has it sign.
        if algorithm == .hs256 { return failure("of HS256 is a secret, and this is a JSON Web Key") }
        let fitting = all.filter { $0.isFor(algorithm) }
        guard !fitting.isEmpty else { return failure("is a JSON Web Key, and none of the \(all.count) here is for \(algorithm.rawValue)") }
        guard fitting.count <= limit else {
            return failure("has \(fitting.count) JSON Web Keys for \(algorithm.rawValue); at most \(limit) are taken")
        }
        var keys: [TokenRules.Key] = []
        for member in fitting {
            let name = member.kid.map { "`\($0.prefix(64))`" } ?? "without `kid`"
            guard member.d == nil, member.k == nil else {
                return failure("has a private JSON Web Key \(name): the issuer publishes those that the node is to have")
            }
            guard member.kid?.utf8.count ?? 0 <= idLimit else {
                return failure("has a JSON Web Key whose `kid` is longer than \(idLimit) bytes")
            }
            guard let bytes = key(member, algorithm) else {
                let size =
                    member.kty == "RSA" ? " of \(TokenAlgorithm.rsaBits.lowerBound) to \(TokenAlgorithm.rsaBits.upperBound) bits" : ""
                return failure("has a JSON Web Key \(name) that is no public key\(size) of \(algorithm.rawValue)")
            }
            keys.append(TokenRules.Key(Secret(bytes), id: member.kid))
        }
        return .success(keys)
    }

    private static func key(_ member: Member, _ algorithm: TokenAlgorithm) -> [UInt8]? {
        switch algorithm {
        case .hs256: return nil
        case .rs256, .rs384, .rs512, .ps256, .ps384, .ps512:
            guard let n = bytes(member.n), let e = bytes(member.e), let key = try? _RSA.Signing.PublicKey(n: n, e: e),
                TokenAlgorithm.rsaBits.contains(key.keySizeInBits)
            else { return nil }
            return Array(key.derRepresentation)
        case .es256:
            guard let x = bytes(member.x), let y = bytes(member.y), x.count == 32, y.count == 32,
                let key = try? P256.Signing.PublicKey(x963Representation: [4] + x + y)
            else { return nil }
            return Array(key.x963Representation)
        case .eddsa:
            guard let x = bytes(member.x), let key = try? Curve25519.Signing.PublicKey(rawRepresentation: x) else { return nil }
            return Array(key.rawRepresentation)
        }
    }

    /// Base64url without padding (RFC 7515, section 2).
    private static func bytes(_ text: String?) -> [UInt8]? {
        guard let text, !text.isEmpty, !text.utf8.contains(where: { "+/=".utf8.contains($0) }) else { return nil }
        let plain = text.replacing("-", with: "+").replacing("_", with: "/")
        let padding = String(repeating: "=", count: (4 - plain.utf8.count % 4) % 4)
        return Data(base64Encoded: plain + padding).map(Array.init)
    }
}
