// SPDX-License-Identifier: Apache-2.0
import Core
import NIOHTTP1

/// What of the control plane's requests changes something, by method and path: everything that the audit log keeps.
struct ControlAction: Hashable {
    var word: String
    /// Nil for the whole node.
    var tenant: Name?
    /// What the path names; may be empty where only the body or the answer does.
    var target = ""
    /// Whose alias or versions show what was before.
    var function: FunctionID?
    var alias: Name?

    init?(_ method: HTTPMethod, _ path: RequestPath) {
        guard method != .GET, method != .HEAD, path.parts.first == "v1" else { return nil }
        var rest = Array(path.parts.dropFirst())
        if rest.count >= 2, rest[0] == "tenants" {
            guard let name = Name(rest[1]) else { return nil }
            tenant = name
            rest.removeFirst(2)
        }
        guard let found = Self.word(method, rest) else { return nil }
        (word, target) = found
        guard let tenant, rest[0] == "functions", rest.count >= 2, let name = Name(rest[1]) else { return }
        function = FunctionID(tenant: tenant, function: name)
        if rest.count == 4, rest[2] == "aliases" { alias = Name(rest[3]) }
        if rest.count == 3 { alias = .latest }
    }

    private static func word(_ method: HTTPMethod, _ rest: [String]) -> (String, String)? {
        switch (method, rest.first, rest.count) {
        case (.POST, "reload", 1): ("reload", "")
        case (.POST, "restart", 1): ("restart", "")
        case (.POST, "drain", 1): ("drain", "")
        case (.PUT, "functions", 1): ("deploy", "")
        case (.DELETE, "functions", 2): ("delete", rest[1])
        case (.DELETE, "functions", 4) where rest[2] == "versions": ("delete version", "\(rest[1])@\(rest[3])")
        case (.PUT, "functions", 4) where rest[2] == "aliases": ("alias set", "\(rest[1]):\(rest[3])")
        case (.DELETE, "functions", 4) where rest[2] == "aliases": ("alias delete", "\(rest[1]):\(rest[3])")
        case (.POST, "functions", 3) where rest[2] == "rollback": ("rollback", rest[1])
        case (.POST, "keys", 1): ("key create", "")
        case (.POST, "keys", 3) where rest[2] == "rotate": ("key rotate", rest[1])
        case (.DELETE, "keys", 2): ("key revoke", rest[1])
        case (.PUT, "buckets", 2): ("bucket create", rest[1])
        case (.DELETE, "buckets", 2): ("bucket delete", rest[1])
        case (.POST, "dead-letters", 2) where rest[1] == "redrive": ("dead-letter redrive", "")
        case (.POST, "dead-letters", 2) where rest[1] == "purge": ("dead-letter purge", "")
        case (.POST, "loops", 2) where rest[1] == "resume": ("loop resume", "")
        case (.DELETE, "invocations", 2): ("event stop", rest[1])
        case (.POST, "snapshots", 1): ("backup", "")
        case (.POST, "exports", 1): ("export", "")
        case (.POST, "imports", 1): ("import", "")
        case (.DELETE, "imports", 2): ("import undo", rest[1])
        default: nil
        }
    }
}
