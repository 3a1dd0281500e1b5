// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import NodeConfiguration

private func seconds(_ text: String) throws -> Int64 {
    Int64(try #require(ISO8601DateFormatter().date(from: text)).timeIntervalSince1970)
}

private let days: [(String, BudgetPeriod, String, String, Int64)] = [
    // Clocks go forward, 23 hours; back, 25.
    ("Europe/Berlin", .day, "2025-03-30T12:00:00Z", "2025-03-29T23:00:00Z", 23),
    ("Europe/Berlin", .day, "2025-10-26T12:00:00Z", "2025-10-25T22:00:00Z", 25),
    ("Europe/Berlin", .month, "2025-03-15T00:00:00Z", "2025-02-28T23:00:00Z", 31 * 24 - 1),
    ("America/New_York", .day, "2025-11-02T06:30:00Z", "2025-11-02T04:00:00Z", 25),
    ("Asia/Kolkata", .day, "2025-01-01T00:00:00Z", "2024-12-31T18:30:00Z", 24),
    ("Asia/Kathmandu", .month, "2024-02-10T00:00:00Z", "2024-01-31T18:15:00Z", 29 * 24),
    ("UTC", .month, "2025-02-28T23:59:59Z", "2025-02-01T00:00:00Z", 28 * 24),
    ("UTC", .hour, "2025-02-28T23:59:59Z", "2025-02-28T23:00:00Z", 1),
    ("Asia/Kolkata", .hour, "2025-02-28T23:59:59Z", "2025-02-28T23:30:00Z", 1),
    // The hour from 2 to 3 comes twice, as two windows.
    ("Europe/Berlin", .hour, "2025-10-26T00:30:00Z", "2025-10-26T00:00:00Z", 1),
    ("Europe/Berlin", .hour, "2025-10-26T01:30:00Z", "2025-10-26T01:00:00Z", 1),
    // No midnight on that day: it begins at one o'clock.
    ("America/Santiago", .day, "2024-09-08T12:00:00Z", "2024-09-08T04:00:00Z", 23),
]

@Suite struct BudgetCalendarTests {
    @Test("a day and a month begin and end with the place's clock", arguments: days)
    func windows(zone: String, period: BudgetPeriod, at: String, start: String, hours: Int64) throws {
        let calendar = try #require(BudgetCalendar(timeZone: zone))
        let window = calendar.window(period, containing: UInt64(try seconds(at)) * 1000)
        #expect(window.ordinal == (try seconds(start)))
        #expect(window.end - window.ordinal == hours * 3600)
    }

    @Test(
        "windows touch, never overlap, and each of their seconds finds the same one",
        arguments: [
            "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Chatham",
            "America/St_Johns", "Africa/Cairo", "Asia/Beirut", "Pacific/Apia", "America/Asuncion", "Asia/Gaza", "Antarctica/Troll",
        ], BudgetPeriod.allCases)
    func tiling(zone: String, period: BudgetPeriod) throws {
        let calendar = try #require(BudgetCalendar(timeZone: zone))
        var second = try seconds("2024-01-01T00:00:00Z")
        let last = try seconds(period == .month ? "2034-01-01T00:00:00Z" : "2026-01-01T00:00:00Z")
        var before = calendar.window(period, containing: UInt64(second) * 1000)
        while second < last {
            let window = calendar.window(period, containing: UInt64(second) * 1000)
            #expect(window.ordinal <= second && second < window.end)
            #expect(second == before.ordinal || window == before || window.ordinal == before.end, "\(before) \(window)")
            for probe in [window.ordinal, (window.ordinal + window.end) / 2, window.end - 1] {
                #expect(calendar.window(period, containing: UInt64(probe) * 1000) == window)
            }
            #expect(window.ordinal % 900 == 0)
            before = window
            second = window.end
        }
    }

    @Test("another zone's window of the same moment: an ordinal that is later moves on, one that is earlier does not")
    func change() throws {
        let now = UInt64(try seconds("2025-06-01T23:30:00Z")) * 1000
        let berlin = try #require(BudgetCalendar(timeZone: "Europe/Berlin")).window(.day, containing: now)
        let utc = try #require(BudgetCalendar(timeZone: "UTC")).window(.day, containing: now)
        #expect(utc.ordinal < berlin.ordinal)
        var account = BudgetAccount(BudgetSpec(invocations: BudgetCeiling(limit: 1, period: .day)))
        account.openWindow(.day, ordinal: utc.ordinal)
        account.openWindow(.day, ordinal: berlin.ordinal)
        #expect(account.reserve(compute: 0) == nil)
        account.openWindow(.day, ordinal: utc.ordinal)
        #expect(account.reserve(compute: 0) != nil)
    }

    @Test("names that are no zone", arguments: ["", "Mars/Olympus", "GMT+0007", "+00:07", "europe/berlin\n"])
    func unknown(name: String) { #expect(BudgetCalendar(timeZone: name) == nil) }

    @Test("a budget's period is hour, day or month")
    func units() {
        #expect(Units.compute("3600 GB-s/hour") == BudgetCeiling(limit: 3_600_000_000, period: .hour))
        #expect(Units.compute("1 GB-s/month") == BudgetCeiling(limit: 1_000_000, period: .month))
        #expect(Units.count("100000/day") == BudgetCeiling(limit: 100_000, period: .day))
        let wrong = [
            "3600 GB-s/h", "3600 GB-s/minute", "3600 GB-s/s", "0 GB-s/hour", "-1 GB-s/hour", "3600GB-s/hour", "1 GB-s/week",
            "18446744073710 GB-s/day", " 1 GB-s/day", "1 GB-s/day ", "1.5 GB-s/day",
        ]
        for text in wrong { #expect(Units.compute(text) == nil, "\(text)") }
        for text in ["5/s", "5/m", "5/h", "5/second", "0/day", "/day", "5/day/", "5/", "5"] { #expect(Units.count(text) == nil, "\(text)") }
    }
}
