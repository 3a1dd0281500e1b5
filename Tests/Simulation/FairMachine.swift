// SPDX-License-Identifier: Apache-2.0
public import Core
import HeapModule

/// A machine with seats, run by the queue in simulated time. Every tenant is root -> tenant -> function -> leaf, or below a class.
public struct FairMachine {
    public struct Tenant {
        var vertex: FairQueue.VertexID
        var leaf: FairQueue.VertexID
        public let cap: Int
        public let weight: Double
        public let longest: Nanoseconds
        /// Kept waiting at all times; 0 for a tenant that the test feeds.
        var backlog = 20
        var delivered: Double = 0
        var running: [UInt64: Nanoseconds] = [:]
        /// Seat time up to now, of runs under way too.
        public func seatTime(_ now: Nanoseconds) -> Double { running.values.reduce(delivered) { $0 + Double(now - $1) } }
    }
    struct Due: Comparable {
        let at: Nanoseconds
        let number: UInt64
        let tenant: Int
        let ticket: FairQueue.Ticket
        /// Run time, at the end; nil where only the charge is used up.
        let actual: Nanoseconds?
        static func < (a: Due, b: Due) -> Bool { (a.at, a.number) < (b.at, b.number) }
    }

    var random: SeededNumbers
    public var queue: FairQueue
    public private(set) var tenants: [Tenant] = []
    var byLeaf: [FairQueue.VertexID: Int] = [:]
    var due = Heap<Due>()
    public private(set) var now: Nanoseconds = 0
    var number: UInt64 = 0
    var largestGuess: Nanoseconds = 0
    /// When each tenant's seats were given, for those that are fed by the test.
    public private(set) var startedAt: [[Nanoseconds]] = []

    public init(seed: UInt64, seats: Int) {
        random = SeededNumbers(seed)
        queue = FairQueue(seats: seats)
    }

    public mutating func add(under parent: FairQueue.VertexID? = nil, cap: Int, weight: Double = 1, longest: Nanoseconds, backlog: Int = 20)
    {
        let vertex = queue.addVertex(under: parent ?? queue.root, cap: cap, weight: weight)
        let function = queue.addVertex(under: vertex, cap: cap, weight: 1)
        let leaf = queue.addVertex(under: function, cap: cap, weight: 1)
        byLeaf[leaf] = tenants.count
        tenants.append(Tenant(vertex: vertex, leaf: leaf, cap: cap, weight: weight, longest: longest, backlog: backlog))
        startedAt.append([])
        arrive(tenants.count - 1, backlog)
    }

    public mutating func arrive(_ tenant: Int, _ count: Int) {
        for _ in 0..<count {
            number += 1
            _ = queue.enqueue(InvocationID(milliseconds: 0, random: (0, number)), at: tenants[tenant].leaf)
        }
    }

    mutating func pump() {
        while let start = queue.dispatch() {
            guard let tenant = byLeaf[start.leaf] else { continue }
            number += 1
            tenants[tenant].running[number] = now
            startedAt[tenant].append(now)
            largestGuess = max(largestGuess, start.charged)
            let actual = Nanoseconds.random(in: 1_000_000...tenants[tenant].longest, using: &random)
            due.insert(Due(at: now + actual, number: number, tenant: tenant, ticket: start.ticket, actual: actual))
            if start.charged < actual {
                due.insert(Due(at: now + start.charged, number: number, tenant: tenant, ticket: start.ticket, actual: nil))
            }
            if tenants[tenant].backlog > 0 { arrive(tenant, 1) }
        }
    }

    /// The next thing that happens; false where nothing runs.
    @discardableResult public mutating func step() -> Bool {
        pump()
        guard let next = due.popMin() else { return false }
        now = next.at
        if let actual = next.actual {
            queue.finish(next.ticket, actual: actual)
            tenants[next.tenant].running[next.number] = nil
            tenants[next.tenant].delivered += Double(actual)
        } else {
            let more = max(queue.guess(tenants[next.tenant].leaf), .milliseconds(100))
            if queue.overrun(next.ticket, by: more) {
                due.insert(Due(at: now + more, number: next.number, tenant: next.tenant, ticket: next.ticket, actual: nil))
            }
        }
        return true
    }

    public mutating func run(until end: Nanoseconds) {
        while now < end, step() {}
    }

    /// What P6 allows two tenants that always have work and never reach their caps to be apart.
    public func bound(_ a: Tenant, _ b: Tenant) -> Double {
        (Double(a.cap) * Double(a.longest + largestGuess)) / a.weight + (Double(b.cap) * Double(b.longest + largestGuess)) / b.weight
    }

    /// The largest distance of two tenants' seat time over weight within so many steps, in ns, with what that pair was allowed: the pair that came closest to its bound.
    public mutating func widestGap(steps: Int) -> (apart: Double, bound: Double) {
        var worst = (apart: 0.0, bound: 1.0)
        for _ in 0..<steps {
            guard step() else { break }
            let served = tenants.map { $0.seatTime(now) / $0.weight }
            for (one, a) in zip(tenants, served) {
                for (other, b) in zip(tenants, served) where a > b {
                    let allowed = bound(one, other)
                    if (a - b) / allowed > worst.apart / worst.bound { worst = (a - b, allowed) }
                }
            }
        }
        return worst
    }

    /// How equal what the tenants have had is, each over its weight (Jain, Chiu, Hawe 1984): 1 where all have the same, 1/n where one has everything.
    public func jainIndex() -> Double {
        let served = tenants.map { $0.seatTime(now) / $0.weight }
        let sum = served.reduce(0, +)
        return sum * sum / (Double(served.count) * served.reduce(0) { $0 + $1 * $1 })
    }

    /// The machine of P6: 20 tenants that always have work, caps of 8 of 16 seats, runs of up to 40 ms, 1 s and 7 s, and weights that go through `weights`.
    public static func backlogged(seed: UInt64, weights: [Double]) -> FairMachine {
        var machine = FairMachine(seed: seed, seats: 16)
        let longest: [Nanoseconds] = [.seconds(7), .milliseconds(40), .seconds(1)]
        for tenant in 0..<20 { machine.add(cap: 8, weight: weights[tenant % weights.count], longest: longest[tenant % 3]) }
        return machine
    }

    /// 100 tenants that always have work, with runs of up to 10 ms to 2 s, on 32 seats for 300 s.
    public static func hundred(seed: UInt64, weights: [Double]) -> FairMachine {
        var machine = FairMachine(seed: seed, seats: 32)
        for tenant in 0..<100 {
            machine.add(cap: 32, weight: weights[tenant % weights.count], longest: .milliseconds(UInt64(10 + 20 * tenant)))
        }
        machine.run(until: .seconds(300))
        return machine
    }

    public func shares() -> [Double] {
        let times = tenants.map { $0.seatTime(now) }
        let sum = times.reduce(0, +)
        return times.map { $0 / sum }
    }
}
