// SPDX-License-Identifier: Apache-2.0
public import Core

/// What moved an alias.
public enum AliasCause: String, Hashable, Sendable {
    case deploy, set, rollback
    /// ``CanaryRule`` ended the canary.
    case rule
}

/// A change of an alias, for its history.
public struct AliasChange: Hashable, Sendable {
    public var cause: AliasCause
    /// Why, for a person; empty where the cause says it.
    public var reason: String
    /// Milliseconds since 1970.
    public var at: UInt64
    public init(cause: AliasCause, reason: String = "", at: UInt64) {
        self.cause = cause
        self.reason = reason
        self.at = at
    }
}

/// An alias as it is kept.
public struct AliasRecord: Hashable, Sendable {
    public var function: FunctionID
    public var spec: AliasSpec
    /// Grows with every change of any alias: of two states of one alias, the one with the larger step is the present one.
    public var step: Int64
    public var change: AliasChange
    /// The version that a rollback goes to; nil where there is none.
    public var previous: UInt32?
}

/// Why an alias or a version cannot be changed as asked. Nothing was changed.
public enum AliasFault: Error, Hashable, Sendable {
    case noFunction, noAlias, noVersion(UInt32)
    /// There is nothing before the present version that is still kept.
    case nothingBefore(UInt32)
    /// A version that these aliases name, or one that is the last of its function.
    case inUse([Name])
    /// `latest` is moved by deploys and rollbacks alone.
    case isLatest
}
