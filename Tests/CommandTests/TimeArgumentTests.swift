// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Testing

@Suite struct TimeArgumentTests {
    /// 2026-11-21T10:30:00Z.
    private let now = Date(timeIntervalSince1970: 1_795_257_000)

    @Test(arguments: [
        ("2026-11-21", "2026-11-21T00:00:00Z"), ("2026-11-21T10:00", "2026-11-21T10:00:00Z"),
        ("2026-11-21T10:00:07", "2026-11-21T10:00:07Z"),
        ("2026-11-21T10:00Z", "2026-11-21T10:00:00Z"), ("now", "2026-11-21T10:30:00Z"), ("-24h", "2026-11-20T10:30:00Z"),
        ("-7d", "2026-11-14T10:30:00Z"), ("-90s", "2026-11-21T10:28:30Z"), ("-30m", "2026-11-21T10:00:00Z"),
        ("30m", "2026-11-21T10:00:00Z"), ("1970-01-01", "1970-01-01T00:00:00Z"),
        ("2028-02-29", "2028-02-29T00:00:00Z"), ("2026-11-21 10:00", "2026-11-21T10:00:00Z"),
        ("2026-11-21T10:00+01:00", "2026-11-21T09:00:00Z"),
        ("2026-11-21T10:00:07-05:30", "2026-11-21T15:30:07Z"), ("03:12", "2026-11-21T03:12:00Z"), ("10:31", "2026-11-20T10:31:00Z"),
        ("10:30:00", "2026-11-21T10:30:00Z"), ("13:00+05:00", "2026-11-21T08:00:00Z"), ("00:30-11:00", "2026-11-20T11:30:00Z"),
    ])
    func reads(text: String, time: String) throws {
        let milliseconds = try TimeArgument.parse(text, option: "--from", now: now)
        #expect(Date(timeIntervalSince1970: Double(milliseconds) / 1000).ISO8601Format() == time)
    }

    @Test(arguments: [
        "", "yesterday", "2026-13-01", "2026-02-29", "2026-1-2", "2026-11-21T25:00", "2026-11-21T10:00+1", "2026-11-21T10:00+25:00",
        "25:00", "3:12", "03:12:", "2026-11-21T10:00 ", "2026-11-21+01:00", "-24", "-h", "--24h", "-1w",
        "-99999999999999999999d", "-18446744073709551615d", "1969-12-31", "2026-11-21Z", "-+5h",
    ])
    func refuses(text: String) { #expect(throws: Failure.self) { try TimeArgument.parse(text, option: "--from", now: now) } }

    @Test(
        "an end that has not come yet is today's, and one before the beginning is told",
        arguments: [
            ("10:00", "10:15", "2026-11-21T10:00:00Z", "2026-11-21T10:15:00Z"),
            ("10:00", "10:45", "2026-11-21T10:00:00Z", "2026-11-21T10:45:00Z"),
            ("23:50", "00:10", "2026-11-20T23:50:00Z", "2026-11-21T00:10:00Z"),
            ("-1h", "10:45", "2026-11-21T09:30:00Z", "2026-11-21T10:45:00Z"),
            ("-24h", "10:45", "2026-11-20T10:30:00Z", "2026-11-21T10:45:00Z"),
            ("2026-11-20", "10:15", "2026-11-20T00:00:00Z", "2026-11-21T10:15:00Z"),
            ("10:00", "10:00", "2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
        ])
    func spans(since: String, until: String, first: String, last: String) throws {
        let span = try TimeArgument.span(since: since, until: until, now: now)
        let shown = [span.since, span.until].map { Date(timeIntervalSince1970: Double($0 ?? 0) / 1000).ISO8601Format() }
        #expect(shown == [first, last])
        let failure = #expect(throws: Failure.self) { try TimeArgument.span(since: "now", until: "-1m", now: now) }
        #expect(failure?.sentence.contains("--until '-1m' is before --since 'now'") == true)
        let today = try TimeArgument.parse("2026-11-21T10:45", option: "--until", now: now)
        #expect(try TimeArgument.span(since: nil, until: "10:45", now: now) == (nil, today))
        #expect(throws: Failure.self) { try TimeArgument.span(since: "2026-11-30", until: "10:45", now: now) }
    }

    @Test func knowsTheMonth() {
        #expect(Date(timeIntervalSince1970: Double(TimeArgument.month(of: now)) / 1000).ISO8601Format() == "2026-11-01T00:00:00Z")
    }
}
