// SPDX-License-Identifier: Apache-2.0
import Core
import LoopSimulation
import Testing

@Suite struct LoopDetectorTests {
    // MARK: the switchback

    @Test("false breaks stay within alpha and three sigma, whatever the stream")
    func falseAlarms() {
        // At 10^-4 almost nothing may happen; at one half enough happens to show that the bound is met and the test alive.
        #expect(HonestStream.falseBreaks(270, alpha: 1e-4, seed: 1) <= 1)
        let loose = HonestStream.falseBreaks(270, alpha: 0.5, seed: 2)
        #expect(loose <= 135 + 25)
        #expect(loose > 0, "the run shows nothing")
    }

    @Test("without the coin a schemed stream is taken for a loop: the coin is what makes it right")
    func coinMatters() {
        var last = false
        let breaks = HonestStream.falseBreaks(20, alpha: 1e-4, seed: 3, of: [.schemed]) { _ in
            last.toggle()
            return last
        }
        #expect(breaks > 10)
    }

    @Test("windows run or wait by the coin, no more than three wait in a row, and what was forced is no evidence")
    func windows() {
        var test = Switchback(coin: true, at: at(seconds: 10))
        var paused: [Bool] = []
        for window in 0..<12 {
            paused.append(test.pausesNow)
            #expect(test.deadline == at(seconds: 10 + 1.5 * Double(window + 1)))
            #expect(test.advance(at: at(seconds: 10 + 1.5 * Double(window + 1) - 0.001), coin: true) == nil)
            #expect(test.windows == window + 1)
            #expect(test.advance(at: test.deadline, coin: true) == nil)
        }
        #expect(paused == [true, true, true, false, true, true, true, false, true, true, true, false])
        test = Switchback(coin: false, at: at(seconds: 10))
        for _ in 0..<5 {
            #expect(!test.pausesNow)
            _ = test.advance(at: test.deadline, coin: false)
        }
    }

    @Test("a test without arrivals ends in its time, and who wakes up late ends one stage after the other")
    func ends() {
        var random = Seeded(state: 4)
        var test = Switchback(coin: true, at: at(seconds: 100))
        var now = at(seconds: 100)
        var verdict: Switchback.Verdict?
        while verdict == nil {
            now = test.deadline
            verdict = test.advance(at: now, coin: Bool.random(using: &random))
        }
        #expect(verdict == .noLoop && now == at(seconds: 100) + Switchback.longestTest)
        test = Switchback(coin: true, at: at(seconds: 100))
        #expect(test.advance(at: at(seconds: 100_000), coin: true) == nil)
        #expect(test.advance(at: at(seconds: 200_000), coin: true) == nil)
        #expect(test.advance(at: at(seconds: 300_000), coin: true) == .noLoop)
    }

    // MARK: loops

    /// Time and events from a loop's first event to the cut, of some seeds.
    private func cuts(_ loop: OutsideLoop, seeds: Int) -> [OutsideLoop.Ending] {
        (0..<seeds).map { loop.run(seed: UInt64($0), seconds: 600, events: 60_000) }
    }

    @Test(
        "a loop that hides its lineage is cut about a minute after the test began, at 0.1 and 2 s a turn", arguments: [0.1, 2],
        [1, 1.5, 2, 3])
    func cut(delay: Double, offspring: Double) {
        var loop = OutsideLoop()
        (loop.offspring, loop.delay) = (offspring, delay)
        // Two a second and more; a wider one gets there by itself.
        if offspring == 1 { loop.circulating = max(1, Int(2 * delay)) }
        for ending in cuts(loop, seeds: 3) {
            #expect((ending.cutAt ?? 1_000) - (ending.armedAt ?? 0) <= 100, "\(offspring) events a run, \(delay) s a turn: \(ending)")
        }
    }

    @Test("one that takes 10 or 30 s a turn is cut in two minutes, where the turns are alike", arguments: [(2, 10), (3, 10), (1, 30)])
    func slow(offspring: Double, delay: Double) {
        var loop = OutsideLoop()
        (loop.offspring, loop.delay, loop.spread) = (offspring, delay, 0.005)
        if offspring == 1 { loop.circulating = Int(2 * delay) }
        let took = cuts(loop, seeds: 5).map { ($0.cutAt ?? 10_000) - ($0.armedAt ?? 0) }.sorted()
        #expect(took[2] <= 130, "\(offspring) events a run, \(delay) s a turn: \(took)")
    }

    @Test("a loop among other events is found too")
    func mixedLoop() {
        var loop = OutsideLoop()
        (loop.delay, loop.circulating, loop.foreign) = (0.3, 6, 10)
        for ending in cuts(loop, seeds: 3) { #expect(ending.cutAt != nil && ending.tests == 1, "\(ending)") }
    }

    @Test("one that says something new each time and does not grow is not noticed; one that grows is, by its backlog")
    func withoutKey() {
        var loop = OutsideLoop()
        (loop.hasKey, loop.delay, loop.offspring) = (false, 2, 2)
        for ending in cuts(loop, seeds: 3) { #expect(ending.arming == .backlog && ending.cutAt ?? 600 < 200, "\(ending)") }
    }

    @Test("a test is given up when events are refused, and the edge runs")
    func abandoned() {
        var detector = LoopDetector()
        #expect(detector.abandon() == .wait)
        #expect(detector.begin(coin: true, at: at(seconds: 1)) == .pause)
        #expect(detector.abandon() == .verdict(.noLoop))
        #expect(detector.test == nil && detector.nextDeadline == nil && !detector.mayTest(at: at(seconds: 3_600)))
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
        var random = SeededNumbers(UInt64(seed))
        var detector = LoopDetector()
        var time = 0.0
        while time < 86_400 {
            time += random.exponential() / 0.5
            #expect(detector.arrived(key: "", at: at(seconds: time)) == nil, "seed \(seed)")
        }
        var armed: LoopArming?
        while armed == nil, time < 87_400 {
            time += random.exponential() / 2
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
        _ = detector.begin(coin: true, at: at(seconds: 0))
        #expect(detector.arrived(key: key, at: at(seconds: 1)) == nil)
        var now = at(seconds: 0)
        var verdict = LoopDetector.Step.wait
        while let next = detector.nextDeadline {
            now = next
            verdict = detector.timePassed(at: now, coin: false)
        }
        #expect(verdict == .verdict(.noLoop) && now == at(seconds: 0) + Switchback.longestTest)
        #expect(detector.arrived(key: key, at: at(seconds: 3_599)) == nil)
        #expect(detector.arrived(key: key, at: at(seconds: 3_600)) == .repeatedAffix)
    }
}
