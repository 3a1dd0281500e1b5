// SPDX-License-Identifier: Apache-2.0

/// How long versions are kept that nothing names.
public struct RetentionRule: Hashable, Sendable {
    /// The newest versions of a function that are always kept.
    public var versions: Int
    /// What an older one is kept for at least.
    public var age: Nanoseconds
    public init(versions: Int = 10, age: Nanoseconds = .seconds(30 * 86_400)) {
        self.versions = versions
        self.age = age
    }

    /// A version as the rule sees it.
    public struct Candidate: Hashable, Sendable {
        public var number: UInt32
        public var age: Nanoseconds
        /// An alias names it, or would name it after a rollback; or something runs or waits for it.
        public var isHeld: Bool
        public init(number: UInt32, age: Nanoseconds, isHeld: Bool) {
            self.number = number
            self.age = age
            self.isHeld = isHeld
        }
    }

    /// The versions of one function that may go, oldest first: not held, not among the newest, and older than the rule's age.
    public func removable(_ versions: [Candidate]) -> [UInt32] {
        let newest = Set(versions.map(\.number).sorted(by: >).prefix(self.versions))
        return versions.filter { !$0.isHeld && !newest.contains($0.number) && $0.age > age }.map(\.number).sorted()
    }
}
