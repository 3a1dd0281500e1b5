// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import NIOCore
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// A tenant's rule for tokens, ready for use.
struct TenantTokens: Sendable {
    private static let lastSerial = Atomic<UInt64>(0)

    let header: String
    let verifier: TokenVerifier
    /// Of this rule alone: what was verified under another does not count.
    let serial = lastSerial.add(1, ordering: .relaxed).newValue

    init?(_ rules: TokenRules?) {
        guard let rules,
            let verifier = TokenVerifier(
                rules.algorithm, keys: rules.keys.map(\.bytes), ids: rules.keys.map(\.id), issuer: rules.issuer, audience: rules.audience)
        else { return nil }
        self.header = rules.header
        self.verifier = verifier
    }
}

/// Who the end user of a call is.
extension Daemon {
    /// The longest name of an end user, in bytes.
    static let userLimit = 256

    func users(_ version: VersionID, _ caller: Caller, _ header: (String) -> String?) -> Identification {
        let tenant = userRules.withLock { $0[version.function.tenant] }
        let function = functionRules.withLock { $0[version] }
        guard tenant != nil || function != nil else { return .known(EndUsers()) }
        var users = EndUsers()
        // Both rules may ask for claims of the same token.
        var wanted = WantedClaims()
        for (rule, user, claim) in [(tenant, \EndUsers.tenant, \WantedClaims.tenant), (function, \.function, \.function)] {
            guard let rule else { continue }
            let value: String
            switch rule {
            case .header(let name): value = header(name) ?? ""
            case .apiKey:
                if case .network(let key?, _) = caller { value = keyRing.withLock { $0.record(key)?.id } ?? "" } else { value = "" }
            case .claim(let name):
                wanted[keyPath: claim] = name
                continue
            }
            guard value.utf8.count <= Self.userLimit else { return .refused(Self.longName("\(rule)")) }
            users[keyPath: user] = value
        }
        guard !wanted.names.isEmpty else { return .known(users) }
        return identify(users, wanted, of: version.function.tenant, header)
    }

    /// What the caller's token says, where it is a good one of this tenant's issuer: without one nobody is served, for who is refused as one user must not go on as another.
    private func identify(
        _ users: EndUsers, _ wanted: WantedClaims, of tenant: Name, _ header: (String) -> String?
    ) -> Identification {
        guard let tokens = tokenRules.withLock({ $0[tenant] }) else {
            // Checked at the deploy; the file was changed since.
            return .refused(
                Problem(
                    code: "unavailable", title: "Not available", status: 503,
                    detail: "the function tells end users apart by a claim, and its tenant's file has no `tokens` to verify one with"))
        }
        let text = header(tokens.header) ?? ""
        guard !text.isEmpty else { return .refused(Self.refusal(.missing, tokens)) }
        // Before it is hashed.
        guard text.utf8.count <= TokenVerifier.sizeLimit else { return .refused(Self.refusal(.tooLong, tokens)) }
        let key = VerifiedTokens.Key(text, tenant: tenant, rule: tokens.serial, names: wanted.names)
        if let claims = verifiedTokens.claims(key, at: Date().timeIntervalSince1970) {
            switch wanted.read(claims, into: users) {
            case .success(let users): return .known(users)
            case .failure(let problem): return .refused(problem)
            }
        }
        let promise = supervisor.loop.makePromise(of: Result<EndUsers, Problem>.self)
        let isTaken = tokenDesk.take(tenant) { [verifiedTokens] in
            switch tokens.verifier.claims(text, at: Date().timeIntervalSince1970) {
            case .success(let claims):
                verifiedTokens.keep(claims, key)
                promise.succeed(wanted.read(claims, into: users))
            case .failure(let fault): promise.succeed(.failure(Self.refusal(fault, tokens)))
            }
        }
        guard isTaken else {
            promise.succeed(.failure(Self.tooManyTokens))
            return .refused(Self.tooManyTokens)
        }
        return .pending(promise.futureResult)
    }

    private static let tooManyTokens: Problem = {
        var problem = Problem(
            code: Outcome.throttled.rawValue, title: "A ceiling is reached", status: 429,
            detail: "as many new tokens are being verified as may be at once (\(TenantDesk.share) of a tenant): send it again in a second")
        problem.retryAfter = 1
        return problem
    }()

    fileprivate static func longName(_ rule: String) -> Problem {
        .badRequest("the end user's name (\(rule)) is longer than \(userLimit) bytes")
    }

    private static func refusal(_ fault: TokenVerifier.Fault, _ tokens: TenantTokens) -> Problem {
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
        return badToken(401, "the end user's token is refused: \(sentence)")
    }

    fileprivate static func badToken(_ status: Int, _ detail: String) -> Problem {
        Problem(code: "badToken", title: "The end user's token is refused", status: status, detail: detail)
    }
}

/// The claims that name the end user, of the tenant's rule and of the function's.
private struct WantedClaims: Sendable {
    var tenant: String?
    var function: String?

    var names: [String] { [tenant, function].compactMap { $0 } }

    func read(_ claims: TokenClaims, into users: EndUsers) -> Result<EndUsers, Problem> {
        var users = users
        for (name, user) in [(tenant, \EndUsers.tenant), (function, \.function)] {
            guard let name else { continue }
            guard let word = claims.word(name) else {
                return .failure(
                    Daemon.badToken(403, "the token has no claim `\(name)` that is a whole number or a text without control characters"))
            }
            guard word.utf8.count <= Daemon.userLimit else { return .failure(Daemon.longName("claim:\(name)")) }
            users[keyPath: user] = word
        }
        return .success(users)
    }
}
