// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import ControlAPI
import Core
import Foundation
import Synchronization

struct Dev: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Work on a function: deploy its folder, show its logs, and deploy again whenever a file changes.",
        discussion: """
            Each change becomes a new version on the node, as with deploy, once nothing was written for a moment. A version that the node \
            refuses is explained, and the one before goes on serving. Prints TENANT/FUNCTION@VERSION for each version, and the log's lines. \
            Ends with Ctrl-C (exit status 0); the function stays on the node.

              bulkhead dev ./hello
              bulkhead dev ./thumbnail --tenant acme

            \(CommandStatus.help)
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The function's folder.")
    var folder: String
    @Option(name: .shortAndLong, help: "The tenant that owns the function.")
    var tenant = "default"

    /// How often the folder and the log are looked at.
    private static let interval = Duration.milliseconds(300)
    /// Mistakes that the author mends in the folder; of anything else waiting mends nothing.
    private static let mendable: Set<String> = ["badManifest", "badArchive", "usage", "tar"]
    /// What is the node's state for a while: tried again after a pause.
    private static let passing: Set<String> = ["draining", "busy", "storage"]
    private static let pause = Duration.seconds(2)
    /// Looks, one after the other, at a folder that is not there.
    private static let goneAfter = 10

    func run() async throws {
        let tenant = try FunctionReference.tenant(tenant)
        guard case .folder(let path, _, _) = try CodeArchive.examine(folder) else {
            throw Failure.usage("\(escaped(folder)) is an archive; name the folder that you work in.")
        }
        let serving = Serving()
        let end = Interrupts.end {
            Console.note(serving.name.map { "\($0) stays on the node; remove it with: bulkhead delete" } ?? "nothing was deployed.")
        }
        defer { _ = end }
        try await NodeClient.with(node) { client in
            var deployed: FolderState?
            var seen: FolderState?
            var log: LogFollower?
            var unread = 0
            while true {
                // Gone for a moment, where a program writes the folder anew.
                let present = try? FolderState.read(path)
                unread = present == nil ? unread + 1 : 0
                if unread == Self.goneAfter {
                    Console.note("\(escaped(path)) cannot be read any more; it is waited for, and Ctrl-C ends that.")
                }
                // The same at two looks: nobody is writing.
                if let present, present != deployed, present == seen || deployed == nil {
                    deployed = present
                    let began = Date()
                    if let version = try await deploy(path, tenant, client, serving, &deployed) {
                        let function = "\(version.tenant)/\(version.function)"
                        if log?.target != function { log = try LogFollower(function, since: began, json: node.json) }
                    }
                }
                seen = present
                try await log?.show(client)
                try await Task.sleep(for: Self.interval)
            }
        }
    }

    /// The version that serves until the next one does.
    private final class Serving: Sendable {
        private let version = Mutex<String?>(nil)
        var name: String? { version.withLock { $0 } }
        func note(_ name: String) { version.withLock { $0 = name } }
    }

    /// Makes a version of the folder as it is; nil where it has a mistake, which is told, and where the node has gone: then it is not deployed, and tried again.
    private func deploy(
        _ path: String, _ tenant: Name, _ client: NodeClient, _ serving: Serving, _ deployed: inout FolderState?
    ) async throws -> VersionReply? {
        do {
            let bytes = try await Deploy.send(path, tenant, client)
            let version = try JSONDecoder().decode(VersionReply.self, from: Data(bytes))
            let name = escaped("\(version.tenant)/\(version.function)@\(version.version)")
            let isFirst = serving.name == nil
            serving.note(name)
            if isFirst { try await introduce(version, path, client) }
            if node.json {
                Console.json(bytes)
            } else {
                Deploy.warn(version)
                Console.out(name + "\n")
            }
            return version
        } catch let failure as Failure where serving.name != nil || Self.mendable.contains(failure.code) {
            // One that was only not answered in time may be a version already: sent again, each would be one more.
            if failure.status == .unreachable || Self.passing.contains(failure.code) { deployed = nil }
            if node.json {
                Console.error(failure.document + "\n")
            } else {
                Console.note(failure.sentence)
                Console.note(serving.name.map { "\($0) goes on serving." } ?? "nothing serves yet; mend it and save.")
            }
            if deployed == nil { try await Task.sleep(for: Self.pause) }
            return nil
        }
    }

    /// Where to call it.
    private func introduce(_ version: VersionReply, _ path: String, _ client: NodeClient) async throws {
        guard !node.json else { return }
        let function = escaped("\(version.tenant)/\(version.function)")
        let target = "/v1/tenants/\(version.tenant)/functions/\(version.function)/invocations"
        let told = try JSONDecoder().decode(NodeReply.self, from: Data(try await client.bytes(.get, NodePath.version)))
        Console.note(
            "\(function) answers POST \(escaped((told.http.map { "http://\($0)" } ?? "") + target)), or: bulkhead invoke \(function)")
        Console.note("\(escaped(path)) is watched; Ctrl-C ends that.")
    }
}
