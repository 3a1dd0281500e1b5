// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import CommandKit
import Foundation
import Testing

@testable import bulkhead

/// The manual page and the completions, which the package is built with, have every command.
@Suite struct ManualTests {
    private struct Dump: Decodable { var command: Command }
    private struct Command: Decodable {
        var commandName: String
        var subcommands: [Command]?

        /// `bulkhead keys create`, for every command that there is.
        func paths(_ before: [String] = []) -> [[String]] {
            guard commandName != "help" else { return [] }
            return [before + [commandName]] + (subcommands ?? []).flatMap { $0.paths(before + [commandName]) }
        }
    }

    private static func paths() throws -> [[String]] {
        try JSONDecoder().decode(Dump.self, from: Data(Bulkhead._dumpHelp().utf8)).command.paths().filter { $0.count > 1 }
    }

    @Test("the manual page has a section for every command", .enabled(if: isExecutableFile("/usr/bin/python3")))
    func manual() throws {
        let input = NSTemporaryDirectory() + "dump-\(UUID().uuidString)"
        try Bulkhead._dumpHelp().write(toFile: input, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: input) }
        let script = Repository.root.appending(path: "Deploy/package/manual.py").path
        let (page, code) = try ChildProgram.run(
            ["/bin/sh", "-c", "exec /usr/bin/python3 \"$0\" 1 0 < \"$1\"", script, input], environment: ["PATH=/usr/bin:/bin"])
        #expect(code == 0)
        let lines = page.split(separator: "\n").filter { $0.hasPrefix(".SS ") }
        let sections = Set(lines.map { String($0.dropFirst(4)).replacing("\\-", with: "-") })
        for path in try Self.paths() { #expect(sections.contains(path.joined(separator: " ")), "\(path)") }
        for command in ["audit", "backup", "restore", "export", "import", "logs"] { #expect(sections.contains("bulkhead \(command)")) }
        #expect(page.contains("\\-\\-with\\-secrets") && page.contains("\\-\\-with\\-buckets"))
    }

    @Test("completions know every command", arguments: ["bash", "zsh", "fish"])
    func completions(shell: String) throws {
        let script = Bulkhead.completionScript(for: try #require(CompletionShell(rawValue: shell)))
        for path in try Self.paths() { #expect(script.contains(path.last ?? "?"), "\(path)") }
        for option in ["with-secrets", "with-buckets", "until", "level", "secret"] { #expect(script.contains(option), "\(option)") }
    }
}
