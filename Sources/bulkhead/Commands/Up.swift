// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit

struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a node in the foreground.",
        discussion: """
            Makes the state directory where it does not exist, then runs until SIGTERM or Ctrl-C; no worker outlives it. Prints \
            one line on standard output once it serves: READY http=127.0.0.1:PORT control=PATH. Needs root, because every worker gets a \
            user id, a cgroup and namespaces of its own. Without --config there is one tenant, 'default'.

              bulkhead up --state /var/lib/my-node --port 8080
              bulkhead up --state /tmp/node --port 0 --config ./config

            A state that was restored or copied runs its crons, webhooks and waiting events as soon as it is served, which where the node \
            that it comes from serves still is done twice. With --drained nothing runs: calls and new events are refused (503, code \
            `draining`), events, outcomes and crons wait, deploys and looks go on. Neither a crash nor a restart ends that, only bulkhead drain --undo.

              bulkhead up --state /tmp/node --port 0 --drained

            Reads BULKHEAD_STATE (like --state), and BULKHEAD_SHARE, BULKHEAD_SPAWNER and BULKHEAD_DAEMON \
            (where the parts of the installation are).
            Exit status: 0 stopped as asked, 1 could not start, 2 wrong usage.
            """)

    @OptionGroup var node: NodeOptions
    @Option(help: "TCP port on 127.0.0.1; 0 takes any free one.")
    var port: UInt16 = 8080
    @Option(
        help: ArgumentHelp(
            "Folder with bulkhead.yaml and tenants.d/; a copy is made for the daemon, which `bulkhead reload` makes anew and SIGHUP does not.",
            valueName: "dir"))
    var config: String?

    @Flag(
        help: ArgumentHelp(
            "What bulkhead.service runs: state in \(NodePaths.systemState), configuration in \(NodePaths.systemConfiguration), control socket "
                + "\(NodePaths.systemSocket), cgroups below the service's own."))
    var system = false

    @Flag(help: "Begin drained: nothing runs until `bulkhead drain --undo`.")
    var drained = false

    func run() throws {
        let paths = NodePaths.current()
        let state = system ? node.state ?? NodePaths.systemState : paths.state(node.state)
        guard let state else {
            throw Failure.usage("bulkhead up needs a folder for the node's state; name it with --state DIR or BULKHEAD_STATE.")
        }
        var start = NodeStart(
            state: state, port: port, configuration: config ?? (system ? NodePaths.systemConfiguration : nil), paths: paths)
        start.isService = system
        start.isDrained = drained
        let prepared = try start.prepare()
        for note in prepared.notes { Console.note(note) }
        do {
            raiseOpenFiles()
            try replaceProgram(prepared.arguments, environment: prepared.environment, keepingBelow: 3 + paths.inheritedSockets)
        } catch {
            throw Failure.failed("installation", "The spawner cannot be started, \(error); reinstall, or name it in BULKHEAD_SPAWNER.")
        }
    }
}
