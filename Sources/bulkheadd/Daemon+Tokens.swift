// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import NodeConfiguration
import Store
import Synchronization

/// A tenant's rule for tokens, ready for use.
struct TenantTokens: Sendable {
    let header: String
    let verifier: TokenVerifier

    init?(_ rules: TokenRules?) {
        guard let rules,
            let verifier = TokenVerifier(
                rules.algorithm, keys: rules.keys.map(\.bytes), issuer: rules.issuer, audience: rules.audience)
        else { return nil }
        self.header = rules.header
        self.verifier = verifier
    }
}

/// Who the end user of a call is.
extension Daemon {
    /// The longest name of an end user, in bytes.
    static let userLimit = 256

    func users(_ version: VersionID, _ caller: Caller, _ header: (String) -> String?) -> Result<EndUsers, Problem> {
        let tenant = userRules.withLock { $0[version.function.tenant] }
        let function = functionRules.withLock { $0[version] }
        guard tenant != nil || function != nil else { return .success(EndUsers()) }
        var users = EndUsers()
        // Both rules may ask for claims of the same token.
        var claims: TokenClaims?
        for (rule, path) in [(tenant, \EndUsers.tenant), (function, \EndUsers.function)] {
            guard let rule else { continue }
            let value: String
            switch rule {
            case .header(let name): value = header(name) ?? ""
            case .apiKey:
                if case .network(let key?, _) = caller { value = keyRing.withLock { $0.record(key)?.id } ?? "" } else { value = "" }
            case .claim(let name):
                if claims == nil {
                    switch self.claims(version.function.tenant, header) {
                    case .success(let found): claims = found
                    case .failure(let problem): return .failure(problem)
                    }
                }
                guard let word = claims?.word(name) else {
                    return .failure(
                        Self.badToken(403, "the token has no claim `\(name)` that is a whole number or a text without control characters"))
                }
                value = word
            }
            guard value.utf8.count <= Self.userLimit else {
                return .failure(.badRequest("the end user's name (\(rule)) is longer than \(Self.userLimit) bytes"))
            }
            users[keyPath: path] = value
        }
        return .success(users)
    }

    /// What the caller's token says, where it is a good one of this tenant's issuer: without one nobody is served, for who is refused as one user must not go on as another.
    private func claims(_ tenant: Name, _ header: (String) -> String?) -> Result<TokenClaims, Problem> {
        guard let tokens = tokenRules.withLock({ $0[tenant] }) else {
            // Checked at the deploy; the file was changed since.
            return .failure(
                Problem(
                    code: "unavailable", title: "Not available", status: 503,
                    detail: "the function tells end users apart by a claim, and its tenant's file has no `tokens` to verify one with"))
        }
        return tokens.verifier.claims(header(tokens.header), at: Date().timeIntervalSince1970).mapError { fault in
            let sentence =
                switch fault {
                case .missing: "there is none: send a JSON Web Token in the header \(tokens.header)"
                case .tooLong: "it is longer than \(TokenVerifier.sizeLimit) bytes"
                case .malformed: "it is no JSON Web Token in the compact form HEADER.PAYLOAD.SIGNATURE"
                case .wrong: "it is not signed in the way and with the key that its tenant's file names"
                case .content: "its claims cannot be read, or a time among them is no number"
                case .endless: "it has no `exp`"
                case .expired: "it has expired"
                case .early: "it is not valid yet"
                case .issuer: "it is of another issuer"
                case .audience: "it is for another audience"
                }
            return Self.badToken(401, "the end user's token is refused: \(sentence)")
        }
    }

    private static func badToken(_ status: Int, _ detail: String) -> Problem {
        Problem(code: "badToken", title: "The end user's token is refused", status: status, detail: detail)
    }
}
