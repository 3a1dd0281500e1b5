// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing
import Yams

/// What `Deploy/monitoring` has for Prometheus: names are compared with the code by `Deploy/monitoring/check`, form and labels here.
@Suite struct AlertRuleTests {
    private struct Rule {
        var name: String
        var expression: String
        var keys: Set<String>
        var time: String?
        var severity: String?
        var summary: String

        /// Nil where it is none in its form (Prometheus, "Alerting rules").
        init?(_ node: Any) {
            guard let rule = node as? [String: Any], let name = rule["alert"] as? String, let expression = rule["expr"] as? String,
                let labels = rule["labels"] as? [String: String], let annotations = rule["annotations"] as? [String: String]
            else { return nil }
            (self.name, self.expression, keys) = (name, expression, Set(rule.keys))
            (time, severity, summary) = (rule["for"] as? String, labels["severity"], annotations["summary"] ?? "")
        }
    }

    private func rules() throws -> [Rule] {
        let file = try #require(try Yams.load(yaml: try Repository.read("Deploy/monitoring/alerts.yaml")) as? [String: Any])
        let groups = try #require(file["groups"] as? [[String: Any]])
        try #require(Array(file.keys) == ["groups"] && groups.allSatisfy { Set($0.keys) == ["name", "rules"] && $0["name"] is String })
        return try groups.flatMap { try #require($0["rules"] as? [Any]) }.map { try #require(Rule($0), "\($0)") }
    }

    /// The labels of each metric.
    private func labels() throws -> [String: Set<String>] {
        var found: [String: Set<String>] = [:]
        for match in try Reference.exposition().matches(of: #/(?m)^([a-z_]+)(?:\{(.*)\})? /#) {
            let names = match.output.2.map { $0.matches(of: #/([a-z]+)="/#).map { String($0.output.1) } } ?? []
            found[String(match.output.1), default: []].formUnion(names)
        }
        return found
    }

    /// Whether brackets and quotes close in the order in which they open.
    private func isClosed(_ expression: String) -> Bool {
        var open: [Character] = []
        for character in expression {
            if open.last == "\"" {
                if character == "\"" { open.removeLast() }
                continue
            }
            switch character {
            case "\"", "(", "[", "{": open.append(character)
            case ")", "]", "}": guard open.popLast() == [")": "(", "]": "[", "}": "{"][character] else { return false }
            default: break
            }
        }
        return open.isEmpty
    }

    @Test("the alert rules have the form of rules, each its own name, whole expressions, and only labels that their metrics have")
    func form() throws {
        let (rules, known) = (try rules(), try labels())
        #expect(rules.count > 15 && Set(rules.map(\.name)).count == rules.count)
        #expect(!isClosed("sum(a[5m)]") && !isClosed("a{b=\"c}"), "else the next lines show nothing")
        for rule in rules {
            #expect(rule.keys.isSubset(of: ["alert", "expr", "for", "labels", "annotations"]), "\(rule)")
            #expect(["page", "ticket", "info"].contains(rule.severity) && !rule.summary.isEmpty, "\(rule)")
            #expect(rule.time.map { $0.wholeMatch(of: #/[0-9]+[smh]/#) != nil } ?? true, "\(rule)")
            #expect(isClosed(rule.expression), "\(rule)")
            let metrics = rule.expression.matches(of: #/\b(?:bulkhead|process)_[a-z_]+/#).map { String($0.output) }
            let own = metrics.reduce(into: Set(["job", "instance", "le"])) { $0.formUnion(known[$1] ?? []) }
            let grouped = rule.expression.matches(of: #/by \(([a-z, ]+)\)/#)
                .flatMap { $0.output.1.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) } }
            #expect(own.isSuperset(of: grouped), "\(rule): \(own)")
            let isSum = rule.expression.contains("sum(") || !grouped.isEmpty
            let shown = rule.summary.matches(of: #/\$labels\.([a-z]+)/#).map { String($0.output.1) }
            #expect((isSum ? Set(grouped) : own).isSuperset(of: shown), "\(rule): what its summary shows is not there")
        }
    }
}
