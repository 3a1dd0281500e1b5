// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core

/// A word where a command is expected and none has that name, which the parser calls an unexpected argument, and `help` answers with the help of everything.
enum UnknownCommand {
    /// What is wrong, with the name that is nearest; nil where the words name commands, or where a word may be something else.
    static func failure(_ words: [String]) -> Failure? {
        let asksHelp = words.first == "help"
        var command: any ParsableCommand.Type = Bulkhead.self
        var path = "bulkhead"
        for word in asksHelp ? words.dropFirst() : words[...] {
            let known = command.configuration.subcommands
            guard !known.isEmpty, !word.hasPrefix("-"), word != "help" else { return nil }
            if let next = known.first(where: { $0._commandName == word }) {
                (command, path) = (next, "\(path) \(word)")
                continue
            }
            // Where the command does something without another word, this may be an argument.
            guard asksHelp || command.configuration.defaultSubcommand == nil else { return nil }
            let near = NearWord.nearest(to: word, of: known.map { $0._commandName })
            return .usage(
                "'\(escaped(word))' is no command of \(path)\(near.map { "; did you mean '\(path) \($0)'?" } ?? ";") "
                    + "'\(path) --help' lists what there is.")
        }
        return nil
    }
}
