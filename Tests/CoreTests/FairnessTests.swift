// SPDX-License-Identifier: Apache-2.0
import Core
import HeapModule
import Testing

/// A machine with seats, run by the queue in simulated time. Every tenant is root -> tenant -> function -> leaf, or below a class.
private struct Machine {
    struct Tenant {
        var vertex: FairQueue.VertexID
        var leaf: FairQueue.VertexID
        var cap: Int
        var weight: Double
        var longest: Nanoseconds
        /// Kept waiting at all times; 0 for a tenant that the test feeds.
        var backlog = 20
        var delivered: Double = 0
        var running: [UInt64: Nanoseconds] = [:]
        /// Seat time up to now, of runs under way too.
        func seatTime(_ now: Nanoseconds) -> Double { running.values.reduce(delivered) { $0 + Double(now - $1) } }
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

    var random: Seeded
    var queue: FairQueue
    var tenants: [Tenant] = []
    var byLeaf: [FairQueue.VertexID: Int] = [:]
    var due = Heap<Due>()
    var now: Nanoseconds = 0
    var number: UInt64 = 0
    var largestGuess: Nanoseconds = 0
    /// When each tenant's seats were given, for those that are fed by the test.
    var startedAt: [[Nanoseconds]] = []

    init(seed: UInt64, seats: Int) {
        random = Seeded(state: seed)
        queue = FairQueue(seats: seats)
    }

    mutating func add(under parent: FairQueue.VertexID? = nil, cap: Int, weight: Double = 1, longest: Nanoseconds, backlog: Int = 20) {
        let vertex = queue.addVertex(under: parent ?? queue.root, cap: cap, weight: weight)
        let function = queue.addVertex(under: vertex, cap: cap, weight: 1)
        let leaf = queue.addVertex(under: function, cap: cap, weight: 1)
        byLeaf[leaf] = tenants.count
        tenants.append(Tenant(vertex: vertex, leaf: leaf, cap: cap, weight: weight, longest: longest, backlog: backlog))
        startedAt.append([])
        arrive(tenants.count - 1, backlog)
    }

