// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import ControlAPI
import Foundation
import Glibc
import NIOCore

struct Backup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write the node's whole state to one file while it runs.",
        discussion: """
            A tar archive with a manifest of sizes and SHA-256 checksums: functions with their code, keys (as hashes), events with their \
            payloads, schedules, use, functions' logs (what `logs.perTenant` and `logs.age` keep of them; not with --without-logs), the audit log and the configuration; with --with-buckets also the buckets' objects, each as it is at some \
            moment of the copying. Whatever was confirmed before the command began is in it. After a restore \
            no object counts as new, so one that was written in the last moments before may not start its triggers. An event whose function is deleted while the backup runs is a dead letter after a \
            restore. The file holds the configuration's secrets: it belongs to root alone, keep it so. Needs root.

              bulkhead backup /var/backups/node.tar
              bulkhead backup /var/backups
              bulkhead backup --with-buckets --without-logs /var/backups
            """)

    @OptionGroup var node: NodeOptions
    @Flag(help: "Also the objects of all buckets.")
    var withBuckets = false
    @Flag(help: "Without functions' logs, which may be most of it.")
    var withoutLogs = false
    @Argument(help: ArgumentHelp("The file, or a folder, where it is named by the time.", valueName: "file|dir"))
    var target: String

    private struct Made: Encodable {
        var file: String
        var bytes: UInt64
    }

    func run() async throws {
        guard geteuid() == 0 else {
            throw Failure.failed("notRoot", "bulkhead backup needs root, because it reads the node's state; use sudo.")
        }
        let paths = NodePaths.current()
        let archive = try BackupArchive(tar: paths.onPath("tar", isExecutable: isExecutableFile))
        let now = Date()
        var isFolder: ObjCBool = false
        let isThere = unsafe FileManager.default.fileExists(atPath: target, isDirectory: &isFolder)
        let stamp = LogFormat.stamp(now).prefix(19).replacing(":", with: "")
        // Two in one second have a name each.
        let names = [""] + (2...99).map { "-\($0)" }
        let free = names.map { "\(target)/bulkhead-\(stamp)Z\($0).tar" }.first { !fileExists($0) }
        let file = absolute(isThere && isFolder.boolValue ? free ?? target : target)
        guard !fileExists(file) else { throw Failure.failed("backup", "\(escaped(file)) exists already; name another file, or remove it.") }
        let state = absolute(paths.state(node.state) ?? NodePaths.systemState)
        try await NodeClient.with(node) { client in
            // A copy of many events takes long; the node bounds it by its disk.
            let bytes = try await client.bytes(
                .post, "/v1/snapshots?buckets=\(withBuckets)&logs=\(!withoutLogs)", deadline: .now() + .hours(6))
            let made = try JSONDecoder().decode(SnapshotReply.self, from: Data(bytes))
            guard made.id.count == 16, made.id.allSatisfy(\.isHexDigit) else {
                throw Failure.failed("internal", "The node named its copy in a way that is not understood; install both of one release.")
            }
            let result: Result<UInt64, Failure>
            do throws(Failure) {
                result = .success(
                    try archive.pack(
                        "\(state)/data/snapshots/\(made.id)", release: made.release, schemas: made.schemas,
                        createdAt: TimeArgument.milliseconds(now), to: file))
            } catch { result = .failure(error) }
            _ = try? await client.bytes(.delete, "/v1/snapshots/\(made.id)")
            let size = try result.get()
            guard !node.json else { return try Console.value(Made(file: file, bytes: size)) }
            Console.out("\(escaped(file)): \(Units.bytes(size))\n")
        }
    }
}

struct Restore: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a state directory of a backup.",
        discussion: """
            Compares every file with the backup's manifest first, and refuses a state that is not empty or in use, and a backup that is \
            damaged or of a newer release; then nothing is changed. The configuration comes to DIR/restored-config. Needs root. With \
            --drained the node begins drained, as with bulkhead up --drained, also where it is the service that starts it.

              bulkhead restore /var/backups/node.tar --state /var/lib/new-node
              bulkhead up --state /var/lib/new-node --config /var/lib/new-node/restored-config
            """)

    @OptionGroup var node: NodeOptions
    @Flag(help: "Have the node begin drained: nothing runs until `bulkhead drain --undo`.")
    var drained = false
    @Argument(help: "The backup.")
    var file: String

    private struct Made: Encodable {
        var state: String
        var files: Int
        /// When the backup was made.
        var createdAt: String
        /// Of the configuration; absent where the backup has none.
        var config: String?
    }

    func run() throws {
        guard geteuid() == 0 else {
            throw Failure.failed("notRoot", "bulkhead restore needs root, because files keep their owners; use sudo.")
        }
        let paths = NodePaths.current()
        guard let state = paths.state(node.state) else {
            throw Failure.usage("bulkhead restore needs a folder for the state; name it with --state DIR.")
        }
        let archive = try BackupArchive(tar: paths.onPath("tar", isExecutable: isExecutableFile))
        let manifest = try archive.restore(file, state: state, knownSchemas: SnapshotReply.knownSchemas)
        if drained { try StateDirectory.open(absolute(state)).markDrained() }
        let made = LogFormat.stamp(Date(timeIntervalSince1970: Double(manifest.createdAt) / 1000))
        let config = absolute(state) + "/restored-config"
        let hasConfig = fileExists(config)
        guard !node.json else {
            return try Console.value(
                Made(state: absolute(state), files: manifest.files.count, createdAt: made, config: hasConfig ? config : nil))
        }
        Console.out("Restored \(manifest.files.count) files of \(made) to \(escaped(absolute(state))).\n")
        if hasConfig {
            Console.out("Start it with: bulkhead up --state \(escaped(state)) --config \(escaped(state))/restored-config\n")
        }
        Console.out(
            drained
                ? "It begins drained: nothing runs until bulkhead drain --undo.\n"
                : "Its crons, webhooks and waiting events run at once. Where the node that it comes from serves still, start it with --drained; "
                    + "bulkhead drain --undo ends that.\n")
    }
}
