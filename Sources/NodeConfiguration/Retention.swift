// SPDX-License-Identifier: Apache-2.0
import Core

extension Mapping {
    /// `retention: {versions: 10, age: 30d}`; what it leaves out is as in `defaults`. Nil where there is no such key.
    func retention(over defaults: RetentionRule) -> RetentionRule? {
        guard let mapping = mapping("retention") else { return nil }
        var rule = defaults
        rule.versions = mapping.integer("versions", 1...100_000) ?? rule.versions
        rule.age =
            mapping.ranged(
                "age", "a time like 30d", Nanoseconds.seconds(1)...Nanoseconds.seconds(3650 * 86_400), "from 1s to 3650d", Units.span)
            ?? rule.age
        mapping.finish()
        return rule
    }
}
