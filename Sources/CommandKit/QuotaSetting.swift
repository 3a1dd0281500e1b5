// SPDX-License-Identifier: Apache-2.0

/// `KEY=VALUE` of `bulkhead quota set`.
public struct QuotaSetting: Hashable, Sendable {
    /// The keys, and where each stands in a tenant's file.
    public static let paths: [(key: String, path: [String])] = [
        ("concurrency", ["quota", "concurrency"]), ("rate", ["quota", "rate"]), ("queue", ["quota", "queue"]),
        ("memory", ["quota", "memory"]), ("cpu", ["quota", "cpu"]), ("processes", ["quota", "processes"]),
        ("storage", ["quota", "storage"]), ("buckets", ["quota", "buckets"]), ("budget.compute", ["quota", "budget", "compute"]),
        ("budget.invocations", ["quota", "budget", "invocations"]), ("budget.zone", ["quota", "budget", "zone"]), ("weight", ["weight"]),
        ("users.concurrency", ["users", "default", "concurrency"]), ("users.rate", ["users", "default", "rate"]),
        ("suspended", ["suspended"]),
    ]

    public var key: String
    public var path: [String]
    /// Nil removes the setting, so that the default holds.
    public var value: String?

    /// Reads `rate=200/s burst 400` or `rate=none`. The key may also be written as in the file, `quota.rate`.
    ///
    /// - Throws: ``Failure`` of kind usage. The node judges the value.
    public init(parsing text: String) throws(Failure) {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { throw .usage("'\(escaped(text))' is not KEY=VALUE; write it like rate=200/s, or rate=none.") }
        guard let known = Self.paths.first(where: { $0.key == parts[0] || $0.path.joined(separator: ".") == parts[0] }) else {
            throw .usage("'\(escaped(String(parts[0])))' is not a ceiling; there are \(Self.paths.map(\.key).joined(separator: ", ")).")
        }
        var value = parts[1]
        while value.first == " " { value.removeFirst() }
        while value.last == " " { value.removeLast() }
        guard !value.isEmpty else { throw .usage("\(known.key) has no value; write \(known.key)=none to remove the ceiling.") }
        guard value.utf8.count <= 200, value.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value < 0x7f }) else {
            throw .usage("The value of \(known.key) must be at most 200 printable characters on one line.")
        }
        key = known.key
        path = known.path
        self.value = value == "none" ? nil : String(value)
    }

    /// Reads all of them; the same key twice is a mistake.
    public static func parse(_ words: [String]) throws(Failure) -> [QuotaSetting] {
        var settings: [QuotaSetting] = []
        for word in words {
            let setting = try QuotaSetting(parsing: word)
            guard !settings.contains(where: { $0.key == setting.key }) else {
                throw .usage("\(setting.key) is given twice; give it once.")
            }
            settings.append(setting)
        }
        return settings
    }

    /// The file with the settings changed.
    ///
    /// - Parameter file: for the sentence of an error.
    public static func apply(_ settings: [QuotaSetting], to bytes: [UInt8], file: String) throws(Failure) -> [UInt8] {
        do {
            var text = try YAMLText(bytes)
            for setting in settings { try text.set(setting.path, to: setting.value) }
            return text.bytes
        } catch {
            throw .failed(
                "configuration",
                "\(escaped(file)):\(error.line) cannot be changed by this command (\(escaped(error.sentence))), and nothing was changed; "
                    + "edit the file by hand, then run: bulkhead reload")
        }
    }
}
