// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

/// A place whose clocks change at given times; the offsets in seconds.
private struct Place: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var first: Int64
    var changes: [(at: Int64, offset: Int64)]

    func offset(_ time: Int64) -> Int64 { changes.last { $0.at <= time }?.offset ?? first }

    static let utc = Place(testDescription: "UTC", first: 0, changes: [])
    /// 2024-03-31T01:00Z and 2024-10-27T01:00Z, and the same in 2025.
    static let berlin = Place(
        testDescription: "Berlin", first: 3600,
        changes: [(1_711_846_800, 7200), (1_729_990_800, 3600), (1_743_296_400, 7200), (1_761_440_400, 3600)])
    /// Half an hour: 2024-04-06T15:00Z and 2024-10-05T15:30Z.
    static let lordHowe = Place(testDescription: "Lord Howe", first: 39_600, changes: [(1_712_415_600, 37_800), (1_728_142_200, 39_600)])
    /// At midnight: 2024-04-07T03:00Z back to 23:00, 2024-09-08T04:00Z on to 01:00.
    static let santiago = Place(testDescription: "Santiago", first: -10_800, changes: [(1_712_458_800, -14_400), (1_725_768_000, -10_800)])
    /// A whole day left out, as Samoa did.
    static let jump = Place(testDescription: "a day left out", first: -36_000, changes: [(1_711_879_200, 50_400)])
}

/// What the schedule should do, minute by minute, from its text alone.
private struct Model {
    var sets: [Set<Int>]
    var eitherDay: Bool

    init(_ text: String) {
        let words = text.split(separator: " ")
        let ranges = [0...59, 0...23, 1...31, 1...12, 0...6]
        sets = zip(words, ranges).map { word, range in
            Set(
                word.split(separator: ",").flatMap { item -> [Int] in
                    let halves = item.split(separator: "/")
                    let ends =
                        halves[0] == "*" ? [range.lowerBound, range.upperBound] : halves[0].split(separator: "-").compactMap { Int($0) }
                    return Array(stride(from: ends[0], through: ends[ends.count - 1], by: halves.count == 2 ? Int(halves[1]) ?? 1 : 1))
                })
        }
        eitherDay = words[2].first != "*" && words[4].first != "*"
    }

    func fits(_ wall: Int64) -> Bool {
        let day = Int(wall / 86_400)
        guard sets[0].contains(Int(wall / 60 % 60)), sets[1].contains(Int(wall / 3600 % 24)) else { return false }
        // Counted, not computed.
        var year = 1970, left = day
        func isLeap(_ year: Int) -> Bool { year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) }
        while left >= (isLeap(year) ? 366 : 365) {
            left -= isLeap(year) ? 366 : 365
            year += 1
        }
        var month = 1
        for length in [31, isLeap(year) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if left < length { break }
            left -= length
            month += 1
        }
        let (byDate, byWeek) = (sets[2].contains(left + 1), sets[4].contains((day + 4) % 7))
        return sets[3].contains(month) && (eitherDay ? byDate || byWeek : byDate && byWeek)
    }

    /// All times in a span.
    func times(_ place: Place, _ span: Range<Int64>) -> [Int64] {
        var found: [Int64] = []
        let isHourly = sets[1].count == 24
        for time in stride(from: span.lowerBound, to: span.upperBound, by: 60) {
            let offset = place.offset(time), wall = time + offset
            var fires = fits(wall)
            if !isHourly, let change = place.changes.last(where: { $0.at <= time }) {
                let old = place.offset(change.at - 1)
                if offset < old, time < change.at + old - offset { fires = false }
                if offset > old, time == change.at {
                    fires = fires || stride(from: time + old, to: time + offset, by: 60).contains(where: fits)
                }
            }
            if fires { found.append(time) }
        }
        return found
    }
}

private func times(_ schedule: CronSchedule, _ place: Place, _ span: Range<Int64>) -> [Int64] {
    var found: [Int64] = []
    var time = span.lowerBound - 1
    while let next = schedule.next(after: time, offset: place.offset), next < span.upperBound {
        found.append(next)
        time = next
    }
    return found
}

