// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

func at(seconds: Double) -> Instant { Instant(nanoseconds: UInt64(seconds * 1e9)) }

func edgeID(_ function: String, tenant: String = "acme", trigger: String = "bucket") throws -> EdgeID {
    let tenant = try #require(Name(tenant))
    return EdgeID(trigger: try #require(Name(trigger)), function: FunctionID(tenant: tenant, function: try #require(Name(function))))
}

func rootID(_ number: Int) -> InvocationID {
    InvocationID(milliseconds: UInt64(number), random: (7, UInt64(number) &* 0x9E37_79B9_7F4A_7C15))
}

/// Functions that cause each other, on one node with a number of seats, in simulated time. It obeys the governor and judges it by what it saw itself: the true
/// ancestry of every event, kept beside the lineage and never taken from it.
struct LoopWorld {
    struct Job {
        var lineage: Lineage
        var edge: Int
        /// True entries of each function on the causal path.
        var visits: [Int: Int] = [:]
        var generation = 0
        var origin: InvocationID
    }
    enum Happening { case arrives(Job), ends(Job) }
    /// A function, what it causes: edge and delay after its end.
    typealias Behaviour = (_ job: Job, _ random: inout Seeded) -> [(edge: Int, delay: Double)]

    var governor: LoopGovernor
    var random: Seeded
    let edges: [EdgeID]
    let seats: Int
    let service: Double
    let behaviour: Behaviour
    var now = at(seconds: 1_000_000)
    let start = at(seconds: 1_000_000)
    private var heap: [(time: Instant, number: Int, what: Happening)] = []
    private var number = 0
    private var waiting: [Job] = []
    private var firstWaiting = 0
    private var running = 0
    /// Of suspected roots, until one of the same root ends.
    private var blocked: [InvocationID: [Job]] = [:]
    private var blockedCount = 0

    var received = 0
    var done = 0
    var admitted = 0
    var parkings: [Parking: Int] = [:]
    var trips: [LoopReason: Int] = [:]
    var notes: [(at: Instant, note: LoopNote)] = []
    /// Admitted true recurrences, by root and by edge.
    var recurrent: [InvocationID: [UInt64]] = [:]
    var recurrentOfEdge: [Int: [UInt64]] = [:]
    /// Most entries of one function on one path.
    var deepest = 0
    /// Admitted events that recur but were not counted as such, and the other way round.
    var missed = 0
    /// Most that was admitted and had not ended.
    var mostInFlight = 0
    var imagined = 0

    init(
        seed: UInt64, edges: [EdgeID], seats: Int = 50, service: Double = 1, limits: LoopLimits = LoopLimits(),
        behaviour: @escaping Behaviour
    ) {
        governor = LoopGovernor(limits: limits, seed: seed)
        random = Seeded(state: seed)
        self.edges = edges
        self.seats = seats
        self.service = service
        self.behaviour = behaviour
    }

    var queued: Int { waiting.count - firstWaiting + blockedCount }
    var active: Int { running }
    var parked: Int { parkings.values.reduce(0, +) }
    func seconds(_ time: Instant) -> Double { Double(time - start) / 1e9 }

    /// An event from outside.
    mutating func begin(_ root: InvocationID, edge: Int = 0, after delay: Double = 0) {
        let birth = now + UInt64(delay * 1e9)
        push(.arrives(Job(lineage: Lineage(root: root, born: birth), edge: edge, origin: root)), due: birth)
    }

    /// Runs until nothing happens any more or the time is over.
    mutating func run(seconds: Double, steps: Int = 1_000_000) {
        let last = start + UInt64(seconds * 1e9)
        for _ in 0..<steps {
            guard let next = heap.first, next.time <= last else { return }
            popFirst()
            now = next.time
            var told: [LoopNote] = []
            if let due = governor.nextDeadline, due <= now { governor.timePassed(at: now, into: &told) }
            switch next.what {
            case .arrives(let job): arrive(job, &told)
            case .ends(let job): end(job)
            }
            for note in told { notes.append((now, note)) }
            dispatch()
        }
        Issue.record("\(steps) steps and no end")
    }

    private mutating func arrive(_ event: Job, _ told: inout [LoopNote]) {
        received += 1
        var job = event
        switch governor.admit(job.lineage, through: edges[job.edge], bytes: 100, at: now, into: &told) {
        case .park(let trip, let parking):
            parkings[parking, default: 0] += 1
            trips[trip.reason, default: 0] += 1
        case .admit(let pass):
            admitted += 1
            job.lineage = pass.lineage
            job.visits[job.edge, default: 0] += 1
            job.generation += 1
            let entries = job.visits[job.edge] ?? 0
            deepest = max(deepest, entries)
            if entries >= 2 {
                recurrent[job.origin, default: []].append(now.nanoseconds)
                recurrentOfEdge[job.edge, default: []].append(now.nanoseconds)
            }
            if entries >= 2, !pass.isRecurrent { missed += 1 }
            if entries < 2, pass.isRecurrent { imagined += 1 }
            waiting.append(job)
            mostInFlight = max(mostInFlight, queued + running)
        }
    }

    private mutating func end(_ job: Job) {
        running -= 1
        done += 1
        governor.finish(job.lineage, through: edges[job.edge], seatTime: UInt64(service * 1e9), at: now)
        if let next = blocked[job.origin]?.popLast() {
            blockedCount -= 1
            waiting.append(next)
        }
        for (edge, delay) in behaviour(job, &random) {
            var child = job
            child.edge = edge
            push(.arrives(child), due: now + UInt64(delay * 1e9))
        }
    }

    private mutating func dispatch() {
        while running < seats, firstWaiting < waiting.count {
            let job = waiting[firstWaiting]
            firstWaiting += 1
            guard governor.start(job.lineage, through: edges[job.edge]) else {
                blocked[job.origin, default: []].append(job)
                blockedCount += 1
                continue
            }
            running += 1
            push(.ends(job), due: now + UInt64(service * 1e9))
        }
        if firstWaiting > 10_000 || firstWaiting == waiting.count {
            waiting.removeFirst(firstWaiting)
            firstWaiting = 0
        }
    }

    // MARK: a binary heap, first in time and then first come

    private mutating func push(_ what: Happening, due time: Instant) {
        number += 1
        heap.append((time, number, what))
        var place = heap.count - 1
        while place > 0, isBefore(place, (place - 1) / 2) {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    private mutating func popFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var place = 0
        while true {
            var least = place
            for child in [2 * place + 1, 2 * place + 2] where child < heap.count && isBefore(child, least) { least = child }
            if least == place { return }
            heap.swapAt(place, least)
            place = least
        }
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool { (heap[a].time, heap[a].number) < (heap[b].time, heap[b].number) }

    // MARK: judgement

    /// Whether any closed window of the times holds more than `burst + length / interval`.
    static func exceeds(_ times: [UInt64], burst: Int, interval: UInt64) -> Bool {
        // The largest excess over all windows in one pass: how full a leaky bucket without a bottom of its own gets.
        var level: UInt64 = 0
        var last = times.first ?? 0
        for time in times {
            level = (level > time - last ? level - (time - last) : 0) + interval
            last = time
            // A window that ends here holds level / interval, rounded up, more than drained away in it.
            if level > UInt64(burst) * interval { return true }
        }
        return false
    }

    /// G1, G2, G3 and G7 as far as this run shows them.
    func judge(_ what: String, limits: LoopLimits = LoopLimits()) {
        for (root, times) in recurrent where Self.exceeds(times, burst: 1_000, interval: 60_000_000_000) {
            Issue.record("\(what): \(times.count) recurrent invocations of \(root)")
        }
        for (edge, times) in recurrentOfEdge where Self.exceeds(times, burst: 10_000, interval: 360_000_000) {
            Issue.record("\(what): \(times.count) recurrent invocations of edge \(edge)")
        }
        let elapsed = Int(seconds(now) / 60)
        #expect(deepest <= 17 + elapsed, "\(what): one path entered a function \(deepest) times in \(elapsed) min")
        #expect(missed == 0, "\(what): recurrences taken for first visits")
        #expect(received == queued + active + done + parked, "\(what): events vanished or doubled")
        let counts = governor.counts
        #expect(counts.admitted == UInt64(admitted), "\(what)")
        #expect(counts.admitted + counts.stored + counts.paused + counts.refused + counts.merged == UInt64(received), "\(what)")
    }
}
