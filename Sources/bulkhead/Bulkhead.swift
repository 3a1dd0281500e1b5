// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Glibc

/// The command itself.
struct Bulkhead: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bulkhead",
        abstract: "Runs other people's functions on this machine, each sealed off from the others and from the machine.",
        discussion: """
            A first minute, as root:
              bulkhead up --state /var/lib/my-node --port 8080 &
              export BULKHEAD_STATE=/var/lib/my-node
              bulkhead init --template python3 hello
              bulkhead deploy hello --tenant default
              bulkhead invoke default/hello --data '{"name": "you"}'
              bulkhead logs default/hello

            Every command but 'up' finds its node by --state DIR, else by BULKHEAD_STATE, else at \(NodePaths.systemSocket). \
            --state and --json may also stand before the command.

            \(CommandStatus.help)
            """,
        version: Release.line,
        groupedSubcommands: [
            CommandGroup(
                name: "Node",
                subcommands: [
                    Up.self, Reload.self, Restart.self, Drain.self, Backup.self, Restore.self, Export.self, Import.self, Doctor.self,
                    Version.self,
                ]),
            CommandGroup(
                name: "Functions",
                subcommands: [
                    Init.self, Dev.self, Deploy.self, Invoke.self, Functions.self, Versions.self, Alias.self, Rollback.self,
                    Applications.self, Delete.self,
                ]),
            CommandGroup(name: "Events", subcommands: [Events.self, DeadLettersCommand.self, Loops.self, Triggers.self]),
            CommandGroup(name: "Buckets", subcommands: [Bucket.self, Object.self]),
            CommandGroup(
                name: "Watching",
                subcommands: [
                    PS.self, Top.self, Inspect.self, Logs.self, Failures.self, Explain.self, Audit.self,
                ]),
            CommandGroup(name: "Tenants", subcommands: [Tenants.self, Quota.self, UsageReport.self, Keys.self]),
        ])
}

/// What every command takes.
struct CommonOptions: ParsableArguments {
    @Flag(help: "Print JSON; errors become problem documents (RFC 9457) on standard error.")
    var json = false
}

/// How a command finds its node.
struct NodeOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The node's state directory (default: BULKHEAD_STATE, else the system-wide node).", valueName: "dir"))
    var state: String?
    @OptionGroup var common: CommonOptions
    var json: Bool { common.json }
}

@main
enum Main {
    static func main() async {
        let words = CommandLineWords.normalized(Array(CommandLine.arguments.dropFirst()))
        do {
            if let failure = UnknownCommand.failure(words) { throw failure }
            var command = try Bulkhead.parseAsRoot(words)
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            exit(Self.report(error, json: CommandLineWords.wantsJSON(words)))
        }
    }

    /// Says what went wrong; returns the exit status.
    static func report(_ error: any Error, json: Bool) -> Int32 {
        if let failure = error as? Failure {
            Console.error((json ? failure.document : "bulkhead: " + failure.sentence) + "\n")
            return failure.status.rawValue
        }
        let code = Bulkhead.exitCode(for: error)
        if code == .success {
            Console.out(Bulkhead.fullMessage(for: error) + "\n")
            return 0
        }
        if error is ExitCode { return code.rawValue }
        if code == .validationFailure {
            let failure = Failure.usage(Bulkhead.message(for: error))
            Console.error((json ? failure.document : escaped(Bulkhead.fullMessage(for: error), keepsLines: true)) + "\n")
            return failure.status.rawValue
        }
        let failure = Failure.failed("internal", "\(escaped(String(describing: error)))")
        Console.error((json ? failure.document : "bulkhead: " + failure.sentence) + "\n")
        return failure.status.rawValue
    }
}
