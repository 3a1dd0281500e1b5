// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation
import NIOCore

struct Deploy: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a new version of a function from a folder or an archive.",
        discussion: """
            The folder holds function.yaml and the code; .git is left out. Prints TENANT/FUNCTION@VERSION. What is \
            taken and hardly meant (a function named that is not there, a glob where none is read, more processors than there are) is \
            a warning on standard error.

              bulkhead deploy ./thumbnail --tenant acme
              bulkhead deploy thumbnail-1.2.tar.gz --tenant acme

            \(CommandStatus.help)
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The function's folder, or a .tar, .tar.gz, .tgz or .zip file.", valueName: "folder"))
    var folder: String
    @Option(name: .shortAndLong, help: "The tenant that owns the function.")
    var tenant: String

    func run() async throws {
        let tenant = try FunctionReference.tenant(tenant)
        let bytes = try await NodeClient.with(node) { client in try await Self.send(folder, tenant, client) }
        if node.json {
            Console.json(bytes)
        } else {
            let version = try JSONDecoder().decode(VersionReply.self, from: Data(bytes))
            Self.warn(version)
            Console.out(escaped("\(version.tenant)/\(version.function)@\(version.version)") + "\n")
        }
    }

    /// What the node takes and thinks hardly meant.
    static func warn(_ version: VersionReply) {
        for sentence in version.warnings ?? [] { Console.note("warning: " + escaped(sentence) + ".") }
    }

    /// Makes a version of a folder or an archive; the node's answer.
    static func send(_ folder: String, _ tenant: Name, _ client: NodeClient) async throws -> [UInt8] {
        let archive = try CodeArchive.examine(folder)
        let source = try ArchiveReader(archive, tar: NodePaths.current().onPath("tar", isExecutable: isExecutableFile))
        defer { source.clear() }
        do {
            return try await client.bytes(
                .put, NodePath.deployments(tenant), headers: [("Content-Type", source.contentType)],
                body: .stream(source.stream(), length: source.length), deadline: .now() + .seconds(patience))
        } catch {
            // A folder that could not be read explains a request that broke off; the connection's own words do not.
            source.clear()
            throw source.failure ?? error
        }
    }

    /// Unpacking and storing the largest archive takes far less. Seconds.
    private static let patience: Int64 = 600
}
