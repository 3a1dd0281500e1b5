// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import CommandKit
import Foundation
import Testing

@testable import bulkhead

/// Every command that the texts show is one that there is.
@Suite struct DocumentedCommandTests {
    private static let texts = [
        "README.md", "Deploy/RUNBOOK.md", "Deploy/THREATS.md", "Sandbox/README.md", "Sandbox/runtimes/README.md", "docs/REFERENCE.md",
        "Sources/WorkerSDK/WorkerSDK.docc/GettingStarted.md",
    ]

    /// The words of every `bulkhead ...` in fenced blocks.
    static func fenced(_ text: String) -> [[String]] {
        var found: [[String]] = []
        var block: [String]?
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
            if line.drop(while: { $0 == " " }).hasPrefix("```") {
                if let lines = block { found += Shell.commands(lines.joined(separator: "\n")) }
                block = block == nil ? [] : nil
            } else {
                block?.append(line)
            }
        }
        return found
    }

    private func parse(_ words: [String], _ place: String) {
        do {
            _ = try Bulkhead.parseAsRoot(CommandLineWords.normalized(words))
        } catch {
            let code = Bulkhead.exitCode(for: error)
            #expect(code == .success, "\(place): bulkhead \(words.joined(separator: " ")): \(Bulkhead.message(for: error))")
        }
    }

    @Test("commands in fenced blocks are parsed with the real command tree", arguments: texts)
    func blocks(path: String) throws {
        let commands = Self.fenced(try Repository.read(path))
        for words in commands { parse(words, path) }
        if path == "README.md" { #expect(commands.count >= 5, "\(commands)") }
        if path == "docs/REFERENCE.md" { #expect(commands.count >= 40, "\(commands.count)") }
    }

    @Test("commands within a line name a command that there is, and its options", arguments: texts)
    func inline(path: String) throws {
        // Outside of blocks, what is in backquotes may be a part of a command.
        var isInBlock = false
        for line in try Repository.read(path).split(separator: "\n") {
            if line.drop(while: { $0 == " " }).hasPrefix("```") { isInBlock.toggle() }
            guard !isInBlock else { continue }
            for match in line.matches(of: #/`(?:sudo )?bulkhead ([a-z][^`]*)`/#) {
                let words = Shell.commands("bulkhead " + match.output.1).first ?? []
                var command: any ParsableCommand.Type = Bulkhead.self
                var rest = words[...]
                while let word = rest.first, let next = command.configuration.everySubcommand.first(where: { $0.name == word }) {
                    command = next
                    rest.removeFirst()
                }
                #expect(ObjectIdentifier(command) != ObjectIdentifier(Bulkhead.self), "\(path): \(match.output.0)")
                // Of a group without a word behind it, the default is meant.
                if let standard = command.configuration.defaultSubcommand { command = standard }
                let help = command.helpMessage()
                for word in rest where word.hasPrefix("-") && word.count > 1 {
                    let flag = word.prefix { $0 != "=" }
                    let isTime = flag.dropFirst().first?.isNumber == true
                    #expect(isTime || help.contains(flag), "\(path): \(match.output.0) has no \(flag)")
                }
            }
        }
    }

    @Test("a command that is not one is found")
    func control() {
        let text =
            "```sh\nsudo -E .build/bin/bulkhead logs 'a b' --no-such-flag | head -1 # x\nK=$(bulkhead keys create --tenant acme)\n```\n`bulkhead x`"
        let found = Self.fenced(text)
        #expect(found == [["logs", "a b", "--no-such-flag"], ["keys", "create", "--tenant", "acme"]])
        #expect(throws: (any Error).self) { try Bulkhead.parseAsRoot(found[0]) }
        #expect(throws: Never.self) { try Bulkhead.parseAsRoot(found[1]) }
        #expect(
            Shell.commands("bulkhead up --state x \\\n --port 8 &\nbulkhead ps > file 2>&1; (bulkhead top)") == [
                ["up", "--state", "x", "--port", "8"], ["ps"], ["top"],
            ])
    }
}

extension CommandConfiguration {
    fileprivate var everySubcommand: [any ParsableCommand.Type] { subcommands + groupedSubcommands.flatMap(\.subcommands) }
}

extension ParsableCommand {
    fileprivate static var name: String {
        configuration.commandName
            ?? "\(self)".reduce(into: "") { name, letter in
                name +=
                    letter.isUppercase && !name.isEmpty && name.last?.isUppercase == false ? "-" + letter.lowercased() : letter.lowercased()
            }
    }
}

/// As much of a shell's grammar as the texts use.
enum Shell {
    /// The arguments of every `bulkhead` that is called.
    static func commands(_ text: String) -> [[String]] {
        var found: [[String]] = []
        for words in simple(text) {
            var rest = words.drop { $0.contains("=") && !$0.hasPrefix("-") && !$0.contains("/bulkhead") }
            if rest.first == "$" { rest.removeFirst() }
            if rest.first == "sudo" { rest = rest.dropFirst().drop { $0.hasPrefix("-") } }
            guard let program = rest.first, program == "bulkhead" || program.hasSuffix("/bulkhead") else { continue }
            var arguments: [String] = []
            for word in rest.dropFirst() {
                // A redirection ends what is the command's own.
                if word.hasPrefix("\u{0}") { break }
                arguments.append(word)
            }
            found.append(arguments)
        }
        return found
    }

    /// Simple commands as words; a redirection begins with a zero.
    private static func simple(_ text: String) -> [[String]] {
        var all: [[String]] = []
        var words: [String] = []
        var word: String?
        var letters = Array(text)[...]
        func endWord() {
            if let done = word { words.append(done) }
            word = nil
        }
        func endCommand() {
            endWord()
            if !words.isEmpty { all.append(words) }
            words = []
        }
        while let letter = letters.popFirst() {
            switch letter {
            case "'":
                word = (word ?? "") + String(letters.prefix { $0 != "'" })
                letters = letters.drop { $0 != "'" }.dropFirst()
            case "\"":
                word = word ?? ""
                while let next = letters.popFirst(), next != "\"" { word?.append(next == "\\" ? letters.popFirst() ?? "\\" : next) }
            case "\\":
                let next = letters.popFirst()
                if next != "\n", let next { word = (word ?? "") + String(next) }
            case "$" where letters.first == "(":
                letters.removeFirst()
                endCommand()
            case "\n", ";", "|", "(", ")", "&":
                if letter == "&", word?.hasPrefix("\u{0}") == true { continue }
                endCommand()
            case " ", "\t": endWord()
            case "#" where word == nil: letters = letters.drop { $0 != "\n" }
            case "<" where !["<", "(", " ", "/", "'"].contains(letters.first ?? "x"): word = (word ?? "") + "<"
            case ">" where word?.contains("<") == true: word?.append(">")
            case "<", ">":
                if word?.allSatisfy(\.isNumber) == true { word = nil }
                endWord()
                word = "\u{0}"
            default: word = (word ?? "") + String(letter)
            }
        }
        endCommand()
        return all
    }
}
