// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import ControlAPI
import Core
import Foundation
import Gateway
import NodeConfiguration
import Store
import Wire

@testable import Supervision
@testable import bulkhead
@testable import bulkheadd

/// `docs/REFERENCE.md`: what the code says of itself.
enum Reference {
    static func text() throws -> String {
        let parts = [
            "<!-- SPDX-License-Identifier: Apache-2.0 -->\n<!-- Made by Tests/reference; changes go into the code. -->\n# Reference\n",
            try commands(), configuration(), routes(), try metrics(), errors(),
        ]
        return parts.joined(separator: "\n")
    }

    private static func cell(_ text: String) -> String { text.replacing("\n", with: " ").replacing("|", with: "\\|") }

    // MARK: commands

    private struct Dump: Decodable { var command: Command }
    private struct Command: Decodable {
        var commandName: String
        var abstract: String?
        var discussion: String?
        var shouldDisplay: Bool?
        var subcommands: [Command]?
        var arguments: [Argument]?
    }
    private struct Argument: Decodable {
        struct Name: Decodable {
            var kind: String
            var name: String
        }
        var kind: String
        var shouldDisplay: Bool?
        var isOptional: Bool?
        var names: [Name]?
        var valueName: String?
        var abstract: String?
        var defaultValue: String?

        /// `-t, --tenant <tenant>`.
        var shown: String {
            let flags = (names ?? []).map { ($0.kind == "short" ? "-" : "--") + $0.name }.joined(separator: ", ")
            let value = "<\(valueName ?? "value")>"
            return kind == "positional" ? value : kind == "option" ? "\(flags) \(value)" : flags
        }
    }

    private static func commands() throws -> String {
        let dump = try JSONDecoder().decode(Dump.self, from: Data(Bulkhead._dumpHelp().utf8))
        var out = "## Commands\n\nEvery command takes `--state DIR` and `--json`, before or behind its name.\n"
        func add(_ command: Command, _ path: String) {
            guard command.commandName != "help", command.shouldDisplay != false else { return }
            let name = path.isEmpty ? command.commandName : "\(path) \(command.commandName)"
            if !path.isEmpty {
                out += "\n### `\(name)`\n\n\(command.abstract ?? "")\n"
                if let discussion = command.discussion, !discussion.isEmpty { out += "\n" + Self.discussion(discussion) + "\n" }
                let arguments = (command.arguments ?? []).filter {
                    $0.shouldDisplay != false && !["--state <dir>", "--json", "--version", "-h, --help"].contains($0.shown)
                }
                if !arguments.isEmpty { out += "\n| argument | meaning |\n| --- | --- |\n" }
                for argument in arguments {
                    let ending = argument.defaultValue.map { " Default: `\(cell($0))`." } ?? ""
                    out += "| `\(cell(argument.shown))` | \(cell(argument.abstract ?? ""))\(ending) |\n"
                }
            }
            for child in command.subcommands ?? [] { add(child, name) }
        }
        add(dump.command, "")
        return out
    }

    /// Indented lines are examples.
    private static func discussion(_ text: String) -> String {
        var out: [String] = []
        var isCode = false
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("  ") != isCode, !line.isEmpty || isCode {
                out.append("```")
                isCode.toggle()
            }
            out.append(isCode ? String(line.dropFirst(2)) : String(line))
        }
        return (out + (isCode ? ["```"] : [])).joined(separator: "\n")
    }

    // MARK: configuration

    private static func configuration() -> String {
        func table(_ file: String, _ what: String, _ keys: [ConfigurationKey]) -> String {
            "\n### `\(file)`\n\n\(what)\n\n| key | written as | meaning |\n| --- | --- | --- |\n"
                + keys.map { "| `\($0.path)` | \(cell($0.form)) | \(cell($0.meaning)) |\n" }.joined()
        }
        return "## Configuration\n\nUnknown keys, wrong units and impossible values are errors; a reload takes all files or none.\n"
            + table("bulkhead.yaml", "The node.", ConfigurationReference.node())
            + table("tenants.d/NAME.yaml", "One tenant each.", ConfigurationReference.tenant())
            + table("function.yaml", "A function, at the top of its folder.", ConfigurationReference.function())
    }

    // MARK: HTTP

    private static func routes() -> String {
        var out = """
            ## HTTP

            The data plane is on TCP; the control socket takes the same paths. `operator` is root, the node's own user and its group, on \
            the control socket alone; the others are scopes of keys: a key may what its own name, and with `admin` everything of its tenant. The same as OpenAPI 3.1: [openapi.json](openapi.json).

            | method | path | access | parameters | what |
            | --- | --- | --- | --- | --- |

            """
        for route in Routes.all {
            let query = route.query.map { "`\($0)`" }.joined(separator: " ")
            out += "| \(route.method) | `\(route.path)` | \(route.access.rawValue) | \(query) | \(cell(route.summary)) |\n"
        }
        return out
    }

    // MARK: metrics

    /// One tenant with one function, so that every family has a line with its labels.
    static func exposition() throws -> String {
        var snapshot = MetricsSnapshot()
        guard let acme = Name("acme"), let f = Name("f") else { return "" }
        var figures = FunctionFigures()
        figures.outcomes[0] = 1
        figures.refusals[.tenant] = 1
        snapshot.functions = [(FunctionID(tenant: acme, function: f), figures)]
        snapshot.tenants = [
            MetricsSnapshot.Tenant(name: acme, running: 0, queued: 0, seats: 1, memoryCommitted: 0, budgets: [(.compute, 0.5)])
        ]
        snapshot.events = MetricsSnapshot.Events()
        snapshot.spawner = ProcessUse()
        snapshot.bucketBytes[acme] = 1
        snapshot.traces = (0, 0)
        snapshot.disk = DiskSpace(freeBytes: 0, totalBytes: 0)
        return Metrics.text(snapshot, detailed: true)
    }

    private static func metrics() throws -> String {
        var out = """
            ## Metrics

            `/metrics` in the Prometheus text format. On TCP, without the names of tenants and functions.

            | metric | type | labels | meaning |
            | --- | --- | --- | --- |

            """
        let lines = try exposition().split(separator: "\n").map(String.init)
        for (index, line) in lines.enumerated() where line.hasPrefix("# HELP ") {
            let words = line.split(separator: " ", maxSplits: 3).map(String.init)
            let type = lines[index + 1].split(separator: " ").last.map(String.init) ?? ""
            var labels: Set<String> = []
            for sample in lines where sample.hasPrefix(words[2] + "{") || sample.hasPrefix(words[2] + "_bucket{") {
                let list = sample.drop { $0 != "{" }.dropFirst().prefix { $0 != "}" }
                labels.formUnion(list.split(separator: ",").compactMap { $0.split(separator: "=").first.map(String.init) })
            }
            labels.remove("le")
            out += "| `\(words[2])` | \(type) | \(labels.sorted().map { "`\($0)`" }.joined(separator: " ")) | \(cell(words[3])) |\n"
        }
        return out
    }

    // MARK: errors

    private static func errors() -> String {
        var out = """
            ## Errors

            The member `code` of a problem document (RFC 9457), with the HTTP statuses that it comes with; those without one are the \
            command's own.

            | code | status | meaning |
            | --- | --- | --- |

            """
        for code in ErrorCode.all {
            out += "| `\(code.code)` | \(code.statuses.map { "\($0)" }.joined(separator: " ")) | \(cell(code.meaning)) |\n"
        }
        return out
    }
}
