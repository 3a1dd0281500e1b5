// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation

/// A place's clock, for schedules.
public struct CivilZone: Sendable {
    private let zone: TimeZone

    /// `identifier` is a name of the time zone database, such as `Europe/Berlin` or `UTC`.
    public init?(_ identifier: String) {
        guard BudgetCalendar(timeZone: identifier) != nil, let zone = TimeZone(identifier: identifier) else { return nil }
        self.zone = zone
    }

    /// Seconds that the place is ahead of UTC, at a time in seconds since 1970.
    public func offset(at time: Int64) -> Int64 {
        Int64(zone.secondsFromGMT(for: Date(timeIntervalSince1970: TimeInterval(time))))
    }

    /// See ``CronSchedule/next(after:offset:)``.
    public func next(_ schedule: CronSchedule, after time: Int64) -> Int64? { schedule.next(after: time, offset: offset) }

    /// See ``CronSchedule/catchUp(lastRun:now:offset:)``.
    public func catchUp(_ schedule: CronSchedule, lastRun: Int64, now: Int64) -> Int64? {
        schedule.catchUp(lastRun: lastRun, now: now, offset: offset)
    }
}
