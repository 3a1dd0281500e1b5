// SPDX-License-Identifier: Apache-2.0
internal import Core
import Yams

/// What starts a function: `triggers` of its manifest.
extension Mapping {
    /// The most triggers of one function.
    static let triggerLimit = 16

    private static let kinds = ["http", "cron", "bucket", "outcome", "queue"]
    private static let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

    /// A list of triggers, each of one kind and with a name of its own.
    func triggers(_ key: String) -> [TriggerSpec] {
        var numbers: [String: Int] = [:]
        var found: [TriggerSpec] = []
        for item in mappings(key, limit: Self.triggerLimit) {
            let kinds = Self.kinds.filter { item.keys.contains($0) }
            guard let kind = kinds.first, kinds.count == 1 else {
                document.fail(item.node, Self.wrongKinds(kinds))
                continue
            }
            numbers[kind, default: 0] += 1
            let automatic = Name("\(kind)-\(numbers[kind, default: 0])") ?? .unnamed
            let name = item.value("name") == nil ? automatic : item.name("name")
            let value = item.triggerKind(kind)
            // The bounds of the file lie within Core's.
            let rate = item.rate("rate").flatMap { RateSpec(count: $0.count, period: $0.period, burst: $0.burst) }
            let batch = item.batch(kind)
            item.finish()
            guard let name, let value else { continue }
            if name == TriggerSpec.direct {
                document.fail(item.value("name"), "a trigger cannot be named `direct`: so direct calls are called; take another name")
            } else if found.contains(where: { $0.name == name }) {
                document.fail(item.value("name") ?? item.node, "two triggers are named `\(name)`: give one of them another `name`")
            } else {
                found.append(TriggerSpec(name: name, kind: value, rate: rate, batch: batch))
            }
        }
        return found
    }

    /// `batch: 100`, and `wait: 5s` beside it.
    private func batch(_ kind: String) -> BatchSpec? {
        let (sizes, waits) = (BatchSpec.sizes, BatchSpec.waits)
        let size = integer("batch", sizes)
        let wait = ranged(
            "wait", "a time like 5s or 1m", Nanoseconds.seconds(UInt64(waits.lowerBound))...Nanoseconds.seconds(UInt64(waits.upperBound)),
            "from \(waits.lowerBound)s to \(waits.upperBound)s", Units.span)
        if value("wait") != nil, value("batch") == nil {
            document.fail(value("wait"), "`wait` says how long a batch gathers: write `batch` beside it, the most events of one")
        }
        guard value("batch") != nil else { return nil }
        guard ["bucket", "queue"].contains(kind) else {
            document.fail(
                value("batch"), "`batch` is for triggers of the kinds bucket and queue: each event of `\(kind)` is a call of its own")
            return nil
        }
        return size.map { BatchSpec(size: $0, waitMs: (wait ?? 0) / 1_000_000) }
    }

    private static func wrongKinds(_ kinds: [String]) -> String {
        guard kinds.isEmpty else { return "one trigger has one kind, not `\(kinds.joined(separator: "` and `"))`: write two triggers" }
        return "a trigger needs its kind as a key: one of \(Self.kinds.joined(separator: ", "))"
    }

    private func triggerKind(_ kind: String) -> TriggerSpec.Kind? {
        switch kind {
        case "http": httpTrigger()
        case "cron": cronTrigger()
        case "bucket": bucketTrigger()
        case "outcome": outcomeTrigger()
        default: authorization("queue", mayBeOpen: false).map { .queue(authorization: $0) }
        }
    }

    private func httpTrigger() -> TriggerSpec.Kind? {
        let form = "a path like /orders or /orders/*: parts of letters, digits and -._~, at most 512 bytes, * only as the last part"
        let route = parsed("http", form) { Self.isRoute($0) ? $0 : nil }
        let methods = self.methods()
        // Open to everybody only where somebody wrote so.
        let authorization = value("auth") == nil ? .key : self.authorization("auth", mayBeOpen: true)
        let shape = choice("shape", EventShape.self) ?? .bulkhead
        guard let route, let methods, let authorization else { return nil }
        return .http(route: route, methods: methods, authorization: authorization, shape: shape)
    }

