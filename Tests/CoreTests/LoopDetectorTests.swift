// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// Arrivals that do not react to the edge, drawn or schemed beforehand.
private enum Stream: CaseIterable {
    case poisson, bursts, trend, periodic, sparse, alternating

    /// How many arrive in the counted part of window `place`.
    func arrivals(_ place: Int, period: Int, _ random: inout Seeded) -> Int {
        switch self {
        case .poisson: Self.poisson(6, &random)
        case .bursts: Int.random(in: 0..<12, using: &random) == 0 ? 40 + Int.random(in: 0..<60, using: &random) : 0
        case .trend: Self.poisson(0.5 + Double(place) / 4, &random)
        case .periodic: place % period == 0 ? 9 : 0
        case .sparse: Int.random(in: 0..<8, using: &random) == 0 ? 1 : 0
        // Knows the windows but not the coin: always in the second one of a pair.
        case .alternating: place % 2 == 1 ? 5 : 0
        }
    }

    private static func poisson(_ mean: Double, _ random: inout Seeded) -> Int {
        var left = mean
        var count = 0
        while left > 0, count < 200 {
            left -= exponential(&random)
            if left > 0 { count += 1 }
        }
        return count
    }

    /// Von Neumann 1951: an exponential from comparisons alone, since no mathematical library is imported.
    static func exponential(_ random: inout Seeded) -> Double {
        var whole = 0.0
        while true {
            let first = Double.random(in: 0..<1, using: &random)
            var last = first
            var length = 1
            while true {
                let next = Double.random(in: 0..<1, using: &random)
                if next >= last { break }
                last = next
                length += 1
            }
            if length % 2 == 1 { return whole + first }
            whole += 1
        }
    }
}

/// An edge whose runs cause its next events, with others mixed in; nothing is lost while it is paused.
private struct ReactiveEdge {
    var detector = LoopDetector()
    var random: Seeded
    let delay: Double
    let circulating: Int
    /// Arrivals a second from elsewhere.
    let foreign: Double
    private var now = 0.0
    private var isPaused = false
    private var held = 0
    private var coming: [Double] = []

    init(seed: Int, delay: Double, circulating: Int, foreign: Double) {
        random = Seeded(state: UInt64(seed))
        (self.delay, self.circulating, self.foreign) = (delay, circulating, foreign)
    }

    private func time(_ seconds: Double) -> Core.Instant { at(seconds: 1_000 + seconds) }

    /// Runs one test: its verdict, how long it took and how many pairs.
    mutating func test(window: Double) -> (verdict: Switchback.Verdict?, seconds: Double, pairs: Int) {
        isPaused = detector.begin(window: UInt64(window * 1e9), coin: Bool.random(using: &random), at: time(0)) == .pause
        for _ in 0..<circulating { coming.append(Double.random(in: 0..<delay, using: &random)) }
        var nextForeign = foreign > 0 ? Stream.exponential(&random) / foreign : .infinity
        var pairs = 0
        while true {
            guard let deadline = detector.nextDeadline(after: time(now)) else { return (nil, now, pairs) }
            let due = Double(deadline - time(0)) / 1e9
            let next = coming.min() ?? .infinity
            if min(next, nextForeign) < due {
                now = min(next, nextForeign)
                let isOwn = next <= nextForeign
                _ = detector.arrived(key: "", at: time(now))
                guard isOwn else {
                    nextForeign += Stream.exponential(&random) / foreign
                    continue
                }
                coming.remove(at: coming.firstIndex(of: next) ?? 0)
                if isPaused { held += 1 } else { coming.append(now + delay) }
                continue
            }
            now = due
            pairs = detector.test?.pairs ?? pairs
            switch detector.timePassed(at: deadline, coin: Bool.random(using: &random)) {
            case .wait: break
            case .pause: isPaused = true
            case .run:
                isPaused = false
                for _ in 0..<held { coming.append(now + delay * Double.random(in: 0.9...1, using: &random)) }
                held = 0
            case .verdict(let verdict): return (verdict, now, pairs + 1)
            }
        }
    }
}

@Suite struct LoopDetectorTests {
    // MARK: the switchback

