// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit

struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Print the version of this command.")

    @OptionGroup var common: CommonOptions

    private struct Reply: Encodable {
        var version = Release.version
        var stateLayout = StateDirectory.layoutVersion
    }

    func run() throws {
        if common.json { try Console.value(Reply()) } else { Console.out(Release.line + "\n") }
    }
}
