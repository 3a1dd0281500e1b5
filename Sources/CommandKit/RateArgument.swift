// SPDX-License-Identifier: Apache-2.0

/// How often, on a command line.
public enum RateArgument {
    /// Reads `10/s`, `5/minute`, `100/hour`; the answer is per second.
    public static func perSecond(_ text: String, option: String) throws(Failure) -> Double {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        let periods: [Substring: Double] = ["s": 1, "second": 1, "m": 60, "minute": 60, "h": 3600, "hour": 3600]
        guard parts.count == 2, (1...6).contains(parts[0].utf8.count), parts[0].utf8.allSatisfy({ (48...57).contains($0) }),
            let count = Double(parts[0]), count > 0, let period = periods[parts[1]]
        else { throw .usage("\(option) '\(escaped(text))' is not a rate; write it like 10/s, 5/minute or 100/hour.") }
        return count / period
    }
}
