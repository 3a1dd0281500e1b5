// SPDX-License-Identifier: Apache-2.0

/// Alarms of events that end badly: one for each function and kind, however many events it is about, and one when there were none for a while.
public struct EventAlarms: Sendable {
    public enum Kind: Hashable, Sendable, CaseIterable {
        /// An event became a dead letter.
        case deadLetter
        /// An outcome could not be delivered and was given up.
        case givenUp
    }
    /// One that is over.
    public struct Recovery: Hashable, Sendable {
        public var kind: Kind
        public var function: FunctionID
        /// Events that it was about.
        public var count: UInt64
    }
    private struct Key: Hashable {
        var kind: Kind
        var function: FunctionID
    }
    private struct Raised {
        var last: Instant
        var count: UInt64
    }

    /// Without another one for so long it is over.
    public static let quiet: Nanoseconds = .seconds(600)
    /// Only functions with such an event within ``quiet``.
    private var raised: [Key: Raised] = [:]
    /// Nothing is over before.
    private var due: Instant?

    public init() {}

    /// - Returns: whether it has to be told: the first since it was quiet.
    public mutating func happened(_ kind: Kind, _ function: FunctionID, at now: Instant) -> Bool {
        let key = Key(kind: kind, function: function)
        if let before = raised[key] {
            raised[key] = Raised(last: max(before.last, now), count: before.count + 1)
            return false
        }
        raised[key] = Raised(last: now, count: 1)
        due = min(due ?? now + Self.quiet, now + Self.quiet)
        return true
    }

    /// What is over, about once a second.
    public mutating func pass(at now: Instant) -> [Recovery] {
        guard let due, due <= now else { return [] }
        let over = raised.filter { $0.value.last + Self.quiet <= now }
        for key in over.keys { raised[key] = nil }
        self.due = raised.values.map(\.last).min().map { $0 + Self.quiet }
        return over.map { Recovery(kind: $0.key.kind, function: $0.key.function, count: $0.value.count) }
            .sorted { ($0.function, $0.kind == .deadLetter ? 0 : 1) < ($1.function, $1.kind == .deadLetter ? 0 : 1) }
    }
}