@Suite struct CronTests {
    @Test(
        "every time of nearly two years, by a model that looks at each minute",
        arguments: [
            "*/5 * * * *", "30 2 * * *", "0 0 * * *", "30 23 * * *", "15 2,3 * * *", "*/20 1-4 * * *", "30 * 27,31 3,10 *", "30 * 6 4 *",
            "0 12 29 2 *", "0 9 1,15 * 1-5", "0 0 31 */2 *", "45 0,1 * * 0", "1 * 31 12 *", "30 2 31 3 *", "0 3 */10 * *",
        ], [Place.utc, .berlin, .lordHowe, .santiago, .jump])
    fileprivate func model(text: String, place: Place) throws {
        let schedule = try CronSchedule(parsing: text)
        // From 2024-01-01; where the clocks change every minute is looked at, elsewhere four days in a row are.
        for begin in [1_704_067_200] + place.changes.map({ $0.at - 3 * 86_400 }) + [1_709_035_200, 1_735_430_400] as [Int64] {
            let aligned = begin - begin % 60
            let span = aligned..<aligned + 6 * 86_400
            #expect(times(schedule, place, span) == Model(text).times(place, span), "\(begin)")
        }
        let year: Range<Int64> = 1_704_067_200..<1_735_689_600
        if !text.hasPrefix("*") { #expect(times(schedule, place, year) == Model(text).times(place, year)) }
    }

    @Test("an hour that is left out runs once after it, an hour that comes twice runs once; every five minutes is every five minutes")
    func change() throws {
        let place = Place.berlin
        let night = try CronSchedule(parsing: "30 2 * * *")
        // 2024-03-31 at 03:00 CEST, and the next day at 02:30 again.
        #expect(night.next(after: 1_711_843_200, offset: place.offset) == 1_711_846_800)
        #expect(night.next(after: 1_711_846_800, offset: place.offset) == 1_711_931_400)
        // 2024-10-27 at 02:30 CEST, not at 02:30 CET an hour later.
        #expect(night.next(after: 1_729_980_000, offset: place.offset) == 1_729_989_000)
        #expect(night.next(after: 1_729_989_000, offset: place.offset) == 1_730_079_000)
        #expect(night.next(after: 1_729_991_000, offset: place.offset) == 1_730_079_000)
        for change in place.changes {
            let span = change.at - 7200..<change.at + 7200
            #expect(times(try CronSchedule(parsing: "*/5 * * * *"), place, span).count == 48)
        }
    }

    @Test("seconds, names, shorthands and intervals mean the same as the long form")
    func forms() throws {
        func same(_ a: String, _ b: String) throws { #expect(try CronSchedule(parsing: a) == CronSchedule(parsing: b), "\(a)") }
        try same("0 */5 * * * *", "*/5 * * * *")
        try same("0 0 * jan,DEC sun", "0 0 * 1,12 0")
        try same("0 0 * * fri-sun", "0 0 * * 5,6,0")
        try same("0 0 * * 7", "0 0 * * 0")
        try same("@weekly", "0 0 * * 0")
        try same("@hourly", "0 * * * *")
        try same("@yearly", "0 0 1 jan *")
        try same("5/20 * * * *", "5,25,45 * * * *")
        try same("10-30/10 *\t*  * *", "10,20,30 * * * *")
        let place = Place.utc
        #expect(times(try CronSchedule(parsing: "*/20 * * * * *"), place, 0..<60) == [0, 20, 40])
        #expect(times(try CronSchedule(parsing: "59 59 23 * * *"), place, 0..<86_400) == [86_399])
        #expect(times(try CronSchedule(parsing: "every 90s"), place, 1..<400) == [90, 180, 270, 360])
        #expect(try CronSchedule(parsing: "every 1d").next(after: -1, offset: place.offset) == 0)
        // Feb 29 on a Monday, from 2024 on: 2044.
        #expect(try CronSchedule(parsing: "0 0 29 2 *").next(after: 1_709_251_200, offset: place.offset) == 1_835_395_200)
        #expect(try CronSchedule(parsing: "0 0 29 2 */7").next(after: 4_100_000_000, offset: place.offset) != nil)
    }

    @Test(
        "mistakes in words",
        arguments: [
            ("", "this has 0"), ("* * * *", "this has 4"), ("* * * * * * *", "this has 7"), ("60 * * * *", "`60` is no minute: it is 0-59"),
            ("* 24 * * *", "`24` is no hour"), ("* * 0 * *", "no day of the month"), ("* * * 13 *", "it is 1-12 or jan, feb"),
            ("* * * * 8", "no day of the week"), ("* * * * mo", "`mo` is no day of the week"), ("*/0 * * * *", "a step is a number"),
            ("*/60 * * * *", "a step is a number"), ("5-1 * * * *", "a range goes upwards"), ("1,,2 * * * *", "`` is no minute"),
            ("-1 * * * *", "`` is no minute"), ("+1 * * * *", "`+1` is no minute"), ("L * * * *", "is no minute"),
            ("* * L * *", "`l` is no day of the month"), ("0 0 30 2 *", "`0 0 30 2 *` never fires"), ("0 0 31 4,6,9,11 *", "never fires"),
            ("0 0 31 2 */2", "never fires"), ("@reboot", "is none of @annually"), ("@daily x", "is none of"), ("every", "like `every 10m`"),
            ("every 0s", "from 1s to 366d"), ("every 10", "like `every 10m`"), ("every 367d", "from 1s"), ("every 1h 5m", "like"),
            ("every 99999999999999999999s", "from 1s"), ("* * * * 1-", "no day of the week"), ("1/ * * * *", "a step is"),
        ])
    func mistakes(text: String, sentence: String) {
        do throws(CronError) {
            _ = try CronSchedule(parsing: text)
            Issue.record("\(text) was read")
        } catch { #expect(error.sentence.contains(sentence), "\(error.sentence)") }
    }

    @Test("a day that is in some months fires in those")
    func some() throws {
        #expect(throws: Never.self) { try CronSchedule(parsing: "0 0 31 2,3 *") }
        // Either day is enough, so the Mondays of February remain.
        #expect(throws: Never.self) { try CronSchedule(parsing: "0 0 30 2 mon") }
    }

    @Test(
        "however much was missed, the latest is caught up, once",
        arguments: ["* * * * * *", "*/5 * * * *", "0 3 * * *", "every 7m", "0 0 1 1 *"])
    func catchUp(text: String) throws {
        let schedule = try CronSchedule(parsing: text)
        let place = Place.berlin
        for (last, now) in [(1_711_700_000, 1_711_900_123), (1_711_700_000, 1_711_700_000), (1_704_000_000, 1_711_700_001)]
            as [(Int64, Int64)]
        {
            let begin = max(last + 1, now - 90_000)
            let expected = times(schedule, place, begin..<now + 1).last
            let found = schedule.catchUp(lastRun: last, now: now, offset: place.offset)
            if let expected { #expect(found == expected) } else { #expect((found ?? last) <= begin) }
            if let found {
                #expect(found > last && found <= now && schedule.catchUp(lastRun: found, now: now, offset: place.offset) == nil)
            }
        }
        #expect(schedule.catchUp(lastRun: 2_000_000_000, now: 1_000_000_000, offset: place.offset) == nil)
    }
}
