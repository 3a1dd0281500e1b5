// SPDX-License-Identifier: Apache-2.0
public import Core
public import Store

/// An event that somebody wants a function to be run for, sometime and durably.
public struct EventOrder: Sendable {
    public var function: FunctionID
    /// A version's number or an alias; what it means is asked when the event runs.
    public var target = "latest"
    public var payload: [UInt8]
    public var contentType = ""
    /// The trigger that it came through, by name.
    public var trigger = TriggerSpec.direct
    /// The lineage of the invocation that made it; nil for the beginning of a tree.
    public var cause: Lineage?
    /// It may start so many milliseconds from now.
    public var delayMs: UInt64 = 0
    /// The submits of one tenant's function with the same key are one event, for 24 hours.
    public var key: String?
    /// The end user by the tenant's rule and by the function's; nil where there is no rule.
    public var tenantUser: String?
    public var functionUser: String?
    /// The caller's place in a trace (W3C Trace Context), which its runs continue; empty for none. Opaque until it runs.
    public var traceparent = ""
    /// What it is about, such as an object's key: for the test for loops without lineage.
    public var subject = ""
    /// The object that it tells of, with its bucket, as the watch said: for the way that a loop takes.
    var object: String?
    public init(function: FunctionID, payload: [UInt8]) {
        self.function = function
        self.payload = payload
    }

    /// Both users as they are stored with the event.
    var user: String? {
        if tenantUser == nil, functionUser == nil { return nil }
        return [tenantUser, functionUser].map { user in
            user.map { "=" + $0.replacing("\u{1F}", with: "") } ?? ""
        }.joined(separator: "\u{1F}")
    }

    static func users(_ text: String?) -> (tenant: String?, function: String?) {
        let parts = text?.split(separator: "\u{1F}", maxSplits: 1, omittingEmptySubsequences: false) ?? []
        guard parts.count == 2 else { return (nil, nil) }
        return (parts[0].isEmpty ? nil : String(parts[0].dropFirst()), parts[1].isEmpty ? nil : String(parts[1].dropFirst()))
    }
}

/// What became of an ``EventOrder``.
public enum EventAcceptance: Sendable {
    /// It is on the disk, also where the loop governor holds it back for now.
    case accepted(EventReceipt)
    /// Nothing was stored. The sentence says why; the refusal which ceiling, where it was one.
    case refused(Outcome, String, Refusal?)

    var refusal: Refusal? { if case .refused(let outcome, _, let refusal) = self { refusal ?? EventEngine.plain(outcome) } else { nil } }
}

/// A thing that somebody should hear of.
public struct Alarm: Sendable, Hashable {
    public enum Kind: String, Sendable {
        case loop, loopBroken, deadLetter, budget, webhookGivenUp, quarantineFull, throttling, errorRate, crashLoop, canary, disk
    }
    public var kind: Kind
    /// Nil where it is the machine's.
    public var tenant: Name?
    /// What it is about, for the once-each rule: the same subject is not told twice before it has recovered.
    public var subject: String
    public var text: String
    /// The alarm is over.
    public var isRecovery: Bool
    public init(kind: Kind, tenant: Name?, subject: String, text: String, isRecovery: Bool) {
        (self.kind, self.tenant, self.subject, self.text, self.isRecovery) = (kind, tenant, subject, text, isRecovery)
    }
}

extension EventDraft {
    /// What is wrong with it for whoever sent it, or nil.
    var faultForCaller: String? {
        if payload.count > Self.payloadLimit { return "the payload has \(payload.count) bytes, more than \(Self.payloadLimit)" }
        if contentType.utf8.count > 256 { return "the content type is longer than 256 bytes" }
        if let key, key.isEmpty || key.utf8.count > Self.keyLimit { return "an idempotency key has 1 to \(Self.keyLimit) bytes" }
        return nil
    }
}
