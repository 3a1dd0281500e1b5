// SPDX-License-Identifier: Apache-2.0
public import Core

/// A loop through somebody outside who keeps no lineage: each run of a function causes events of its own edge, a while later. One detector watches the edge, as the engine lets it.
public struct OutsideLoop: Sendable {
    /// Events that a run causes, on average.
    public var offspring = 1.0
    /// Seconds from the end of a run to its events, and by how large a part of them that varies.
    public var delay = 1.0
    public var spread = 0.1
    /// Events that go round in the beginning.
    public var circulating = 1
    /// Events a second that have nothing to do with the loop.
    public var foreign = 0.0
    /// Whether the loop's events all say the same; what others say is always new.
    public var hasKey = true
    public var seats = 10
    /// Seconds of a run.
    public var service = 0.05

    public init() {}

    public struct Ending: Sendable {
        /// Seconds until the edge was broken, nil where it never was, and until the test that did it began.
        public var cutAt: Double?
        public var armedAt: Double?
        public var arming: LoopArming?
        public var tests = 0
        /// Events that came and that ran until then.
        public var arrived = 0
        public var ran = 0
    }

    private enum Happening { case arrives(isForeign: Bool), starts(isForeign: Bool), ends(isForeign: Bool), due, second }

    /// Runs until the edge is broken, for so many seconds or so many events.
    public func run(seed: UInt64, seconds limit: Double, events: Int) -> Ending {
        var world = World(self, seed)
        while let time = world.agenda.next, time <= limit, world.ending.arrived < events, world.ending.cutAt == nil { world.step(time) }
        return world.ending
    }

    private struct World {
        let loop: OutsideLoop
        var random: SeededNumbers
        var detector = LoopDetector()
        var agenda = Agenda<Happening>()
        var ending = Ending()
        var now = 0.0
        var isPaused = false
        var running = 0
        var waiting: [Bool] = []
        var firstWaiting = 0
        var keys = 0

        init(_ loop: OutsideLoop, _ seed: UInt64) {
            self.loop = loop
            random = SeededNumbers(seed)
            for _ in 0..<loop.circulating {
                agenda.add(.arrives(isForeign: false), at: Double.random(in: 0...max(loop.delay, 0.01), using: &random))
            }
            if loop.foreign > 0 { agenda.add(.arrives(isForeign: true), at: 0) }
            agenda.add(.second, at: 1)
        }

        mutating func step(_ time: Double) {
            now = time
            switch agenda.take() {
            case .arrives(let isForeign):
                ending.arrived += 1
                keys += 1
                if isForeign { agenda.add(.arrives(isForeign: true), at: now + random.exponential() / loop.foreign) }
                let key = isForeign ? "\(keys)" : loop.hasKey ? "same" : ""
                arm(detector.arrived(key: key, at: instant(now)))
                start(isForeign)
            case .starts(let isForeign): start(isForeign)
            case .ends(let isForeign):
                running -= 1
                if !isForeign { cause() }
            case .due:
                guard let due = detector.nextDeadline, due <= instant(now) else { return }
                obey(detector.timePassed(at: instant(now), coin: Bool.random(using: &random)))
            case .second:
                agenda.add(.second, at: now + 1)
                let isAtCap = running >= loop.seats || isPaused && waiting.count - firstWaiting >= loop.seats
                arm(detector.observe(backlog: ending.arrived - ending.ran, isAtCap: isAtCap, at: instant(now)))
            }
            dispatch()
        }

        private mutating func start(_ isForeign: Bool) {
            if isPaused, let wait = detector.test?.wait {
                agenda.add(.starts(isForeign: isForeign), at: now + Double(wait) / 1e9)
            } else {
                waiting.append(isForeign)
            }
        }

        private mutating func cause() {
            var count = Int(loop.offspring)
            if Double.random(in: 0..<1, using: &random) < loop.offspring - Double(count) { count += 1 }
            for _ in 0..<count {
                let part = loop.spread > 0 ? Double.random(in: -loop.spread...loop.spread, using: &random) : 0
                agenda.add(.arrives(isForeign: false), at: now + loop.delay * (1 + part))
            }
        }

        private mutating func arm(_ arming: LoopArming?) {
            guard let arming else { return }
            ending.armedAt = now
            ending.arming = arming
            ending.tests += 1
            obey(detector.begin(coin: Bool.random(using: &random), at: instant(now)))
        }

        private mutating func obey(_ step: LoopDetector.Step) {
            switch step {
            case .wait: break
            case .pause: isPaused = true
            case .run, .verdict(.noLoop): isPaused = false
            case .verdict(.loop): ending.cutAt = now
            }
            if let due = detector.nextDeadline { agenda.add(.due, at: OutsideLoop.late(seconds(due))) }
        }

        private mutating func dispatch() {
            while !isPaused, running < loop.seats, firstWaiting < waiting.count {
                running += 1
                ending.ran += 1
                agenda.add(.ends(isForeign: waiting[firstWaiting]), at: now + loop.service)
                firstWaiting += 1
            }
            if firstWaiting > 10_000 {
                waiting.removeFirst(firstWaiting)
                firstWaiting = 0
            }
        }
    }

    /// The engine's timer comes a little after its time.
    private static func late(_ due: Double) -> Double { due + 0.003 }
}