    /// How many of the streams would be called loops.
    private func falseBreaks(
        _ streams: Int, alpha: Double, seed: UInt64, coin: (inout Seeded) -> Bool = { Bool.random(using: &$0) }
    ) -> Int {
        var random = Seeded(state: seed)
        var breaks = 0
        let window = Switchback.shortestWindow
        for number in 0..<streams {
            let stream = Stream.allCases[number % Stream.allCases.count]
            let period = 2 + number % 7
            var test = Switchback(window: window, alpha: alpha, coin: coin(&random), at: at(seconds: 0))
            var place = 0
            while true {
                let start = UInt64(place) * window
                for one in 0..<stream.arrivals(place, period: period, &random) {
                    // In the counted part; where exactly does not matter.
                    test.arrived(at: Instant(nanoseconds: start + window / 4 + UInt64(one)))
                }
                place += 1
                guard place % 2 == 0 else { continue }
                let verdict = test.advance(at: Instant(nanoseconds: UInt64(place) * window), coin: coin(&random))
                if verdict == .loop { breaks += 1 }
                if verdict != nil { break }
            }
        }
        return breaks
    }

    @Test("false breaks stay within alpha and three sigma, whatever the stream")
    func falseAlarms() {
        // At 10^-4 almost nothing may happen; at 10^-2 enough happens to show that the bound is met and the test alive.
        let streams = 12_000
        #expect(falseBreaks(streams, alpha: 1e-4, seed: 1) <= 4)
        let loose = falseBreaks(streams, alpha: 1e-2, seed: 2)
        #expect(loose <= 120 + 33)
        #expect(loose > 5, "the run shows nothing")
    }

    @Test("without the coin a schemed stream is taken for a loop: the coin is what makes it right")
    func coinMatters() {
        #expect(falseBreaks(600, alpha: 1e-4, seed: 3) { _ in true } > 50)
    }

    @Test("a loop is found within a minute or two", arguments: [2, 5, 50], 0..<6)
    func pureLoop(circulating: Int, seed: Int) {
        var edge = ReactiveEdge(seed: seed, delay: 0.3, circulating: circulating, foreign: 0)
        let (verdict, seconds, pairs) = edge.test(window: 2)
        #expect(verdict == .loop)
        #expect((13...24).contains(pairs), "\(pairs) pairs")
        #expect(seconds <= 96)
    }

    @Test("a loop among other events is found too", arguments: 0..<6)
    func mixedLoop(seed: Int) {
        // Each circulates about three times a second while the edge runs: a third of the arrivals are others'.
        var edge = ReactiveEdge(seed: seed, delay: 0.3, circulating: 6, foreign: 10)
        let (verdict, _, pairs) = edge.test(window: 2)
        #expect(verdict == .loop)
        #expect(pairs < 64)
    }

    @Test("events from elsewhere are no loop", arguments: 0..<20)
    func noLoop(seed: Int) {
        var edge = ReactiveEdge(seed: seed, delay: 1, circulating: 0, foreign: 8)
        let (verdict, _, pairs) = edge.test(window: 2)
        #expect(verdict == .noLoop && pairs == 64)
    }

    @Test("in each pair one window is paused, by the coin, and the first quarter of each is not counted")
    func windows() {
        for coin in [true, false] {
            var test = Switchback(window: .seconds(4), coin: coin, at: at(seconds: 10))
            #expect(test.isPaused(at: at(seconds: 10)) == coin)
            #expect(test.isPaused(at: at(seconds: 13.9)) == coin)
            #expect(test.isPaused(at: at(seconds: 14)) == !coin)
            #expect(!test.isPaused(at: at(seconds: 18)))
            #expect(test.deadline(after: at(seconds: 10)) == at(seconds: 14))
            #expect(test.deadline(after: at(seconds: 14)) == at(seconds: 18))
            // In the guard times only.
            for time in [10, 10.9, 14, 14.9] { test.arrived(at: at(seconds: time)) }
            #expect(test.advance(at: at(seconds: 17.9), coin: coin) == nil && test.pairs == 0)
            #expect(test.advance(at: at(seconds: 18), coin: coin) == nil && test.pairs == 1)
            #expect(test.evidence == 1)
            // All in the running window: the evidence grows by the mean stake.
            for time in 0..<3 { test.arrived(at: at(seconds: (coin ? 22 : 18) + 1 + Double(time))) }
            _ = test.advance(at: at(seconds: 26), coin: coin)
            #expect(abs(test.evidence - 1.6125) < 1e-12)
        }
        #expect(Switchback(window: 1, coin: true, at: at(seconds: 0)).window == .seconds(2))
    }

    // MARK: what arms it

