// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// Lineages that go from one tenant to another, as a token that a receiver passes on takes them.
@Suite struct BorderTests {
    private let now = at(seconds: 100_000)
    private let acme: Name, beta: Name

    init() throws {
        acme = try #require(Name("acme"))
        beta = try #require(Name("beta"))
    }

    private func admit(_ governor: inout LoopGovernor, _ cause: Lineage, _ edge: EdgeID) -> LoopVerdict {
        var notes: [LoopNote] = []
        return governor.admit(cause, through: edge, at: now, into: &notes)
    }

    @Test("two tenants that start each other, at each border by so many requests, stay within the bounds of one root", arguments: [1, 3])
    func pingPong(width: Int) throws {
        var governor = LoopGovernor(seed: 1)
        let edges = [try edgeID("f"), try edgeID("g", tenant: "beta")]
        var front = [(cause: Lineage(root: rootID(1), born: now), side: 0)]
        var ran = [0, 0], trips: Set<LoopReason> = [], roots: Set<InvocationID> = []
        while let (cause, side) = front.popLast(), ran[0] < 5_000 {
            let verdict = admit(&governor, cause, edges[side])
            guard let lineage = verdict.pass?.lineage else {
                if let trip = verdict.trip { trips.insert(trip.reason) }
                continue
            }
            ran[side] += 1
            if side == 0 { roots.insert(lineage.root) }
            let (here, there) = (edges[side].function.tenant, edges[1 - side].function.tenant)
            front += Array(repeating: (cause: lineage.returned.crossing(from: here, to: there), side: 1 - side), count: width)
        }
        // Each has a budget of 1,000 for what comes back to it, beside the events that have not been there.
        #expect(ran[0] <= 1_001 && ran[1] <= 1_000 + width, "\(ran)")
        #expect(trips.contains(width == 1 ? .path : .root) && roots == [rootID(1)], "\(trips)")
        if width == 1 { #expect(ran == [17, 17]) }
    }

    @Test("a ring through more functions of both than a path remembers is cut within the same bounds")
    func long() throws {
        var governor = LoopGovernor(seed: 1)
        let ring = try (0..<48).map { $0 < 24 ? try edgeID("f\($0)") : try edgeID("g\($0)", tenant: "beta") }
        var (lineage, ran) = (Lineage(root: rootID(1), born: now), [0, 0])
        var reason: LoopReason?
        for place in 0..<10_000 {
            let edge = ring[place % 48]
            if place > 0, place % 24 == 0 {
                let isBack = place % 48 == 0
                lineage = lineage.returned.crossing(from: isBack ? beta : acme, to: isBack ? acme : beta)
            }
            let verdict = admit(&governor, lineage, edge)
            reason = verdict.trip?.reason
            guard let pass = verdict.pass else { break }
            lineage = pass.lineage
            ran[place % 48 / 24] += 1
        }
        #expect(reason == .path || reason == .root)
        #expect(ran.allSatisfy { $0 <= 1_000 + 24 }, "\(ran)")
    }

    @Test("who comes with nothing left takes nothing from whom he comes to: no recurrence, no trip, and that tenant's own budget is whole")
    func emptied() throws {
        var limits = LoopLimits()
        limits.root = TokenRule(burst: 40, every: .seconds(60))
        limits.path = TokenRule(burst: 1_000, every: .seconds(60))
        var governor = LoopGovernor(limits: limits, seed: 1)
        let (own, other) = (try edgeID("own"), try edgeID("g", tenant: "beta"))
        var lineage = Lineage(root: rootID(1), born: now)
        // More functions than a path remembers, until neither hops nor the root's budget are left.
        let ring = try (0..<40).map { try edgeID("f\($0)") } + [own]
        var place = 0
        while let pass = admit(&governor, lineage, ring[place % 41]).pass { (lineage, place) = (pass.lineage, place + 1) }
        let uncrossed = admit(&governor, lineage, other)
        #expect(uncrossed.trip?.reason == .hops)
        let crossed = lineage.returned.crossing(from: acme, to: beta)
        #expect(crossed.hops == lineage.hops && crossed.floor == 0 && crossed.path.count == 16)
        var first = try #require(admit(&governor, crossed, other).pass)
        #expect(!first.isRecurrent)
        for _ in 0..<40 {
            first = try #require(admit(&governor, first.lineage, other).pass)
            #expect(first.isRecurrent)
        }
        let last = admit(&governor, first.lineage, other)
        #expect(last.trip?.reason == .root)
    }
}
