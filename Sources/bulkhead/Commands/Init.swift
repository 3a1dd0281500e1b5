// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Foundation

struct Init: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a folder with a function that works, to start from.",
        discussion: """
            The folder's name becomes the function's name.

              bulkhead init --template python3 hello
              bulkhead deploy hello --tenant default

            Without --template the templates are listed.
            """)

    @OptionGroup var common: CommonOptions
    @Option(name: .shortAndLong, help: "Which template to copy.")
    var template: String?
    @Argument(help: ArgumentHelp("The folder to make (default: the template's name).", valueName: "folder"))
    var folder: String?

    private struct Reply: Encodable {
        var folder: String
        var template: String
        var function: String
    }

    func run() throws {
        let source = try NodePaths.current().templates(exists: fileExists)
        let names = try Templates.names(in: source)
        guard let template else {
            if common.json { try Console.value(names) } else { Console.out(names.map { $0 + "\n" }.joined()) }
            if let folder {
                throw Failure.usage(
                    "Nothing was made in \(escaped(folder)); choose a template: bulkhead init --template NAME \(escaped(folder))")
            }
            return
        }
        guard names.contains(template) else {
            throw Failure.usage("There is no template '\(escaped(template))'; there are: \(names.joined(separator: ", ")).")
        }
        let target = folder ?? template
        let function = try Templates.copy(source + "/" + template, to: target)
        if common.json {
            try Console.value(Reply(folder: target, template: template, function: function))
        } else {
            Console.out(
                "Made \(escaped(target)) from the template \(template). Next: bulkhead deploy \(escaped(target)) --tenant default\n")
        }
    }
}
