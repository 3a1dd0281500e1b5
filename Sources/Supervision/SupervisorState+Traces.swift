// SPDX-License-Identifier: Apache-2.0
public import Core

/// The place of an invocation in a trace (W3C Trace Context, level 2, section 3.2).
public struct TraceContext: Hashable, Sendable {
    /// The trace, as two halves.
    public var high: UInt64
    public var low: UInt64
    /// The invocation's own span.
    public var span: UInt64
    /// The caller's span; 0 for none.
    public var parent: UInt64
    /// Whether the caller wants it recorded. Where there is no caller with a trace, it is.
    public var isSampled: Bool

    /// Reads `00-TRACE-SPAN-FLAGS`; nil for anything else. A later version may have more behind it, which is not looked at.
    public init?(traceparent text: String, span: UInt64) {
        let bytes = Array(text.utf8)
        guard bytes.count >= 55, bytes[2] == 0x2D, bytes[35] == 0x2D, bytes[52] == 0x2D,
            let version = Self.hex(bytes[0..<2]), version != 255,
            version > 0 && (bytes.count == 55 || bytes[55] == 0x2D) || bytes.count == 55,
            let high = Self.hex(bytes[3..<19]), let low = Self.hex(bytes[19..<35]), high != 0 || low != 0,
            let parent = Self.hex(bytes[36..<52]), parent != 0, let flags = Self.hex(bytes[53..<55])
        else { return nil }
        (self.high, self.low, self.span, self.parent) = (high, low, span, parent)
        isSampled = flags & 1 == 1
    }

    /// The beginning of a trace.
    public init(high: UInt64, low: UInt64, span: UInt64) {
        (self.high, self.low, self.span, parent) = (high, max(low, 1), max(span, 1), 0)
        isSampled = true
    }

    /// As it is handed on: whoever gets it is a child of the invocation's span.
    public var traceparent: String { "00-\(Self.text(high))\(Self.text(low))-\(Self.text(span))-0\(isSampled ? 1 : 0)" }

    /// 16 lower-case hexadecimal digits.
    public static func text(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }

    private static func hex(_ bytes: ArraySlice<UInt8>) -> UInt64? {
        var value: UInt64 = 0
        for byte in bytes {
            switch byte {
            case 48...57: value = value << 4 | UInt64(byte - 48)
            case 97...102: value = value << 4 | UInt64(byte - 87)
            default: return nil
            }
        }
        return value
    }
}

/// One ended invocation, as a trace shows it.
public struct InvocationTrace: Sendable {
    public var context: TraceContext
    public var id: InvocationID
    public var version: VersionID
    /// Kind of the trigger.
    public var trigger: String
    public var outcome: Outcome
    public var start: StartKind?
    public var worker: WorkerID?
    /// From 1.
    public var attempt: UInt32
    /// All counted from its arrival: the worker's start where it waited for one, its dispatch where it came to that, and its end.
    public var startingAfter: Nanoseconds?
    public var dispatchedAfter: Nanoseconds?
    public var endedAfter: Nanoseconds
}

extension SupervisorState {
    /// Where an order stands in a trace; nil where nobody takes traces, which then cost nothing.
    func trace(_ order: inout InvocationOrder) -> TraceContext? {
        guard traced != nil else { return nil }
        let span: UInt64 = random.next()
        let context =
            TraceContext(traceparent: order.traceparent, span: max(span, 1))
            ?? TraceContext(high: random.next(), low: random.next(), span: span)
        order.traceparent = context.traceparent
        return context
    }

    func report(_ invocation: Pending, _ id: InvocationID, _ verdict: Verdict, _ now: Instant) {
        guard let traced, let context = invocation.trace, context.isSampled else { return }
        let waited = invocation.start == .warm ? nil : explain.startingAfter(id)
        traced(
            InvocationTrace(
                context: context, id: id, version: invocation.order.version, trigger: invocation.order.trigger, outcome: verdict.outcome,
                start: invocation.start, worker: invocation.worker, attempt: invocation.order.event?.attempt ?? 1, startingAfter: waited,
                dispatchedAfter: invocation.dispatchedAt.map { $0 - invocation.arrivedAt }, endedAfter: now - invocation.arrivedAt))
    }
}
