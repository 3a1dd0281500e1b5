// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

@Suite struct RestartPauseTests {
    @Test("the pause before a daemon is started again doubles, up to 10 s")
    func doubles() {
        var pause = RestartPause()
        let taken = (0..<10).map { _ in pause.take(lived: .seconds(1)) / 1_000_000 }
        #expect(taken == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000])
    }

    @Test("a daemon that lived for more than a minute is started again as at first, and one that could not be started is not taken for it")
    func proven() {
        var pause = RestartPause()
        for _ in 0..<9 { _ = pause.take(lived: 0) }
        #expect(pause.take(lived: .seconds(60)) == .seconds(10))
        #expect(pause.take(lived: .seconds(60) + 1) == .milliseconds(100))
        #expect(pause.take(lived: 0) == .milliseconds(200))
        #expect(pause.take(lived: 0) == .milliseconds(400))
    }

    @Test("another program of the spawner goes on where the last one was")
    func resumed() {
        var pause = RestartPause()
        for _ in 0..<3 { _ = pause.take(lived: 0) }
        var resumed = RestartPause(next: pause.next)
        #expect(resumed == pause)
        #expect(resumed.take(lived: 0) == .milliseconds(800))
    }
}
