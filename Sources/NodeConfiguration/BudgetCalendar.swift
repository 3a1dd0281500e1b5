// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Synchronization

/// One hour, day or month on the clock of a place.
public struct BudgetWindow: Hashable, Sendable {
    /// The window's first second since 1970 (UTC): grows from window to window, also over a change of the time zone.
    public let ordinal: Int64
    /// The first second that belongs to the next window.
    public let end: Int64
}

/// Says which window of a budget a wall-clock time lies in. The windows of a period touch and never overlap, whatever the place does with its
/// clocks: where they go forward a day has 23 hours, where they go back it has 25, and the hour that comes twice is two windows.
public struct BudgetCalendar: Sendable {
    private let zone: TimeZone
    private let calendar: Calendar
    /// The windows that were asked for last: all tenants of a place ask for the same.
    private final class Recent: Sendable {
        let windows = Mutex<[BudgetPeriod: BudgetWindow]>([:])
    }
    private let recent = Recent()

    /// `identifier` is a name of the time zone database, such as `Europe/Berlin` or `UTC`. Nil for another, and for a zone whose clocks are not a
    /// multiple of a quarter of an hour away from UTC: the ledger keeps quarters.
    public init?(timeZone identifier: String) {
        // Not by the list of known names, which has one of several for a place (`Asia/Calcutta`, not `Asia/Kolkata`).
        guard identifier == "UTC" || identifier.contains("/"), let zone = TimeZone(identifier: identifier), zone.secondsFromGMT() % 900 == 0
        else { return nil }
        self.zone = zone
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = zone
        self.calendar = calendar
    }

    /// The window that contains a time, in milliseconds since 1970.
    public func window(_ period: BudgetPeriod, containing milliseconds: UInt64) -> BudgetWindow {
        let second = Int64(milliseconds / 1000)
        if let known = recent.windows.withLock({ $0[period] }), known.ordinal <= second, second < known.end { return known }
        let window =
            switch period {
            case .hour: hour(second)
            case .day: interval(.day, second)
            case .month: interval(.month, second)
            }
        recent.windows.withLock { $0[period] = window }
        return window
    }

    /// By the offset and not by `Calendar`, which knows one hour where the clock shows two of the same name.
    private func hour(_ second: Int64) -> BudgetWindow {
        let date = Date(timeIntervalSince1970: TimeInterval(second))
        let offset = Int64(zone.secondsFromGMT(for: date))
        let hour: Int64 = 3600
        var start = (second + offset) / hour * hour - offset
        // Some places move their clocks by half an hour: the hour is cut there.
        if Int64(zone.secondsFromGMT(for: Date(timeIntervalSince1970: TimeInterval(start)))) != offset,
            let change = zone.nextDaylightSavingTimeTransition(after: Date(timeIntervalSince1970: TimeInterval(start)))
        {
            start = Int64(change.timeIntervalSince1970)
        }
        var end = start - (start + offset) % hour + hour
        if let change = zone.nextDaylightSavingTimeTransition(after: date) { end = min(end, Int64(change.timeIntervalSince1970)) }
        return BudgetWindow(ordinal: start, end: end)
    }

    private func interval(_ unit: Calendar.Component, _ second: Int64) -> BudgetWindow {
        let date = Date(timeIntervalSince1970: TimeInterval(second))
        guard let interval = calendar.dateInterval(of: unit, for: date) else {
            // Never seen; a day of UTC is a window too.
            let day = second / 86_400 * 86_400
            return BudgetWindow(ordinal: day, end: day + 86_400)
        }
        return BudgetWindow(ordinal: Int64(interval.start.timeIntervalSince1970), end: Int64(interval.end.timeIntervalSince1970))
    }
}
