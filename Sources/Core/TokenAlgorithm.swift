// SPDX-License-Identifier: Apache-2.0

/// How a JSON Web Token is signed (RFC 7518, section 3; RFC 8037). The configuration names it, never the token.
public enum TokenAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// HMAC with SHA-256: the issuer and the node share a secret.
    case hs256 = "HS256"
    /// ECDSA over P-256 with SHA-256: the node has the public key alone.
    case es256 = "ES256"
    /// Ed25519: the same.
    case eddsa = "EdDSA"
}
