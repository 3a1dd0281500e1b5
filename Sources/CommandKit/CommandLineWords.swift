// SPDX-License-Identifier: Apache-2.0

/// The words of the command line, before they are parsed.
public enum CommandLineWords {
    /// Commands that have commands of their own.
    public static let groups: Set<String> = ["alias", "bucket", "object", "keys", "quota", "events", "dead-letters", "loops"]

    /// Moves `--state DIR` and `--json` from before the command to behind it, so that both orders mean the same:
    /// `bulkhead --state DIR ps` and `bulkhead ps --state DIR`. Everything else stays where it is.
    public static func normalized(_ words: [String]) -> [String] {
        var leading: [String] = []
        var index = 0
        scan: while index < words.count {
            switch words[index] {
            case "--state":
                guard index + 1 < words.count else { return words }
                leading += [words[index], words[index + 1]]
                index += 2
            case "--json":
                leading.append(words[index])
                index += 1
            case let word where word.hasPrefix("--state="):
                leading.append(word)
                index += 1
            default: break scan
            }
        }
        guard !leading.isEmpty, index < words.count, !words[index].hasPrefix("-") else { return words }
        var commands = [words[index]]
        index += 1
        if groups.contains(commands[0]), index < words.count, !words[index].hasPrefix("-") {
            commands.append(words[index])
            index += 1
        }
        return commands + leading + words[index...]
    }

    /// Whether `--json` was asked for: needed to report an error in the command line itself.
    public static func wantsJSON(_ words: [String]) -> Bool {
        words.prefix { $0 != "--" }.contains("--json")
    }
}
