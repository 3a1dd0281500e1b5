// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import Synchronization
import Testing

@testable import Store

@Suite struct TenantDeskTests {
    private func name(_ text: String) throws -> Name { try #require(Name(text)) }

    /// Keeps every thread of a desk until it is told to let go.
    private final class Hold: Sendable {
        private let gate = DispatchSemaphore(value: 0)
        private let held = Atomic(0)
        init(_ desk: TenantDesk, _ tenant: Name) async {
            for _ in 0..<TenantDesk.threads {
                _ = desk.take(tenant) {
                    self.held.add(1, ordering: .relaxed)
                    self.gate.wait()
                }
            }
            // On a busy machine a thread comes late, and would take what the test puts there.
            while held.load(ordering: .relaxed) < TenantDesk.threads { await Task.yield() }
        }
        func release(_ count: Int = TenantDesk.threads) { for _ in 0..<count { gate.signal() } }
    }

    private func idle(_ desk: TenantDesk) async throws {
        let deadline = ContinuousClock.now + .seconds(30)
        while desk.count > 0, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(2)) }
        #expect(desk.count == 0)
    }

    @Test("a tenant has its share of the desk, all together have theirs, and what is full has room again")
    func bounds() async throws {
        let desk = TenantDesk()
        let (holder, acme) = (try name("holder"), try name("acme"))
        let hold = await Hold(desk, holder)
        let done = Atomic(0)
        func take(_ tenant: Name) -> Bool { desk.take(tenant) { done.add(1, ordering: .relaxed) } }
        #expect((0..<TenantDesk.share).allSatisfy { _ in take(acme) } && !take(acme))
        var others = 0
        for index in 0... {
            guard take(try name("t\(index / TenantDesk.share)")) else { break }
            others += 1
        }
        #expect(TenantDesk.threads + TenantDesk.share + others == TenantDesk.limit && desk.count == TenantDesk.limit)
        hold.release()
        try await idle(desk)
        #expect(done.load(ordering: .relaxed) == TenantDesk.share + others && take(acme))
        try await idle(desk)
    }

    @Test("with one thread a tenant the other one stays for the others, and what waited goes on by itself")
    func width() async throws {
        let desk = TenantDesk("test", share: 4, width: 1)
        let (acme, beta) = (try name("acme"), try name("beta"))
        let gate = DispatchSemaphore(value: 0)
        let done = Atomic(0)
        let running = Atomic(0)
        let most = Atomic(0)
        for _ in 0..<4 {
            let isTaken = desk.take(acme) {
                most.max(running.add(1, ordering: .relaxed).newValue, ordering: .relaxed)
                gate.wait()
                running.subtract(1, ordering: .relaxed)
                done.add(1, ordering: .relaxed)
            }
            #expect(isTaken)
        }
        #expect(!desk.take(acme) {})
        // Beside the one that is held: else this would never end.
        let isOther = Atomic(false)
        #expect(desk.take(beta) { isOther.store(true, ordering: .relaxed) })
        let deadline = ContinuousClock.now + .seconds(30)
        while !isOther.load(ordering: .relaxed), ContinuousClock.now < deadline { await Task.yield() }
        #expect(isOther.load(ordering: .relaxed) && done.load(ordering: .relaxed) == 0)
        for _ in 0..<4 { gate.signal() }
        try await idle(desk)
        #expect(done.load(ordering: .relaxed) == 4 && most.load(ordering: .relaxed) == 1)
    }

    @Test("tenants take turns: one's flood keeps another's single token waiting for one of its own, and not for all")
    func turns() async throws {
        let desk = TenantDesk()
        let (flood, quiet) = (try name("flood"), try name("quiet"))
        let hold = await Hold(desk, try name("holder"))
        let order = Mutex<[String]>([])
        for _ in 0..<40 { _ = desk.take(flood) { order.withLock { $0.append("flood") } } }
        _ = desk.take(quiet) { order.withLock { $0.append("quiet") } }
        // One thread alone: of two nobody knows which says first what it has done.
        hold.release(1)
        let deadline = ContinuousClock.now + .seconds(30)
        while order.withLock({ $0.count }) < 41, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(2)) }
        #expect(order.withLock { $0.firstIndex(of: "quiet") } == 1)
        hold.release(TenantDesk.threads - 1)
        try await idle(desk)
    }
}

@Suite struct VerifiedTokensTests {
    private func key(_ text: String, _ tenant: String = "acme", rule: UInt64 = 1, names: [String] = ["sub"]) throws -> VerifiedTokens.Key {
        VerifiedTokens.Key(text, tenant: try #require(Name(tenant)), rule: rule, names: names)
    }
    private let claims = TokenClaims(values: ["sub": .text("ann"), "exp": .integer(1000), "nbf": .integer(500), "x": .text("much")])

    @Test("a token is known again for its tenant, its rule and the claims that were asked for, in its time, and nothing else of it is kept")
    func known() throws {
        let tokens = VerifiedTokens()
        #expect(try tokens.claims(key("a"), at: 600) == nil)
        try tokens.keep(claims, key("a"))
        let found = try #require(try tokens.claims(key("a"), at: 600))
        #expect(found.word("sub") == "ann" && Set(found.values.keys) == ["sub", "exp", "nbf"])
        #expect(try tokens.claims(key("b"), at: 600) == nil && tokens.claims(key("a", "beta"), at: 600) == nil)
        #expect(try tokens.claims(key("a", rule: 2), at: 600) == nil && tokens.claims(key("a", names: ["x"]), at: 600) == nil)
        #expect(try tokens.claims(key("a"), at: 1029.9) != nil && tokens.claims(key("a"), at: 1030) == nil)
        #expect(try tokens.claims(key("a"), at: 470) != nil && tokens.claims(key("a"), at: 469.9) == nil)
        let long = TokenClaims(values: ["sub": .text(String(repeating: "u", count: 257)), "exp": .integer(1000)])
        try tokens.keep(long, key("c"))
        #expect(try tokens.claims(key("c"), at: 600) == nil && tokens.count == 1)
    }

    @Test("one tenant's many push out its own that are not used, never another's, and never those in use")
    func bounds() throws {
        let tokens = VerifiedTokens()
        try tokens.keep(claims, key("other", "beta"))
        try tokens.keep(claims, key("used"))
        try tokens.keep(claims, key("unused"))
        for index in 0..<5000 {
            try tokens.keep(claims, key("flood \(index)"))
            if index % 100 == 0 { #expect(try tokens.claims(key("used"), at: 600) != nil) }
            #expect(tokens.count <= VerifiedTokens.share + 1)
        }
        #expect(try tokens.claims(key("used"), at: 600) != nil && tokens.claims(key("unused"), at: 600) == nil)
        #expect(try tokens.claims(key("other", "beta"), at: 600) != nil)
    }

    @Test("all together have a bound")
    func limit() throws {
        let tokens = VerifiedTokens()
        for tenant in 0..<80 {
            for index in 0..<500 { try tokens.keep(claims, key("\(index)", "t\(tenant)")) }
            #expect(tokens.count <= VerifiedTokens.limit)
        }
        #expect(tokens.count > VerifiedTokens.limit / 4)
    }
}
