// SPDX-License-Identifier: Apache-2.0

/// Reads schedules.
enum CronParser {
    private struct Field {
        var name: String
        var range: ClosedRange<Int>
        var names: [String] = []
    }
    private static let fields = [
        Field(name: "second", range: 0...59), Field(name: "minute", range: 0...59), Field(name: "hour", range: 0...23),
        Field(name: "day of the month", range: 1...31),
        Field(
            name: "month", range: 1...12, names: ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
        // Sunday is 0 and 7.
        Field(name: "day of the week", range: 0...7, names: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    ]
    private static let shorthands = [
        "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
        "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
    ]

    static func rule(_ text: String) throws(CronError) -> CronSchedule.Rule {
        let words = text.split(whereSeparator: { $0 == " " || $0 == "\t" }).map { $0.lowercased() }
        if words.first == "every" { return .every(try interval(words)) }
        if let word = words.first, word.hasPrefix("@") {
            guard words.count == 1, let meaning = shorthands[word] else {
                throw CronError(sentence: "`\(text.prefix(40))` is none of \(shorthands.keys.sorted().joined(separator: ", "))")
            }
            return try rule(meaning)
        }
        guard words.count == 5 || words.count == 6 else {
            let wanted = "minute hour day month weekday, with seconds before them for six"
            throw CronError(sentence: "a schedule has five or six fields (\(wanted)) or is written `every 10m`; this has \(words.count)")
        }
        let parts = words.count == 6 ? words : ["0"] + words
        var sets: [UInt64] = []
        for (part, field) in zip(parts, fields) { sets.append(try set(part, field)) }
        let weekdays = (sets[5] | sets[5] >> 7 & 1) & 0x7F
        let found = CronFields(
            seconds: sets[0], minutes: sets[1], hours: sets[2], days: sets[3], months: sets[4], weekdays: weekdays,
            eitherDay: !parts[3].hasPrefix("*") && !parts[5].hasPrefix("*"))
        guard found.canFire else {
            throw CronError(sentence: "`\(text.prefix(80))` never fires: no such day is in any year")
        }
        return .fields(found)
    }

    private static func interval(_ words: [String]) throws(CronError) -> Int64 {
        let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3600, "d": 86_400]
        guard words.count == 2, let unit = words[1].last.flatMap({ units[$0] }), let number = number(words[1].dropLast()), number > 0,
            Int64(number) <= 366 * 86_400 / unit
        else { throw CronError(sentence: "`every` is followed by a time from 1s to 366d, like `every 10m`") }
        return Int64(number) * unit
    }

    /// A list of `*`, `5`, `1-5`, `*/10`, `1-30/10` and `5/10`.
    private static func set(_ text: String, _ field: Field) throws(CronError) -> UInt64 {
        var set: UInt64 = 0
        for item in text.split(separator: ",", omittingEmptySubsequences: false) {
            let halves = item.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            var step = 1
            if halves.count == 2 {
                guard let number = number(halves[1]), number > 0, number <= field.range.upperBound else {
                    throw CronError(sentence: "`\(item.prefix(40))`: a step is a number from 1 to \(field.range.upperBound)")
                }
                step = number
            }
            let range = try range(halves[0], field, isOpen: halves.count == 2)
            for value in stride(from: range.lowerBound, through: range.upperBound, by: step) { set |= 1 << UInt64(value) }
        }
        return set
    }

    /// `isOpen`: a number alone stands for everything from it on.
    private static func range(_ text: Substring, _ field: Field, isOpen: Bool) throws(CronError) -> ClosedRange<Int> {
        // Sunday is there twice, which with a step would be two different days.
        let whole = field.range.lowerBound...(field.range.upperBound == 7 ? 6 : field.range.upperBound)
        if text == "*" { return whole }
        let ends = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
        let low = try value(ends[0], field)
        guard ends.count == 2 else { return low...(isOpen ? max(low, whole.upperBound) : low) }
        var high = try value(ends[1], field)
        // `sat-sun`.
        if field.range.upperBound == 7, high == 0, low > 0 { high = 7 }
        guard low <= high else {
            throw CronError(sentence: "`\(text.prefix(40))`: a range goes upwards; write two, like `22-23,0-2`")
        }
        return low...high
    }

    private static func value(_ text: Substring, _ field: Field) throws(CronError) -> Int {
        if let place = field.names.firstIndex(of: String(text)) { return place + field.range.lowerBound }
        guard let number = number(text), field.range.contains(number) else {
            let names = field.names.isEmpty ? "" : " or \(field.names.joined(separator: ", "))"
            throw CronError(
                sentence: "`\(text.prefix(40))` is no \(field.name): it is \(field.range.lowerBound)-\(field.range.upperBound)\(names)")
        }
        return number
    }

    /// Digits and nothing else.
    private static func number(_ text: some StringProtocol) -> Int? {
        guard (1...9).contains(text.utf8.count), text.utf8.allSatisfy({ (48...57).contains($0) }) else { return nil }
        return Int(text)
    }
}