    mutating func arrive(_ tenant: Int, _ count: Int) {
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
    mutating func step() -> Bool {
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

    mutating func run(until end: Nanoseconds) {
        while now < end, step() {}
    }

    /// What P6 allows two tenants that always have work and never reach their caps to be apart.
    func bound(_ a: Tenant, _ b: Tenant) -> Double {
        (Double(a.cap) * Double(a.longest + largestGuess)) / a.weight + (Double(b.cap) * Double(b.longest + largestGuess)) / b.weight
    }

    func shares() -> [Double] {
        let times = tenants.map { $0.seatTime(now) }
        let sum = times.reduce(0, +)
        return times.map { $0 / sum }
    }
}

@Suite struct FairnessTests {
    @Test("backlogged tenants never drift further apart than the bound", arguments: 0..<6)
    func bound(seed: Int) {
        var machine = Machine(seed: UInt64(seed), seats: 16)
        for tenant in 0..<20 {
            let longest: Nanoseconds = tenant % 3 == 0 ? .seconds(7) : tenant % 3 == 1 ? .milliseconds(40) : .seconds(1)
            machine.add(cap: 8, weight: seed % 2 == 0 ? 1 : Double(1 + tenant % 3), longest: longest)
        }
        var worst = 0.0
        var apart = 0.0
        for _ in 0..<6_000 {
            guard machine.step() else { break }
            let served = machine.tenants.map { $0.seatTime(machine.now) / $0.weight }
            for (one, a) in zip(machine.tenants, served) {
                for (other, b) in zip(machine.tenants, served) where a > b {
                    worst = max(worst, (a - b) / machine.bound(one, other))
                    apart = max(apart, a - b)
                }
            }
        }
        print("P6 seed \(seed): worst \((apart / 1e7).rounded() / 100) seat-s apart, measured/bound \((worst * 1000).rounded() / 1000)")
        #expect(worst < 1, "seed \(seed)")
        // Far inside the bound in practice; a scheduler that only kept the bound would be a worse one.
        #expect(worst < 0.5, "seed \(seed)")
    }

    @Test("weights are shares")
    func weights() {
        var machine = Machine(seed: 3, seats: 14)
        for weight in [1.0, 2, 4] { machine.add(cap: 14, weight: weight, longest: .milliseconds(300)) }
        machine.run(until: .seconds(600))
        for (share, expected) in zip(machine.shares(), [1.0 / 7, 2.0 / 7, 4.0 / 7]) { #expect(abs(share - expected) < 0.005) }
    }

    @Test("100 tenants with the same weight and different run times get the same: Jain index at least 0.99")
    func jain() {
        var machine = Machine(seed: 5, seats: 32)
        for tenant in 0..<100 { machine.add(cap: 32, longest: .milliseconds(UInt64(10 + 20 * tenant))) }
        machine.run(until: .seconds(300))
        let times = machine.tenants.map { $0.seatTime(machine.now) }
        let sum = times.reduce(0, +)
        let index = sum * sum / (100 * times.reduce(0) { $0 + $1 * $1 })
        print("Jain index of 100 backlogged tenants: \(index)")
        #expect(index >= 0.99)
    }

    @Test("a class has its share when all want more, and what the others leave when they do not")
    func classes() {
        var machine = Machine(seed: 9, seats: 40)
        let weights = [0.7, 0.25, 0.05]
        let classes = weights.map { machine.queue.addVertex(under: machine.queue.root, cap: 40, weight: $0) }
        for vertex in classes { for _ in 0..<3 { machine.add(under: vertex, cap: 40, longest: .milliseconds(400)) } }
        func share(_ index: Int, _ from: [Double], _ to: [Double]) -> Double {
            let difference = zip(to, from).map { $0 - $1 }
            return difference[(3 * index)..<(3 * index + 3)].reduce(0, +) / difference.reduce(0, +)
        }
        func times() -> [Double] { machine.tenants.map { $0.seatTime(machine.now) } }
        machine.run(until: .seconds(500))
        for (index, weight) in weights.enumerated() {
            #expect(abs(share(index, Array(repeating: 0, count: 9), times()) - weight) < 0.01, "guaranteed to class \(index)")
        }
        // Sync has nothing to do: 25 to 5.
        machine.queue.setReady(classes[0], false)
        machine.run(until: .seconds(510))
        var before = times()
        machine.run(until: .seconds(1_000))
        #expect(abs(share(1, before, times()) - 25.0 / 30) < 0.01)
        // Only background: all of it.
        machine.queue.setReady(classes[1], false)
        machine.run(until: .seconds(1_010))
        before = times()
        machine.run(until: .seconds(1_100))
        #expect(share(2, before, times()) > 0.999 && machine.queue.running(classes[2]) >= 39)
        // Sync and async come back: what they lent is theirs again as the seats fall free, without interest.
        for vertex in classes { machine.queue.setReady(vertex, true) }
        machine.run(until: .seconds(1_110))
        before = times()
        machine.run(until: .seconds(1_600))
        for (index, weight) in weights.enumerated() {
            #expect(abs(share(index, before, times()) - weight) < 0.01, "class \(index) after lending")
        }
    }

    @Test("a flood of 100,000 takes no more than its share, and a quiet tenant is served at once", arguments: 0..<4)
    func flood(seed: Int) {
        func machine(flood: Int) -> Machine {
            var machine = Machine(seed: UInt64(seed), seats: 20)
            for _ in 0..<9 { machine.add(cap: 20, longest: .milliseconds(500)) }
            machine.add(cap: 20, longest: .milliseconds(500), backlog: 0)
            machine.arrive(9, flood)
            // The quiet ones: a single request now and then, of all at the same moment.
            for _ in quiet { machine.add(cap: 20, longest: .milliseconds(500), backlog: 0) }
            return machine
        }
        let quiet = 10..<20
        // Of the quiet ones, without the flood and with it.
        var waits: [[[Nanoseconds]]] = []
        for count in [0, 100_000] {
            var machine = machine(flood: count)
            var asked: [Nanoseconds] = []
            for round in 1...60 {
                machine.run(until: .seconds(UInt64(round) * 5))
                asked.append(machine.now)
                for tenant in quiet { machine.arrive(tenant, 1) }
            }
            machine.run(until: .seconds(310))
            waits.append(quiet.map { tenant in zip(machine.startedAt[tenant], asked).map { $0 - $1 } })
            #expect(quiet.allSatisfy { machine.startedAt[$0].count == 60 }, "seed \(seed): a quiet tenant was not always served")
            let total = machine.tenants.reduce(0) { $0 + $1.seatTime(machine.now) }
            for tenant in machine.tenants[..<9] {
                let fair = total / (count > 0 ? 10.0 : 9.0)
                let allowed = machine.bound(tenant, machine.tenants[9])
                #expect(tenant.seatTime(machine.now) >= fair * 0.97 - allowed / 10, "seed \(seed)")
                #expect(tenant.seatTime(machine.now) >= fair - allowed, "seed \(seed)")
            }
        }
        let worst = waits.map { $0.joined().max() ?? 0 }
        print("quiet tenants, longest wait: \(worst[0] / 1_000_000) ms without the flood, \(worst[1] / 1_000_000) ms with it")
        // P7: by the bound it could be far later; in fact they are next, so that they wait for as many seats to fall free, of 20 that all do so within half a second.
        for (tenant, times) in zip(quiet, waits[1]) {
            #expect(times.allSatisfy { $0 <= .milliseconds(500) }, "seed \(seed), tenant \(tenant): \(times.max() ?? 0) ns")
        }
    }
}
