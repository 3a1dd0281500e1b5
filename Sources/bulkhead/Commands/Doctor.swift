// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit

struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what this host can and cannot give, before anything runs.",
        discussion: """
            Works without a node. A line 'required' means that no worker can be sealed here, or that no node starts; 'missing' means that
            something is left out. Exit status 1 where anything is required. Layers are looked at in the node's configuration.

              bulkhead doctor
              bulkhead doctor --state /var/lib/my-node
              bulkhead doctor --config /etc/bulkhead
            """)

    @OptionGroup var node: NodeOptions
    @Option(help: "Whether this TCP port of 127.0.0.1 is free.")
    var port: UInt16?
    @Option(help: ArgumentHelp("The configuration to look at (default: the node's).", valueName: "dir"))
    var config: String?

    func run() throws {
        let paths = NodePaths.current()
        let state = node.state ?? paths.environment["BULKHEAD_STATE"]
        let checks = HostDoctor(paths: paths, state: state, port: port, configuration: config).checks()
        if node.json { try Console.value(checks) } else { Console.out(Self.table(checks)) }
        if checks.contains(where: { $0.state == .required }) { throw ExitCode(CommandStatus.failed.rawValue) }
    }

    static func table(_ checks: [HealthCheck]) -> String {
        var table = Table([.init("CHECK"), .init("STATE"), .init("FOUND"), .init("NEEDED FOR"), .init("REMEDY")])
        for check in checks {
            // Why and how matters where something is to be mended.
            table.add([check.name, check.state.rawValue, check.found] + (check.state == .ok ? [] : [check.neededFor, check.remedy]))
        }
        return table.rendered()
    }
}
