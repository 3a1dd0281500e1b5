// SPDX-License-Identifier: Apache-2.0

/// When a cron trigger fires: five fields (minute, hour, day of month, month, day of week), six with seconds before them, `@daily` and the like, or `every 10m`.
///
/// Fields hold `*`, numbers, ranges, steps and lists, months and days also by name. Where both days are restricted either is enough, as in every cron since
/// Vixie's. Times are in seconds since 1970; a place's clock is a function from those to its offset from UTC.
///
/// Where a place changes its clocks, a schedule of certain hours runs once for each of its times on the wall clock: what falls into the hour that is left out runs
/// right after it, together, and what falls into the hour that comes twice runs in the first. A schedule of all 24 hours goes by the hours that pass: nothing is
/// added, nothing is left out.
public struct CronSchedule: Hashable, Sendable {
    enum Rule: Hashable, Sendable {
        /// Multiples of so many seconds since 1970: the same times after each restart, without a memory.
        case every(Int64)
        case fields(CronFields)
    }
    let rule: Rule

    /// Throws what is wrong, in words.
    public init(parsing text: String) throws(CronError) { rule = try CronParser.rule(text) }

    /// The first time after `time`; nil only beyond the calendar's end.
    public func next(after time: Int64, offset: (Int64) -> Int64) -> Int64? {
        guard time > -Self.horizon, time < Self.horizon else { return nil }
        switch rule {
        case .every(let seconds): return (time - Self.modulo(time, seconds)) + seconds
        case .fields(let fields):
            return fields.hours == CronFields.allHours
                ? Self.nextByClock(fields, from: time + 1, offset) : Self.nextByCalendar(fields, after: time, offset)
        }
    }

    /// What a node that was away runs when it is back: the latest time in `lastRun < time <= now`, or nil. At most one, however many were missed.
    public func catchUp(lastRun: Int64, now: Int64, offset: (Int64) -> Int64) -> Int64? {
        guard var found = next(after: lastRun, offset: offset), found <= now else { return nil }
        // Nothing fires in end < time <= now.
        var end = now
        while found < end {
            let middle = found + (end - found) / 2
            if let later = next(after: middle, offset: offset), later <= now { found = later } else { end = middle }
        }
        return found
    }

    /// The year 9999 and a good deal more.
    private static let horizon: Int64 = 300_000_000_000
    private static let day: Int64 = 86_400

    static func modulo(_ a: Int64, _ b: Int64) -> Int64 { ((a % b) + b) % b }

    /// Each time on the wall clock once.
    private static func nextByCalendar(_ fields: CronFields, after time: Int64, _ offset: (Int64) -> Int64) -> Int64? {
        var wall = time + offset(time)
        while let found = fields.first(from: wall + 1) {
            let instant = instant(of: found, offset)
            // Only within the hour that comes for the second time: its times have been.
            if instant > time { return instant }
            wall = found
        }
        return nil
    }

    /// When the wall clock shows a time first; where it never does, when it has jumped over it. Never goes back as `wall` grows.
    private static func instant(of wall: Int64, _ offset: (Int64) -> Int64) -> Int64 {
        // No place is a day away from UTC, so these are before and after it by any clock.
        let (before, after) = (offset(wall - day), offset(wall + day))
        if before == after { return wall - before }
        if offset(wall - before) == before { return wall - before }
        if offset(wall - after) == after { return wall - after }
        return change(in: wall - day, wall + day, offset)
    }

    /// Every instant whose wall clock fits.
    private static func nextByClock(_ fields: CronFields, from start: Int64, _ offset: (Int64) -> Int64) -> Int64? {
        var from = start
        while true {
            let shift = offset(from)
            guard let wall = fields.first(from: from + shift) else { return nil }
            let found = wall - shift
            let seen = min(found, from + 2 * day)
            if offset(seen) != shift {
                from = change(in: from, seen, offset)
            } else if found == seen {
                return found
            } else {
                // No clock that is changed on the way shows a time that fits before the last two days.
                from = max(from + 2 * day, found - 2 * day)
            }
        }
    }