    /// Sorted, empty for all; nil after an error.
    private func methods() -> [String]? {
        guard value("methods") != nil else { return [] }
        guard let words = words("methods") else { return nil }
        let wrong = words.first { !Self.methods.contains($0) }
        if let wrong {
            document.fail(value("methods"), "`methods` are \(Self.methods.joined(separator: ", ")), in capitals; not `\(wrong.prefix(40))`")
            return nil
        }
        return Set(words).sorted()
    }

    /// Compared by bytes with a request's path, so what a client would write in several ways is refused.
    private static func isRoute(_ text: String) -> Bool {
        guard text.utf8.first == 0x2F, text.utf8.count <= 512 else { return false }
        guard text != "/" else { return true }
        let parts = text.utf8.dropFirst().split(separator: 0x2F, omittingEmptySubsequences: false)
        return parts.enumerated().allSatisfy { place, part in
            if part.elementsEqual("*".utf8) { return place == parts.count - 1 }
            guard !part.isEmpty, !part.elementsEqual(".".utf8), !part.elementsEqual("..".utf8) else { return false }
            return part.allSatisfy(isUnreserved)
        }
    }

    /// RFC 3986, section 2.3.
    private static func isUnreserved(_ byte: UInt8) -> Bool {
        switch byte {
        case 48...57, 65...90, 97...122: true
        default: "-._~".utf8.contains(byte)
        }
    }

    private func authorization(_ key: String, mayBeOpen: Bool) -> TriggerAuthorization? {
        parsed(key, (mayBeOpen ? "none, " : "") + "key or hmac:NAME, NAME being a secret of the tenant") { text in
            if text == "key" { return .key }
            if text == "none" { return mayBeOpen ? TriggerAuthorization.none : nil }
            guard text.hasPrefix("hmac:"), Secret.isName(String(text.dropFirst(5))) else { return nil }
            return .hmac(secret: String(text.dropFirst(5)))
        }
    }

    private func cronTrigger() -> TriggerSpec.Kind? {
        let schedule = self.schedule("cron")
        let zone = text("timezone") ?? "UTC"
        let payload = text("payload") ?? ""
        let overlap = choice("overlap", CronOverlap.self) ?? .skip
        if BudgetCalendar(timeZone: zone) == nil {
            document.fail(value("timezone"), "`timezone` must be a time zone like Europe/Berlin or UTC, not `\(zone.prefix(60))`")
        }
        if payload.utf8.count > 64 << 10 { document.fail(value("payload"), "`payload` must be at most 64KiB") }
        return schedule.map { .cron(schedule: $0, timeZone: zone, payload: payload, overlap: overlap) }
    }

    private func schedule(_ key: String) -> String? {
        guard let text = text(key) else { return nil }
        do throws(CronError) {
            _ = try CronSchedule(parsing: text)
            return text
        } catch {
            document.fail(value(key), "`\(key)`: \(error.sentence)")
            return nil
        }
    }

    private func bucketTrigger() -> TriggerSpec.Kind? {
        let bucket = name("bucket")
        let prefix = keyPart("prefix")
        let suffix = keyPart("suffix")
        var changes: Set<ObjectChange> = [.created]
        if let words = words("on") {
            changes = Set(words.compactMap(ObjectChange.init(rawValue:)))
            if let wrong = words.first(where: { ObjectChange(rawValue: $0) == nil }) {
                document.fail(value("on"), "`on` is created, removed, renamed or a list of them, not `\(wrong.prefix(40))`")
            }
        }
        return bucket.map { .bucket($0, prefix: prefix, suffix: suffix, changes: changes) }
    }

    private func outcomeTrigger() -> TriggerSpec.Kind? {
        let function = name("outcome")
        let ends = parsed("on", "success, failure or both") { ["success", "failure", "both"].contains($0) ? $0 : nil }
        if value("on") == nil { document.fail(node, "`on` is missing: success, failure or both") }
        guard let function, let ends else { return nil }
        return .outcome(of: function, onSuccess: ends != "failure", onFailure: ends != "success")
    }
}
