// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

/// Alarms of events that end badly.
@Suite struct EventAlarmTests {
    private func function(_ name: String) throws -> FunctionID { try edgeID(name).function }

    @Test("100,000 dead letters are one alarm and one recovery, ten minutes after the last, with their number")
    func once() throws {
        var alarms = EventAlarms()
        let (f, begin) = (try function("f"), at(seconds: 1_000))
        var told = 0
        for number in 0..<100_000 {
            let now = begin + UInt64(number) * 10_000_000
            if alarms.happened(.deadLetter, f, at: now) { told += 1 }
            if number % 1_000 == 0 { #expect(alarms.pass(at: now).isEmpty) }
        }
        #expect(told == 1)
        let last = begin + 99_999 * 10_000_000
        #expect(alarms.pass(at: last + .seconds(599)).isEmpty)
        let over = alarms.pass(at: last + .seconds(600))
        #expect(over.map(\.count) == [100_000] && over.map(\.function) == [f] && over.map(\.kind) == [.deadLetter])
        #expect(alarms.pass(at: last + .seconds(6_000)).isEmpty)
        let again = alarms.happened(.deadLetter, f, at: last + .seconds(6_001))
        #expect(again, "a new one is told again")
    }

    @Test("functions and kinds are told apart, and each is over in its own time")
    func apart() throws {
        var alarms = EventAlarms()
        let (f, g) = (try function("f"), try function("g"))
        let told = [
            alarms.happened(.deadLetter, f, at: at(seconds: 1)), alarms.happened(.givenUp, f, at: at(seconds: 2)),
            alarms.happened(.deadLetter, g, at: at(seconds: 300)), alarms.happened(.givenUp, f, at: at(seconds: 300)),
        ]
        #expect(told == [true, true, true, false])
        #expect(alarms.pass(at: at(seconds: 601)).map(\.kind) == [.deadLetter])
        #expect(alarms.pass(at: at(seconds: 899)).isEmpty)
        let rest = alarms.pass(at: at(seconds: 900))
        #expect(rest.map(\.function) == [f, g] && rest.map(\.kind) == [.givenUp, .deadLetter] && rest.map(\.count) == [2, 1])
    }
}
