// SPDX-License-Identifier: Apache-2.0
import Core
import LoopSimulation
import Testing

@Suite struct FairnessTests {
    @Test("backlogged tenants never drift further apart than the bound, whatever their weights", arguments: 0..<6)
    func bound(seed: Int) {
        let weights: [[Double]] = [[1], [1, 2, 3], [1, 10]]
        var machine = FairMachine.backlogged(seed: UInt64(seed), weights: weights[seed % 3])
        let worst = machine.widestGap(steps: 6_000)
        let ratio = worst.apart / worst.bound
        print("P6 seed \(seed): \((worst.apart / 1e7).rounded() / 100) seat-s apart, measured/bound \((ratio * 1000).rounded() / 1000)")
        // Far inside the bound in practice; a scheduler that only kept the bound would be a worse one.
        #expect(ratio > 0 && ratio < 0.5, "seed \(seed)")
    }

    @Test("weights are shares")
    func weights() {
        var machine = FairMachine(seed: 3, seats: 14)
        for weight in [1.0, 2, 4] { machine.add(cap: 14, weight: weight, longest: .milliseconds(300)) }
        machine.run(until: .seconds(600))
        for (share, expected) in zip(machine.shares(), [1.0 / 7, 2.0 / 7, 4.0 / 7]) { #expect(abs(share - expected) < 0.005) }
    }

    @Test(
        "100 tenants with different run times get the same, each over its weight: Jain index at least 0.99", arguments: [[1.0], [1, 2, 5]])
    func jain(weights: [Double]) {
        let index = FairMachine.hundred(seed: 5, weights: weights).jainIndex()
        print("Jain index of 100 backlogged tenants, weights \(weights): \(index)")
        #expect(index >= 0.99)
    }

    @Test("a class has its share when all want more, and what the others leave when they do not")
    func classes() {
        var machine = FairMachine(seed: 9, seats: 40)
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
        func machine(flood: Int) -> FairMachine {
            var machine = FairMachine(seed: UInt64(seed), seats: 20)
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