    /// The first second with another offset than `low` has; `high` has another, and there is one change between.
    private static func change(in low: Int64, _ high: Int64, _ offset: (Int64) -> Int64) -> Int64 {
        let old = offset(low)
        var (low, high) = (low, high)
        while high - low > 1 {
            let middle = low + (high - low) / 2
            if offset(middle) == old { low = middle } else { high = middle }
        }
        return high
    }
}

/// What is wrong with a schedule.
public struct CronError: Error, Hashable, Sendable {
    public let sentence: String
}

/// Sets of numbers as bits.
struct CronFields: Hashable, Sendable {
    static let allHours: UInt64 = (1 << 24) - 1

    var seconds: UInt64
    var minutes: UInt64
    var hours: UInt64
    var days: UInt64
    var months: UInt64
    /// 0 is Sunday.
    var weekdays: UInt64
    /// Neither of the two kinds of days is a `*`: one of them is enough.
    var eitherDay: Bool

    /// Whether a day of the calendar exists that fits.
    var canFire: Bool {
        eitherDay
            || (1...12).contains { month in
                // 2000 is a leap year. On every day of the week there is a 29th of February some time.
                months.holds(month) && (1...CivilDate.length(year: 2000, month: month)).contains { days.holds($0) }
            }
    }

    /// The first time on the wall clock that fits, in seconds as if it were UTC.
    func first(from wall: Int64) -> Int64? {
        var day = (wall - CronSchedule.modulo(wall, 86_400)) / 86_400
        var second = CronSchedule.modulo(wall, 86_400)
        // Feb 29 on a certain day of the week can be 40 years away.
        let last = day + 41 * 366
        while day <= last {
            let date = CivilDate(day: day)
            guard months.holds(date.month) else {
                day += Int64(CivilDate.length(year: date.year, month: date.month) - date.day + 1)
                second = 0
                continue
            }
            if fits(date, day), let found = firstSecond(from: second) { return day * 86_400 + found }
            day += 1
            second = 0
        }
        return nil
    }

    private func fits(_ date: CivilDate, _ day: Int64) -> Bool {
        // The first of January 1970 was a Thursday.
        let (byDate, byWeek) = (days.holds(date.day), weekdays.holds(Int(CronSchedule.modulo(day + 4, 7))))
        return eitherDay ? byDate || byWeek : byDate && byWeek
    }

    private func firstSecond(from start: Int64) -> Int64? {
        let (hour, minute, second) = (Int(start / 3600), Int(start / 60 % 60), Int(start % 60))
        func time(_ hour: Int, _ minute: Int, _ second: Int) -> Int64 { Int64(hour * 3600 + minute * 60 + second) }
        let (firstMinute, firstSecond) = (minutes.trailingZeroBitCount, seconds.trailingZeroBitCount)
        if hours.holds(hour) {
            if minutes.holds(minute), let found = seconds.first(from: second) { return time(hour, minute, found) }
            if let found = minutes.first(from: minute + 1) { return time(hour, found, firstSecond) }
        }
        return hours.first(from: hour + 1).map { time($0, firstMinute, firstSecond) }
    }
}

extension UInt64 {
    fileprivate func holds(_ bit: Int) -> Bool { self & (1 << UInt64(bit)) != 0 }
    fileprivate func first(from bit: Int) -> Int? {
        let rest = bit < 64 ? (self >> UInt64(bit)) << UInt64(bit) : 0
        return rest == 0 ? nil : rest.trailingZeroBitCount
    }
}

/// A day of the Gregorian calendar.
struct CivilDate: Hashable, Sendable {
    let year: Int64
    let month: Int
    let day: Int

    /// By days since 1970, after Hinnant's `civil_from_days`.
    init(day number: Int64) {
        let shifted = number + 719_468
        let era = (shifted - CronSchedule.modulo(shifted, 146_097)) / 146_097
        let ofEra = shifted - era * 146_097
        let yearOfEra = (ofEra - ofEra / 1460 + ofEra / 36_524 - ofEra / 146_096) / 365
        let ofYear = ofEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * ofYear + 2) / 153
        day = Int(ofYear - (153 * shiftedMonth + 2) / 5 + 1)
        month = Int(shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9)
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    }

    static func length(year: Int64, month: Int) -> Int {
        switch month {
        case 4, 6, 9, 11: 30
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        default: 31
        }
    }
}
