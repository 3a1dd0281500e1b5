// SPDX-License-Identifier: Apache-2.0
import Kernel
import Logging

/// The daemon's log where the journal reads it: with a priority, and with fields that `journalctl TENANT=acme` finds.
struct JournalLog: LogHandler {
    let journal: Journal
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    var logLevel = Logger.Level.info

    init(_ journal: Journal) { self.journal = journal }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        journal.write(Self.entry(event.level, "\(event.message)", metadata.merging(event.metadata ?? [:]) { $1 }))
    }

    /// What the metadata says is in the message too, for who reads it without fields.
    static func entry(_ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata) -> JournalEntry {
        let details = metadata.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: " ")
        var fields = [JournalEntry.Field("SYSLOG_IDENTIFIER", "bulkheadd")]
        for key in ["tenant", "function", "version", "invocation", "event", "worker"] {
            if let value = metadata[key] { fields.append(JournalEntry.Field(key.uppercased(), "\(value)")) }
        }
        // A function's name begins with its tenant's.
        if metadata["tenant"] == nil, let name = metadata["function"] ?? metadata["version"], let end = "\(name)".firstIndex(of: "/") {
            fields.append(JournalEntry.Field("TENANT", String("\(name)"[..<end])))
        }
        return JournalEntry(priority: level.priority, message: details.isEmpty ? message : "\(message): \(details)", fields: fields)
    }
}

extension Logger.Level {
    /// syslog(3).
    fileprivate var priority: UInt8 {
        switch self {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }
}
