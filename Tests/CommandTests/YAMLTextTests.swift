// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import CommandKit

@Suite struct YAMLTextTests {
    private func edited(_ text: String, _ words: String...) throws -> String {
        let bytes = try QuotaSetting.apply(try QuotaSetting.parse(words), to: Array(text.utf8), file: "acme.yaml")
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A file with everything that may stand around a setting.
    private static let file = """
        # Acme, contract 7
        tenant: acme   # the name

        quota:
          # agreed in May
          concurrency: 50   # seats
          rate: "200/s burst 400"  # quoted
          budget: {compute: 3600 GB-s/hour, invocations: 100000/day} # money
        weight: 1

        # the end
        """

    @Test(arguments: [
        ("concurrency=9", "concurrency: 50   # seats", "concurrency: 9   # seats"),
        ("rate=5/s burst 10", "rate: \"200/s burst 400\"  # quoted", "rate: 5/s burst 10  # quoted"),
        ("budget.compute=1 GB-s/day", "{compute: 3600 GB-s/hour, ", "{compute: 1 GB-s/day, "),
        ("budget.compute=none", "{compute: 3600 GB-s/hour, invocations", "{invocations"),
        ("budget.invocations=none", ", invocations: 100000/day} # money", "} # money"),
        ("budget.zone=Europe/Berlin", "100000/day} # money", "100000/day, zone: Europe/Berlin} # money"),
        ("rate=none", "  rate: \"200/s burst 400\"  # quoted\n", ""), ("weight=none", "weight: 1\n", ""),
        ("weight=2", "weight: 1", "weight: 2"),
        ("memory=4GiB", "} # money\n", "} # money\n  memory: 4GiB\n"), ("queue=none", "tenant", "tenant"),
        ("users.rate=20/s", "weight: 1\n", "weight: 1\nusers:\n  default:\n    rate: 20/s\n"),
        ("quota.memory=a: b #c", "} # money\n", "} # money\n  memory: \"a: b #c\"\n"),
    ])
    func changesOneSettingAndNothingElse(word: String, before: String, after: String) throws {
        let expected = Self.file.replacing(before, with: after, maxReplacements: 1)
        #expect(try edited(Self.file, word) == expected)
    }

    @Test(arguments: [
        ("tenant: a", "rate=1/s", "tenant: a\nquota:\n  rate: 1/s\n"), ("tenant: a\n", "weight=2", "tenant: a\nweight: 2\n"),
        ("tenant: a\r\nweight: 1\r\n", "rate=1/s", "tenant: a\r\nweight: 1\r\nquota:\r\n  rate: 1/s\r\n"),
        ("tenant: a\r\nweight: 1\r\n", "weight=2", "tenant: a\r\nweight: 2\r\n"), ("# only\n", "weight=2", "# only\nweight: 2\n"),
        ("", "weight=2", "weight: 2\n"), ("---\ntenant: a\n", "weight=2", "---\ntenant: a\nweight: 2\n"),
        ("tenant: a\nquota:\nweight: 1\n", "rate=1/s", "tenant: a\nquota:\n  rate: 1/s\nweight: 1\n"),
        ("tenant: a\nquota: # later\n", "rate=1/s", "tenant: a\nquota: # later\n  rate: 1/s\n"),
        ("tenant: a\nquota: {}\n", "rate=1/s", "tenant: a\nquota: {rate: 1/s}\n"),
        ("tenant: a\nquota: {queue: 1}\n", "budget.compute=1 GB-s/day", "tenant: a\nquota: {queue: 1, budget: {compute: 1 GB-s/day}}\n"),
        ("{tenant: a, weight: 1}\n", "weight=2", "{tenant: a, weight: 2}\n"),
        ("tenant: a\nquota: {rate: 1/s}\n", "rate=none", "tenant: a\n"),
        (
            "tenant: a\nquota:\n    queue: 1\n    budget:\n        compute: 1 GB-s/day\n", "budget.compute=none",
            "tenant: a\nquota:\n    queue: 1\n"
        ),
        ("tenant: a\nusers:\n  default:\n    rate: 1/s\n", "users.rate=none", "tenant: a\n"),
        ("tenant: a\nquota:\n    queue: 1\n", "rate=1/s", "tenant: a\nquota:\n    queue: 1\n    rate: 1/s\n"),
        ("quota: {\n  queue: 1, # one\n  rate: 1/s\n}\n", "queue=2", "quota: {\n  queue: 2, # one\n  rate: 1/s\n}\n"),
        ("quota:\n  {queue: 1}\n", "rate=1/s", "quota:\n  {queue: 1, rate: 1/s}\n"),
        (
            "notify: [{webhook: \"https://x/#a\", secret: 'it''s'}]\nweight: 1\n", "weight=2",
            "notify: [{webhook: \"https://x/#a\", secret: 'it''s'}]\nweight: 2\n"
        ),
        ("notify:\n- webhook: x\n  secret: y\nweight: 1\n", "weight=2", "notify:\n- webhook: x\n  secret: y\nweight: 2\n"),
        ("text: |\n  weight: 5\n\n  more\nweight: 1\n", "weight=2", "text: |\n  weight: 5\n\n  more\nweight: 2\n"),
        ("\"weight\" : '1'\n", "weight=2", "\"weight\" : 2\n"), ("weight:\n", "weight=2", "weight: 2\n"),
    ])
    func knowsTheLayouts(text: String, word: String, after: String) throws { #expect(try edited(text, word) == after) }

    @Test func whatIsSetAndRemovedAgainLeavesTheFileAsItWas() throws {
        for setting in QuotaSetting.paths
        where !["concurrency", "rate", "budget.compute", "budget.invocations", "weight"].contains(setting.key) {
            let there = try edited(Self.file, "\(setting.key)=5")
            #expect(there != Self.file)
            #expect(try edited(there, "\(setting.key)=none") == Self.file, "\(setting.key)")
        }
    }

    @Test func severalAtOnce() throws {
        #expect(
            try edited("tenant: a\n", "rate=1/s", "budget.compute=1 GB-s/day", "budget.zone=UTC", "users.concurrency=2", "users.rate=3/s")
                == """
                tenant: a
                quota:
                  rate: 1/s
                  budget:
                    compute: 1 GB-s/day
                    zone: UTC
                users:
                  default:
                    concurrency: 2
                    rate: 3/s

                """)
    }

    @Test(arguments: [
        ("\tquota: 1\n", "tab"), ("- a\n", "not a `key: value`"), ("weight: 1\nweight: 2\n", "given twice"),
        ("quota: {rate: 1/s\n", "not closed"),
        ("quota: {rate: 1/s, rate: 2/s}\n", "given twice"), ("quota: {a, b}\n", "pairs"), ("weight: &a 1\n", "more than one text"),
        ("weight: \"1\n", "not closed"), ("quota: 5\nweight: 1\n", "`key: value` pairs"), ("quota: [1]\n", "`key: value` pairs"),
        ("weight: [1]\n", "more than one text"), ("weight: 1\n  2\n", "more than one text"), ("weight: {a: 1} x\n", "something else"),
        ("  a: 1\nweight: 1\n", "indented"), ("a: 1\n--- \nweight: 1\n", "not a `key: value`"), ("\u{feff}weight: 1\n", "byte order mark"),
    ])
    func refusesWhatIsUnclear(text: String, sentence: String) {
        let failure = #expect(throws: Failure.self) {
            _ = try edited(text, "weight=2", text.hasPrefix("quota: 5") || text.hasPrefix("quota: [") ? "rate=1/s" : "queue=1")
        }
        #expect(failure?.sentence.contains(sentence) == true, "\(failure?.sentence ?? "")")
    }

    @Test(arguments: ["rate", "=1", "speed=1", "rate=", "rate=  ", "rate=a\nb", "rate=\u{e9}", "concurency=1"])
    func refusesWords(word: String) { #expect(throws: Failure.self) { try QuotaSetting(parsing: word) } }

    @Test func readsWords() throws {
        #expect(try QuotaSetting(parsing: "rate= 200/s burst 400 ").value == "200/s burst 400")
        #expect(try QuotaSetting(parsing: "quota.budget.compute=none") == QuotaSetting(parsing: "budget.compute=none"))
        #expect(try QuotaSetting(parsing: "users.default.rate=a=b").value == "a=b")
        #expect(throws: Failure.self) { try QuotaSetting.parse(["rate=1/s", "quota.rate=2/s"]) }
    }
}
