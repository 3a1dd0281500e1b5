// SPDX-License-Identifier: Apache-2.0

/// Numbers as people read them.
public enum Units {
    /// `1,234,567`.
    public static func count(_ number: UInt64) -> String {
        var out = ""
        for (index, digit) in String(number).reversed().enumerated() {
            if index > 0, index % 3 == 0 { out.append(",") }
            out.append(digit)
        }
        return String(out.reversed())
    }

    /// `512 B`, `1.5 KiB`, `64 MiB`: at most three digits that count.
    public static func bytes(_ number: UInt64) -> String {
        let (value, unit) = scaled(number, toMatch: number)
        return "\(value) \(unit)"
    }

    /// `64/256 MiB`: both numbers in the limit's unit.
    public static func usage(_ used: UInt64, of limit: UInt64) -> String {
        guard limit > 0 else { return bytes(used) }
        let (value, _) = scaled(used, toMatch: limit)
        let (bound, unit) = scaled(limit, toMatch: limit)
        return "\(value)/\(bound) \(unit)"
    }

    private static func scaled(_ number: UInt64, toMatch scale: UInt64) -> (String, String) {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var exponent = 0
        while exponent < units.count - 1, scale >> UInt64(10 * (exponent + 1)) > 0 { exponent += 1 }
        let unit = UInt64(1) << UInt64(10 * exponent)
        let whole = number / unit
        let tenth = exponent == 0 ? 0 : (number % unit) * 10 / unit
        return (whole >= 100 || tenth == 0 ? "\(whole)" : "\(whole).\(tenth)", units[exponent])
    }

    /// `420 ms`, `12s`, `4m2s`, `3h4m`, `5d2h`.
    public static func duration(seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0 else { return "-" }
        if seconds < 1 { return "\(Int(seconds * 1000)) ms" }
        guard seconds < 1e12 else { return "-" }
        let total = Int(seconds)
        let (days, hours, minutes, rest) = (total / 86400, total / 3600 % 24, total / 60 % 60, total % 60)
        if days > 0 { return hours > 0 ? "\(days)d\(hours)h" : "\(days)d" }
        if hours > 0 { return minutes > 0 ? "\(hours)h\(minutes)m" : "\(hours)h" }
        if minutes > 0 { return rest > 0 ? "\(minutes)m\(rest)s" : "\(minutes)m" }
        return "\(rest)s"
    }

    /// `812 us`, `3.4 ms`, `1.20 s`: for how long one thing took.
    public static func interval(nanoseconds: UInt64) -> String {
        switch nanoseconds {
        case ..<1_000_000: "\(nanoseconds / 1000) us"
        case ..<1_000_000_000: decimal(nanoseconds / 100_000, places: 1) + " ms"
        default: decimal(nanoseconds / 10_000_000, places: 2) + " s"
        }
    }

    /// A number with a fixed point: `decimal(42, places: 2)` is `0.42`.
    public static func decimal(_ number: UInt64, places: Int) -> String {
        guard places > 0 else { return "\(number)" }
        let digits = String(number)
        let padded = String(repeating: "0", count: max(0, places + 1 - digits.count)) + digits
        return padded.dropLast(places) + "." + padded.suffix(places)
    }

    /// A number with a fixed point, halves rounded up: `rounded(2.5, places: 2)` is `2.50`.
    public static func rounded(_ number: Double, places: Int) -> String {
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        guard number.isFinite, number >= 0, number * scale < 1e18 else { return "-" }
        return decimal(UInt64((number * scale).rounded()), places: places)
    }
}
