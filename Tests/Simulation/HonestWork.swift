// SPDX-License-Identifier: Apache-2.0
import Core

/// Work that a loop governor must leave alone, in virtual time: each scenario makes as many events as are asked for, and says how many of them were parked.
public struct HonestWork: Sendable {
    public let name: String
    /// Roots begin so far apart, in seconds.
    let interval: Double
    let functions: Int
    /// What a run causes, by its function's number and how many runs were before it on its path: function, seconds until then.
    let causes: @Sendable (_ function: Int, _ step: Int) -> [(function: Int, delay: Double)]

    public struct Result: Sendable {
        public var events = 0
        public var parked = 0
        public var recurrent = 0
        /// Hours of virtual time.
        public var hours = 0.0
        public var alarms = 0
    }

    private struct Job {
        var lineage: Lineage
        var function: Int
        var step: Int
    }

    /// Nothing of it is declared: `recursion` in a manifest would only allow more.
    public func run(events: Int, seed: UInt64 = 1) -> Result {
        var governor = LoopGovernor(seed: seed)
        let edges = (0..<functions).compactMap { number -> EdgeID? in
            guard let tenant = Name("acme"), let name = Name("f\(number)"), let trigger = Name("in") else { return nil }
            return EdgeID(trigger: trigger, function: FunctionID(tenant: tenant, function: name))
        }
        var agenda = Agenda<Job?>()
        var result = Result()
        var notes: [LoopNote] = []
        var roots: UInt64 = 0
        agenda.add(nil, at: 0)
        while result.events < events, let time = agenda.next {
            let now = instant(time)
            if let due = governor.nextDeadline, due <= now { governor.timePassed(at: now, into: &notes) }
            let job: Job
            if let found = agenda.take() {
                job = found
            } else {
                roots += 1
                let id = InvocationID(milliseconds: roots, random: (1, roots &* 0x9E37_79B9_7F4A_7C15))
                job = Job(lineage: Lineage(root: id, born: now), function: 0, step: 0)
                agenda.add(nil, at: time + interval)
            }
            result.events += 1
            result.hours = time / 3_600
            guard let pass = governor.admit(job.lineage, through: edges[job.function], bytes: 100, at: now, into: &notes).pass else {
                result.parked += 1
                continue
            }
            if pass.isRecurrent { result.recurrent += 1 }
            // A suspect is slowed down, and nothing more: its run begins when it may.
            _ = governor.start(pass.lineage, through: edges[job.function])
            governor.finish(pass.lineage, through: edges[job.function], seatTime: 50_000_000, at: now)
            for (function, delay) in causes(job.function, job.step) {
                agenda.add(Job(lineage: pass.lineage, function: function, step: job.step + 1), at: time + 0.05 + delay)
            }
        }
        result.alarms = notes.count { if case .alarm = $0 { true } else { false } }
        return result
    }

    public static let all: [HonestWork] = [
        HonestWork(name: "map-reduce 1 -> 10,000 -> 1, one after the other", interval: 30, functions: 3) { function, _ in
            switch function {
            case 0: (0..<10_000).map { (1, Double($0) / 1_000) }
            case 1: [(2, 1)]
            default: []
            }
        },
        HonestWork(name: "saga of 8 steps with as many compensations, 20 a second", interval: 0.05, functions: 16) { function, _ in
            function < 15 ? [(function + 1, 0.2)] : []
        },
        // 14 recurrences each: within the 10,000 an hour that one edge has.
        HonestWork(
            name: "saga of 7 steps and compensations, all through one orchestrator, 700 an hour", interval: 3_600 / 700, functions: 15
        ) { function, step in
            function == 0 ? (step < 28 ? [(1 + step / 2, 0.2)] : []) : [(0, 0.2)]
        },
        HonestWork(name: "30 retries by requeueing itself over 45 minutes, 330 an hour", interval: 3_600 / 330, functions: 1) { _, step in
            step < 30 ? [(0, 90)] : []
        },
        HonestWork(name: "flash crowd: a thousand a second through three functions", interval: 0.001, functions: 3) { function, _ in
            function < 2 ? [(function + 1, 0.1)] : []
        },
    ]

    /// Chains that call themselves once a minute for ever: as many as one edge may have.
    public static let chains = HonestWork(name: "166 chains that call themselves every 60 s", interval: 60 * 6_000 / 166, functions: 1) {
        _, step in
        step < 6_000 ? [(0, 59.95)] : []
    }

    /// What must be parked, or the scenarios show nothing.
    public static let tooFast = HonestWork(name: "a chain that calls itself every 30 s", interval: 3_600, functions: 1) { _, _ in
        [(0, 30)]
    }

    /// An object that is written again and again by somebody else: it arms the test every hour, and must not break its edge.
    public static func hotKey(events: Int, every interval: Double, seed: UInt64 = 1) -> (tests: Int, breaks: Int) {
        var detector = LoopDetector()
        var random = SeededNumbers(seed)
        var result = (tests: 0, breaks: 0)
        var time = 0.0
        for _ in 0..<events {
            time += interval * random.exponential()
            while let due = detector.nextDeadline, due <= instant(time) {
                if case .verdict(.loop) = detector.timePassed(at: due, coin: Bool.random(using: &random)) { result.breaks += 1 }
            }
            guard detector.arrived(key: "config.json", at: instant(time)) != nil else { continue }
            _ = detector.begin(coin: Bool.random(using: &random), at: instant(time))
            result.tests += 1
        }
        return result
    }
}
