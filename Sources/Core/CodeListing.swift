// SPDX-License-Identifier: Apache-2.0

/// What a function's code holds, by path from its top: enough to say before a start that a file is missing.
public struct CodeListing: Hashable, Sendable {
    public enum Entry: Hashable, Sendable { case file(isExecutable: Bool), folder, link }

    private let entries: [String: Entry]

    /// Paths without `.`, `..` and empty parts.
    public init(_ entries: [String: Entry]) { self.entries = entries }

    /// What is at a path; nil where there is nothing. What lies behind a link is not known: the link is told.
    public subscript(path: String) -> Entry? {
        var reached = "", entry = Entry.folder
        // By bytes, as the kernel reads it.
        for part in path.utf8.split(separator: 0x2F) where !part.elementsEqual([0x2E]) {
            guard entry == .folder else { return nil }
            reached += (reached.isEmpty ? "" : "/") + String(Substring(part))
            guard let next = entries[reached] else { return nil }
            if next == .link { return next }
            entry = next
        }
        return entry
    }

    /// Whether a file or a link is at the path.
    public func hasFile(_ path: String) -> Bool {
        switch self[path] {
        case .file, .link: true
        case .folder, nil: false
        }
    }

    /// Whether any path begins and ends so.
    public func hasPath(from prefix: String, to suffix: String) -> Bool {
        entries.keys.contains { $0.hasPrefix(prefix) && $0.hasSuffix(suffix) }
    }
}
