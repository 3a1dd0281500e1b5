// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// Times and spans of a command line.
public enum TimeArgument {
    /// Reads `2026-11-21`, `2026-11-21T10:00`, `2026-11-21 10:00:30`, `03:12` (the last such time), in UTC or with an offset like `+01:00`; `now`, or a span
    /// before now like `-24h`, `-7d`, `10m`.
    ///
    /// - Returns: milliseconds since 1970.
    public static func parse(_ text: String, option: String, now: Date) throws(Failure) -> UInt64 {
        if text == "now" { return milliseconds(now) }
        if let seconds = seconds(String(text.hasPrefix("-") ? text.dropFirst() : text[...])) {
            return milliseconds(now.addingTimeInterval(-Double(seconds)))
        }
        // A time of day, last night's 03:12 for example, is the last one that has passed.
        if isTimeOfDay(text) {
            for day in [0.0, -1, 1] {
                let name = formatter("yyyy-MM-dd").string(from: now.addingTimeInterval(day * 86_400))
                if let date = date("\(name)T\(text)"), (0..<86_400).contains(now.timeIntervalSince(date)) { return milliseconds(date) }
            }
        } else if let date = date(text.replacing(" ", with: "T")), date.timeIntervalSince1970 >= 0 {
            return milliseconds(date)
        }
        throw .usage(
            "\(option) '\(escaped(text))' is not a time; write 2026-11-21, 2026-11-21T10:00 (UTC), 2026-11-21T10:00+01:00, 03:12, now, or -24h."
        )
    }

    /// The times of `--since` and `--until`. A time of day as an end is the first one after a beginning that is a time of day, too: at 03:12 what is asked for from 03:10 to 03:15 are these
    /// minutes. Otherwise it is today's (UTC), whether it has come or not.
    public static func span(since: String?, until: String?, now: Date) throws(Failure) -> (since: UInt64?, until: UInt64?) {
        var (first, last): (UInt64?, UInt64?)
        if let since { first = try parse(since, option: "--since", now: now) }
        if let until { last = try parse(until, option: "--until", now: now) }
        guard var end = last, let until else { return (first, last) }
        if isTimeOfDay(until) {
            let day: UInt64 = 86_400_000
            let begin = since.map(isTimeOfDay) == true ? first ?? 0 : milliseconds(now) / day * day
            if end < begin { end += day }
        }
        if let first, end < first {
            throw .usage("--until '\(escaped(until))' is before --since '\(escaped(since ?? ""))'; change one of them, or leave it away.")
        }
        return (first, end)
    }

    private static func isTimeOfDay(_ text: String) -> Bool {
        text.utf8.count < 15 && text.firstIndex(of: ":").map { text.distance(from: text.startIndex, to: $0) } == 2
    }

    /// `yyyy-MM-dd`, or with `T`, minutes and seconds, which `Z` or an offset may follow.
    private static func date(_ text: String) -> Date? {
        var (plain, zone) = (text, 0)
        if text.contains("T") {
            if text.hasSuffix("Z") {
                plain.removeLast()
            } else if let sign = text.dropFirst(11).lastIndex(where: { $0 == "+" || $0 == "-" }) {
                let offset = formatter("HH:mm")
                let words = String(text[text.index(after: sign)...])
                guard let span = offset.date(from: words), offset.string(from: span) == words else { return nil }
                zone = Int(span.timeIntervalSince(offset.date(from: "00:00") ?? span)) * (text[sign] == "-" ? -1 : 1)
                plain = String(text[..<sign])
            }
        }
        for format in ["yyyy-MM-dd", "yyyy-MM-dd'T'HH:mm", "yyyy-MM-dd'T'HH:mm:ss"] {
            let formatter = formatter(format, zone)
            // A formatter takes "2026-1-2" too; only the written form is meant.
            if let date = formatter.date(from: plain), formatter.string(from: date) == plain { return date }
        }
        return nil
    }

    private static func formatter(_ format: String, _ zone: Int = 0) -> DateFormatter {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: zone)
        formatter.dateFormat = format
        formatter.isLenient = false
        return formatter
    }

    /// Reads `30s`, `10m`, `24h`, `7d`; at most 10,000 days.
    public static func seconds(_ text: String) -> UInt64? {
        guard let unit = text.last, let factor: UInt64 = ["s": 1, "m": 60, "h": 3600, "d": 86_400][unit] else { return nil }
        let digits = text.dropLast()
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = UInt64(digits) else { return nil }
        let (product, overflow) = number.multipliedReportingOverflow(by: factor)
        return overflow || product > 864_000_000 ? nil : product
    }

    /// The beginning of the month (UTC), milliseconds since 1970.
    public static func month(of date: Date) -> UInt64 {
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = TimeZone(secondsFromGMT: 0) ?? calendar.timeZone
        return milliseconds(calendar.date(from: calendar.dateComponents([.year, .month], from: date)) ?? date)
    }

    public static func milliseconds(_ date: Date) -> UInt64 { UInt64(max(0, date.timeIntervalSince1970 * 1000)) }
}
