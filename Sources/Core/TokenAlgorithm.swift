// SPDX-License-Identifier: Apache-2.0

/// How a JSON Web Token is signed (RFC 7518, section 3; RFC 8037). The configuration names it, never the token.
public enum TokenAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// HMAC with SHA-256: the issuer and the node share a secret.
    case hs256 = "HS256"
    /// RSA with PKCS #1 v1.5 padding and SHA-256, which most identity providers sign with: the node has the public key alone.
    case rs256 = "RS256"
    /// The same with SHA-384.
    case rs384 = "RS384"
    /// The same with SHA-512.
    case rs512 = "RS512"
    /// RSA with the padding PSS, and SHA-256 in it, too; the salt is as long as the hash.
    case ps256 = "PS256"
    /// The same with SHA-384.
    case ps384 = "PS384"
    /// The same with SHA-512.
    case ps512 = "PS512"
    /// ECDSA over P-256 with SHA-256: the node has the public key alone.
    case es256 = "ES256"
    /// Ed25519: the same.
    case eddsa = "EdDSA"

    /// The sizes of RSA keys that are taken, in bits: shorter ones can be broken, and longer ones make each token dear.
    public static let rsaBits = 2048...8192
}
