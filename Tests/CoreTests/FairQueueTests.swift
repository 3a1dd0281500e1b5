// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

private func invocation(_ number: UInt64) -> InvocationID { InvocationID(milliseconds: 0, random: (0, number)) }

/// `#require` cannot call what mutates.
private func given(_ start: FairQueue.Start?) throws -> FairQueue.Start { try #require(start) }

/// A queue and its model, told the same things and compared after each.
private struct Pair {
    typealias VertexID = FairQueue.VertexID
    var random: Seeded
    var queue: FairQueue
    var model: FairQueueModel
    var inner: [(id: VertexID, depth: Int)]
    var leaves: [VertexID] = []
    /// Every ticket that was ever given out, so that stale ones are tried too.
    var tickets: [(ticket: FairQueue.Ticket, invocation: InvocationID)] = []
    var arrived = 0
    var ended = 0
    var starts = 0
    var direct = 0
    var problems: [String] = []

    init(seed: UInt64) {
        random = Seeded(state: seed)
        let seats = Int.random(in: 1...12, using: &random)
        queue = FairQueue(seats: seats)
        model = FairQueueModel(seats: seats)
        inner = [(queue.root, 0)]
        for _ in 0..<12 { add() }
    }

    mutating func check(_ condition: Bool, _ text: @autoclosure () -> String) { if !condition { problems.append(text()) } }
    mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
    mutating func anyVertex() -> VertexID { (inner.map(\.id) + leaves).randomElement(using: &random) ?? queue.root }

    mutating func add() {
        guard let parent = inner.randomElement(using: &random), model.vertices.count < 40 else { return }
        let cap = [1, 1, 2, 3, 5, 100][number(0...5)]
        let weight = [0.05, 0.7, 1, 1, 3][number(0...4)]
        let id = queue.addVertex(under: parent.id, cap: cap, weight: weight)
        check(model.vertices[id.number] == nil, "\(id) given twice")
        model.add(id.number, under: parent.id.number, cap: cap, weight: weight)
        if parent.depth < 4, number(0...2) == 0 { inner.append((id, parent.depth + 1)) } else { leaves.append(id) }
    }

    mutating func remove() {
        let id = anyVertex()
        let isRemoved = queue.removeVertex(id)
        check(isRemoved == model.remove(id.number), "remove \(id)")
        if isRemoved {
            inner.removeAll { $0.id == id }
            leaves.removeAll { $0 == id }
        }
    }

    mutating func arrive(directly: Bool) {
        guard let leaf = leaves.randomElement(using: &random) else { return }
        arrived += 1
        let id = invocation(UInt64(arrived))
        if directly {
            let before = queue
            if let start = queue.start(id, at: leaf) {
                direct += 1
                check(model.next() == nil, "\(id) overtook somebody")
                record(start, waited: before)
                model.enqueue(id, at: leaf.number)
                let expected = model.dispatch(newestFirst: true)
                check(
                    expected?.leaf == leaf.number && expected?.charged == start.charged,
                    "direct start \(start), model \(String(describing: expected))")
                return
            }
            check(
                queue.vertices.elementsEqual(before.vertices) { $0.time == $1.time && $0.running == $1.running },
                "a refused start changed something")
        }
        tickets.append((queue.enqueue(id, at: leaf), id))
        model.enqueue(id, at: leaf.number)
    }

    /// A start went through: on the whole path there was a seat free before.
    mutating func record(_ start: FairQueue.Start, waited before: FairQueue) {
        starts += 1
        tickets.append((start.ticket, start.invocation))
        for id in model.path(start.leaf.number).map({ VertexID(number: $0) }) {
            check(before.running(id) < before.cap(id) && before.isReady(id), "\(start.invocation) started past the cap of \(id)")
        }
    }

    mutating func dispatch() {
        let newestFirst = number(0...3) == 0
        let (next, before) = (queue.next(), queue)
        let start = queue.dispatch(newestFirst: newestFirst)
        check(start != nil || !model.someoneCouldStart, "a seat is free and somebody waits")
        let expected = model.dispatch(newestFirst: newestFirst)
        check(
            start?.leaf.number == expected?.leaf && start?.invocation == expected?.invocation && start?.charged == expected?.charged,
            "\(String(describing: start)), model \(String(describing: expected))")
        check(start?.leaf == next?.leaf && (newestFirst || start?.invocation == next?.invocation), "next lied")
        if let start { record(start, waited: before) }
    }

    mutating func step() {
        let clocks = inner.map { queue.childTime($0.id) }
        let vertices = inner.map(\.id)
        switch number(0...99) {
        case 0..<4: add()
        case 4..<7: remove()
        case 7..<30: arrive(directly: false)
        case 30..<36: arrive(directly: true)
        case 36..<58: for _ in 0..<number(1...3) { dispatch() }
        case 58..<62:
            let id = anyVertex()
            let cap = number(0...6)
            queue.setCap(id, cap)
            model.vertices[id.number]?.cap = cap
            model.settle(id.number)
        case 62..<68:
            let id = anyVertex()
            let isReady = number(0...5) > 0
            queue.setReady(id, isReady)
            model.vertices[id.number]?.isReady = isReady
            model.settle(id.number)
        case 68..<70:
            let id = anyVertex()
            queue.setWeight(id, 2)
            model.vertices[id.number]?.weight = 2
        default:
            var candidates = Array(tickets.indices)
            if number(0...3) > 0 { candidates.removeAll { model.seats[tickets[$0].invocation] == nil } }
            guard let index = candidates.randomElement(using: &random) else { break }
            let (ticket, id) = tickets[index]
            // Some are kept to be tried when they say nothing any more.
            if queue.invocation(ticket) == nil, number(0...2) > 0 { tickets.remove(at: index) }
            switch number(0...9) {
            case 0..<2:
                let hasLeft = queue.leave(ticket)
                check(hasLeft == model.leave(id), "leave \(id)")
                if hasLeft { ended += 1 }
            case 2: check(queue.overrun(ticket, by: 50_000_000) == model.overrun(id, by: 50_000_000), "overrun \(id)")
            default:
                let actual = Nanoseconds(number(0...10)) * 30_000_000
                let isFinished = queue.finish(ticket, actual: actual)
                check(isFinished == model.finish(id, actual: actual), "finish \(id)")
                if isFinished { ended += 1 }
            }
        }
        for (id, clock) in zip(vertices, clocks) where model.vertices[id.number] != nil {
            check(queue.childTime(id) >= clock, "virtual time of \(id) fell")
        }
        compare()
    }

    mutating func compare() {
        for (number, one) in model.vertices {
            let id = VertexID(number: number)
            let (running, time) = (queue.running(id), queue.virtualTime(id))
            check(running == one.running && running >= 0, "running of \(id): \(running), model \(one.running)")
            check(time == one.time && queue.childTime(id) == one.childTime, "time of \(id): \(time), model \(one.time)")
            check(queue.isEligible(id) == model.isEligible(number), "eligible \(id)")
            check(queue.queued(id) == model.queued(number), "queued at \(id)")
            let children = model.children(number)
            if !children.isEmpty {
                check(
                    children.reduce(0) { $0 + (model.vertices[$1]?.running ?? 0) } == queue.running(id),
                    "\(id) does not run what its children run")
            }
        }
        check(arrived == ended + queue.queued(queue.root) + queue.running(queue.root), "an invocation is lost or doubled")
        if let broken = queue.brokenHeap(model.vertices.keys) { problems.append(broken) }
    }
}

@Suite struct FairQueueTests {
    @Test("equal to the model after every step, ceilings kept, no seat idle, nothing lost", arguments: 0..<30)
    func equalsModel(seed: Int) {
        var pair = Pair(seed: UInt64(seed))
        for step in 0..<1_500 {
            pair.step()
            guard pair.problems.isEmpty else {
                Issue.record("seed \(seed) step \(step): \(pair.problems.prefix(3))")
                return
            }
        }
        #expect(pair.starts > 20, "seed \(seed): only \(pair.starts) starts; the run shows nothing")
    }

    @Test("over all seeds the direct path is taken")
    func directPathIsTried() {
        let direct = (0..<20).reduce(0) { sum, seed in
            var pair = Pair(seed: UInt64(seed))
            for _ in 0..<300 { pair.step() }
            return sum + pair.direct
        }
        #expect(direct > 20)
    }

    @Test("large heaps keep their order through joins, leaves, refunds and shrinking")
    func largeHeaps() {
        var random = Seeded(state: 7)
        var queue = FairQueue(seats: 50)
        var leaves = (0..<2_000).map { _ in queue.addVertex(under: queue.root, cap: 2, weight: Double.random(in: 0.5...4, using: &random)) }
        var running: [FairQueue.Ticket] = []
        for step in 0..<30_000 {
            if let leaf = leaves.randomElement(using: &random) { _ = queue.enqueue(invocation(UInt64(step)), at: leaf) }
            if let start = queue.dispatch(newestFirst: step % 2 == 0) { running.append(start.ticket) }
            if running.count == 50 {
                queue.finish(
                    running.remove(at: Int.random(in: 0..<50, using: &random)), actual: UInt64.random(in: 0...300_000_000, using: &random))
            }
            if step % 1_000 == 0 { #expect(queue.brokenHeap((0...2_000).map { Int32($0) }) == nil) }
        }
        for ticket in running { queue.finish(ticket, actual: 0) }
        while let start = queue.dispatch() { queue.finish(start.ticket, actual: 1_000_000) }
        #expect(queue.queued(queue.root) == 0 && queue.running(queue.root) == 0)
        while let leaf = leaves.popLast() {
            let isRemoved = queue.removeVertex(leaf)
            #expect(isRemoved)
        }
        var blocks: [Int] = []
        for _ in 0..<4 {
            let ids = (0..<2_000).map { _ in queue.addVertex(under: queue.root, cap: 1, weight: 1) }
            for id in ids { queue.removeVertex(id) }
            blocks.append(queue.slots.count)
        }
        #expect(blocks[3] == blocks[0] && queue.vertices.count == 2_001, "what is removed is used again")
    }

    @Test("a cap of 1 means one; a cap below what runs drains")
    func caps() throws {
        var queue = FairQueue(seats: 10)
        let function = queue.addVertex(under: queue.root, cap: 1, weight: 1)
        let leaves = (0..<3).map { _ in queue.addVertex(under: function, cap: 5, weight: 1) }
        for number in 0..<9 { _ = queue.enqueue(invocation(UInt64(number)), at: leaves[number % 3]) }
        for _ in 0..<4 {
            let start = try given(queue.dispatch())
            #expect(queue.dispatch() == nil && queue.start(invocation(99), at: leaves[0]) == nil && queue.running(function) == 1)
            queue.finish(start.ticket, actual: 1)
        }
        queue.setCap(function, 4)
        let starts = (0..<4).compactMap { _ in queue.dispatch() }
        #expect(starts.count == 4 && queue.dispatch() == nil)
        queue.setCap(function, 2)
        for (index, start) in starts.enumerated() {
            #expect(queue.running(function) == 4 - index)
            #expect(queue.dispatch() == nil || queue.running(function) <= 2)
            if queue.running(function) > 2 { queue.finish(start.ticket, actual: 1) } else { break }
        }
        queue.setCap(queue.root, 0)
        #expect(queue.next() == nil)
    }

    @Test("oldest first, newest first, leaving from anywhere; a ticket works once")
    func tickets() throws {
        var queue = FairQueue(seats: 10)
        let function = queue.addVertex(under: queue.root, cap: 10, weight: 1)
        let leaf = queue.addVertex(under: function, cap: 10, weight: 1)
        let tickets = (0..<6).map { queue.enqueue(invocation(UInt64($0)), at: leaf) }
        let middle = queue.leave(tickets[2]), again = queue.leave(tickets[2])
        #expect(middle && !again && queue.invocation(tickets[2]) == nil)
        let first = try given(queue.dispatch()), last = try given(queue.dispatch(newestFirst: true))
        #expect(first.invocation == invocation(0) && last.invocation == invocation(5))
        let leavesSeat = queue.leave(first.ticket)
        #expect(!leavesSeat, "who runs does not leave a queue")
        let finishesQueued = queue.finish(tickets[1], actual: 1)
        #expect(!finishesQueued && queue.queued(function) == 3)
        queue.leave(tickets[1])
        queue.leave(tickets[4])
        #expect(queue.next()?.invocation == invocation(3))
        queue.leave(tickets[3])
        #expect(queue.next() == nil && queue.queued(queue.root) == 0)
        let once = queue.finish(first.ticket, actual: 5), twice = queue.finish(first.ticket, actual: 5)
        #expect(once && !twice && queue.running(queue.root) == 1, "a seat is freed once")
        let late = queue.overrun(first.ticket, by: 5)
        #expect(!late)
        // The place is used again; the old ticket still says nothing.
        _ = queue.enqueue(invocation(7), at: leaf)
        let stale = queue.leave(first.ticket)
        #expect(!stale && queue.queued(leaf) == 1)
    }

    @Test("the guess follows the run time, between 1 ms and 10 s; charges and refunds balance")
    func guesses() throws {
        var queue = FairQueue(seats: 1)
        let function = queue.addVertex(under: queue.root, cap: 1, weight: 2)
        let leaf = queue.addVertex(under: function, cap: 1, weight: 1)
        var total: Nanoseconds = 0
        for actual in [0, 0, 5_000, 60_000_000_000, 20_000_000, 700_000_000] as [Nanoseconds] {
            for _ in 0..<200 {
                let start = try given(queue.start(invocation(1), at: leaf))
                queue.overrun(start.ticket, by: 100_000_000)
                queue.finish(start.ticket, actual: actual)
                total += actual
            }
            #expect(queue.guess(leaf).distance(to: min(max(actual, 1_000_000), 10_000_000_000)).magnitude < 1 + actual / 100)
        }
        #expect(abs(queue.virtualTime(leaf) - Double(total)) < 1000 && abs(queue.virtualTime(function) * 2 - Double(total)) < 1000)
    }

    @Test("draining, a cap, or not being ready for an hour earns nothing; forgetting is refused while it would")
    func absenceEarnsNothing() throws {
        for way in 0..<3 {
            var queue = FairQueue(seats: 4)
            let vertices = (0..<2).map { _ in queue.addVertex(under: queue.root, cap: 4, weight: 1) }
            let leaves = vertices.map { queue.addVertex(under: $0, cap: 4, weight: 1) }
            let (busy, absent) = (leaves[0], leaves[1])
            if way > 0 { _ = queue.enqueue(invocation(0), at: absent) }
            if way == 1 { queue.setCap(vertices[1], 0) }
            if way == 2 { queue.setReady(vertices[1], false) }
            for number in 0..<3_600 {
                let start = try given(queue.start(invocation(UInt64(number)), at: busy))
                queue.finish(start.ticket, actual: .seconds(1))
            }
            #expect(!queue.isForgettable(vertices[0]) || queue.virtualTime(vertices[0]) <= queue.childTime(queue.root))
            queue.setCap(vertices[1], 4)
            queue.setReady(vertices[1], true)
            for number in 0..<100 { for leaf in leaves { _ = queue.enqueue(invocation(UInt64(number)), at: leaf) } }
            var starts = [0, 0]
            for _ in 0..<40 {
                let start = try given(queue.dispatch())
                starts[start.leaf == busy ? 0 : 1] += 1
                queue.finish(start.ticket, actual: .seconds(1))
            }
            #expect(abs(starts[0] - starts[1]) <= 2, "way \(way): \(starts)")
        }
    }

    @Test("a guess far too high, given back, does not put a newcomer behind")
    func refundsDoNotHurtNewcomers() throws {
        var queue = FairQueue(seats: 50)
        let vertices = (0..<2).map { _ in queue.addVertex(under: queue.root, cap: 50, weight: 1) }
        let leaves = vertices.map { queue.addVertex(under: $0, cap: 50, weight: 1) }
        for _ in 0..<100 { queue.finish(try given(queue.start(invocation(0), at: leaves[0])).ticket, actual: .seconds(10)) }
        for number in 0..<500 { _ = queue.enqueue(invocation(UInt64(number)), at: leaves[0]) }
        let first = (0..<50).compactMap { _ in queue.dispatch() }
        for start in first { queue.finish(start.ticket, actual: 1_000_000) }
        for number in 0..<10 { _ = queue.enqueue(invocation(UInt64(number)), at: leaves[1]) }
        let next = (0..<20).compactMap { _ in queue.dispatch()?.leaf }
        #expect(next.prefix(3).contains(leaves[1]), "the newcomer waits for what the other was charged, not for what it had")
    }
}