    @Test("fifty starts of one key in half an hour arm it; of many keys do not")
    func hotKey() {
        var detector = LoopDetector()
        for number in 0..<49 { #expect(detector.arrived(key: "a.jpg", at: at(seconds: 100 + Double(number))) == nil) }
        #expect(detector.arrived(key: "a.jpg", at: at(seconds: 200)) == .hotKey)
        // Half in each of two half hours counts as well.
        detector = LoopDetector()
        var armed: LoopArming?
        for number in 0..<62 { armed = detector.arrived(key: "a.jpg", at: at(seconds: 1_200 + 20 * Double(number))) ?? armed }
        #expect(armed == .hotKey)
        // A key a minute is 30 in half an hour.
        detector = LoopDetector()
        for number in 0..<600 { #expect(detector.arrived(key: "a.jpg", at: at(seconds: 60 * Double(number))) == nil) }
    }

    @Test("many different keys arm nothing, and the hot one among them does")
    func manyKeys() {
        var detector = LoopDetector()
        var hot = 0
        for number in 0..<20_000 {
            // Slow enough not to look like growth.
            let time = at(seconds: Double(number) / 12)
            #expect(detector.arrived(key: "upload/\(number).jpg", at: time) == nil)
            if number % 20 == 0, detector.arrived(key: "upload/same.jpg", at: time) == .hotKey { hot += 1 }
        }
        #expect(hot > 0)
    }

    @Test("a prefix or suffix that was added three times is seen")
    func affix() {
        for key in [
            "thumb-thumb-thumb-a.jpg", "in/thumb-thumb-thumb-a.jpg", "out/out/out/a.jpg", "a-copy-copy-copy.txt", "a.bak.bak.bak", "xyxyxy",
            "deep/er/a_v_v_v.tar",
        ] {
            var detector = LoopDetector()
            #expect(detector.arrived(key: key, at: at(seconds: 1)) == .repeatedAffix, "\(key)")
        }
        for key in [
            "thumb-thumb-a.jpg", "a.jpg", "", "aaaaaaaaa", "20202020.log", "2026/01/01/01/01/01/x", "000000", "........",
            "in/a-thumb-thumb-thumb-b.jpg", "banana.jpg", "mississippi", "https://example.org/",
        ] {
            var detector = LoopDetector()
            #expect(detector.arrived(key: key, at: at(seconds: 1)) == nil, "\(key)")
        }
        var detector = LoopDetector()
        #expect(detector.arrived(key: String(repeating: "ab", count: 1 << 20), at: at(seconds: 1)) == .repeatedAffix)
    }

    @Test("a doubled rate is noticed in a minute; a steady one is not in a day", arguments: 0..<3)
    func growth(seed: Int) {
        var random = Seeded(state: UInt64(seed))
        var detector = LoopDetector()
        var time = 0.0
        while time < 86_400 {
            time += Stream.exponential(&random) / 0.5
            #expect(detector.arrived(key: "", at: at(seconds: time)) == nil, "seed \(seed)")
        }
        var armed: LoopArming?
        while armed == nil, time < 87_400 {
            time += Stream.exponential(&random) / 2
            armed = detector.arrived(key: "", at: at(seconds: time))
        }
        #expect(armed == .growth && time < 86_520, "after \(time - 86_400) s")
    }

    @Test("a backlog that grows at the ceiling for half a minute arms it")
    func backlog() {
        var detector = LoopDetector()
        for second in 0..<30 { #expect(detector.observe(backlog: 10 + second, isAtCap: true, at: at(seconds: Double(second))) == nil) }
        #expect(detector.observe(backlog: 40, isAtCap: true, at: at(seconds: 30)) == .backlog)
        detector = LoopDetector()
        for second in 0..<100 { #expect(detector.observe(backlog: 10, isAtCap: true, at: at(seconds: Double(second))) == nil) }
        detector = LoopDetector()
        for second in 0..<100 {
            #expect(detector.observe(backlog: 10 + second, isAtCap: second % 20 != 0, at: at(seconds: Double(second))) == nil)
        }
        detector = LoopDetector()
        for second in 0..<100 {
            let size = second % 25 == 0 ? 0 : 10 + second
            #expect(detector.observe(backlog: size, isAtCap: true, at: at(seconds: Double(second))) == nil)
        }
    }

    @Test("one test at a time, one an hour")
    func hourly() {
        var detector = LoopDetector()
        let key = "x-x-x-y"
        #expect(detector.arrived(key: key, at: at(seconds: 0)) == .repeatedAffix)
        _ = detector.begin(window: .seconds(2), coin: true, at: at(seconds: 0))
        #expect(detector.arrived(key: key, at: at(seconds: 1)) == nil)
        var now = at(seconds: 0)
        var verdict = LoopDetector.Step.wait
        while let next = detector.nextDeadline(after: now) {
            now = next
            verdict = detector.timePassed(at: now, coin: false)
        }
        #expect(verdict == .verdict(.noLoop) && now == at(seconds: 256))
        #expect(detector.arrived(key: key, at: at(seconds: 3_599)) == nil)
        #expect(detector.arrived(key: key, at: at(seconds: 3_600)) == .repeatedAffix)
    }
}
