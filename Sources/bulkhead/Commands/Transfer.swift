// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation
import Glibc
import NIOCore

struct Export: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write one tenant to one file while the node runs.",
        discussion: """
            A tar archive with a manifest of sizes and SHA-256 checksums: the tenant's file, its functions with every kept version and \
            its code, aliases with their history, and keys as hashes; with --with-buckets also the objects of its buckets. Its secrets \
            are in it only with --with-secrets. Never in it: events and dead letters, use, logs and the audit log, which stay with the \
            node. The file belongs to root alone (mode 0600). Needs root.

              bulkhead export acme -o acme.tar
              bulkhead export acme -o acme.tar --with-buckets --with-secrets
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The tenant.")
    var tenant: String
    @Option(name: .shortAndLong, help: ArgumentHelp("The file to write.", valueName: "file"))
    var output: String
    @Flag(help: "Also the values of the tenant's secrets, in plain text.")
    var withSecrets = false
    @Flag(help: "Also the objects of its buckets.")
    var withBuckets = false

    private struct Made: Encodable {
        var file: String
        var tenant: String
        var bytes: UInt64
        var secretsLeftOut: [String]
    }

    func run() async throws {
        try Transfer.needRoot("export")
        let name = try FunctionReference.tenant(tenant)
        let paths = NodePaths.current()
        let tar = paths.onPath("tar", isExecutable: isExecutableFile)
        let archive = try BackupArchive(tar: tar)
        let file = absolute(output)
        guard !fileExists(file) else { throw Failure.failed("export", "\(escaped(file)) exists already; name another file, or remove it.") }
        let state = absolute(paths.state(node.state) ?? NodePaths.systemState)
        try await NodeClient.with(node) { client in
            let folder = try await client.configurationFolder(node)
            let request = try NodePath.body(ExportRequest(tenant: name.text, buckets: withBuckets))
            let bytes = try await client.bytes(
                .post, "/v1/exports", headers: [("Content-Type", "application/json")], body: .bytes(request), deadline: .now() + .hours(6))
            let made = try JSONDecoder().decode(ExportReply.self, from: Data(bytes))
            guard made.id.count == 16, made.id.allSatisfy(\.isHexDigit) else {
                throw Failure.failed("internal", "The node named its copy in a way that is not understood; install both of one release.")
            }
            let result: Result<(UInt64, [String]), any Error>
            do {
                let top = try Directory.open("\(state)/data/snapshots/\(made.id)")
                let leftOut = try fill(top, name, folder, tar ?? "tar")
                let size = try archive.pack(
                    top.path, release: made.release, schemas: [TenantArchive.schemaName: ExportRequest.schema],
                    createdAt: TimeArgument.milliseconds(Date()), to: file)
                // Root's: the node could not remove it.
                try top.remove("secrets")
                result = .success((size, leftOut))
            } catch { result = .failure(error) }
            _ = try? await client.bytes(.delete, "/v1/snapshots/\(made.id)")
            let (size, leftOut) = try result.get()
            guard !node.json else { return try Console.value(Made(file: file, tenant: name.text, bytes: size, secretsLeftOut: leftOut)) }
            Console.out("\(escaped(file)): \(Units.bytes(size))\n")
            if !leftOut.isEmpty {
                Console.note("left out are the secrets \(escaped(leftOut.joined(separator: ", "))); bulkhead import asks for them.")
            }
        }
    }

    /// Adds to the node's copy what only root can: the tenant's file, its secrets, and each tree of code as one file.
    ///
    /// - Returns: the names of secrets that are left out.
    private func fill(_ top: Directory, _ tenant: Name, _ folder: ConfigurationFolder, _ tar: String) throws -> [String] {
        let path = "\(folder.path)/tenants.d/\(tenant).yaml"
        let bytes = fileExists(path) ? try Directory.followingRead(path, limit: 1 << 20) : Array("tenant: \(tenant)\n".utf8)
        var file = try TenantFile(bytes, file: path)
        var leftOut: [String] = []
        for (name, value) in file.secrets.sorted(by: { $0.key < $1.key }) {
            if !withSecrets {
                try file.setSecret(name, nil)
                leftOut.append(name)
            } else if value.hasPrefix("file:") {
                let secret = try Directory.followingRead(folder.path + "/" + value.dropFirst(5), limit: 1 << 20)
                try top.directory("secrets", creatingWithMode: 0o700).replace(
                    name, with: secret, owner: geteuid(), group: getegid(), mode: 0o600)
            }
        }
        let about = TenantArchiveAbout(tenant: tenant.text, secretsLeftOut: leftOut, hasBuckets: withBuckets)
        for (name, content) in [("quota.yaml", file.bytes), ("about.json", Array(try JSONEncoder().encode(about)))] {
            try top.replace(name, with: content, owner: geteuid(), group: getegid(), mode: 0o600)
        }
        let code = try top.directory("code")
        for hash in try code.names() {
            let tree = try code.directory(hash)
            let child = try ChildProgram(
                [
                    tar, "--create", "--file=\(code.path)/\(hash).tar", "--format=pax", "--pax-option=delete=atime,delete=ctime",
                    "--sort=name", "--owner=root:0", "--group=root:0", "--numeric-owner", "--no-acls", "--no-selinux", "--no-xattrs",
                    "--hard-dereference", "--directory=\(tree.path)", "--", ".",
                ], environment: ["LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            while try child.read() != nil {}
            guard child.wait() == 0 else {
                throw Failure.failed("export", "The code cannot be packed (tar's words are above); see that the state's disk has room.")
            }
            try code.remove(hash)
        }
        return leftOut
    }
}

struct Import: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Take a tenant in that bulkhead export wrote.",
        discussion: """
            All of it or nothing: every file is compared with the archive's manifest, all code is unpacked in a sandbox and compared with \
            its hash, and the tenant shows only when all of it is there and the node has taken its file. A name that is in use, an archive \
            that is damaged, cut off, hostile or of a newer release, a runtime that this node lacks and a disk without room are refused. \
            Secrets that the archive leaves out must be given. Keys go on working; one that another tenant of this node has stays with that \
            one. Objects in buckets start no triggers. Needs root.

              bulkhead import acme.tar
              bulkhead import acme.tar --as acme-copy --secret API_TOKEN=@token.txt
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: "The archive.")
    var file: String
    @Option(name: .customLong("as"), help: ArgumentHelp("The tenant's name here (default: as it was).", valueName: "name"))
    var newName: String?
    @Option(help: ArgumentHelp("A secret that the archive leaves out; may be repeated.", valueName: "NAME=@FILE"))
    var secret: [String] = []

    func run() async throws {
        try Transfer.needRoot("import")
        let given = try Transfer.secrets(secret)
        let state = absolute(NodePaths.current().state(node.state) ?? NodePaths.systemState)
        let top: Directory
        do { top = try Directory.open(state) } catch {
            throw Failure.usage("There is no state in \(escaped(state)); name the node's with --state DIR.")
        }
        let id = String(format: "%016lx", UInt64.random(in: 0...UInt64.max))
        let staging = ".importing-\(id)"
        defer { try? top.remove(staging) }
        try await NodeClient.with(node) { client in
            let outer = try top.directory(staging, creatingWithMode: 0o700)
            let parts = try outer.directory(id, creatingWithMode: 0o700)
            let about = try TenantArchive.unpack(absolute(file), into: parts, schema: ExportRequest.schema)
            let tenant = try FunctionReference.tenant(newName ?? about.tenant)
            let folder = try await client.configurationFolder(node)
            let lock = try folder.lock()
            guard try await !client.tenants().contains(tenant) else {
                throw Failure(
                    status: .usage, code: "exists",
                    sentence: "There is a tenant \(tenant) already; import it under another name with --as. Nothing was imported.")
            }
            let addition = try Self.addition(parts, about, tenant, folder, given)
            // From here on all must be done or undone, so Ctrl-C has to wait.
            Interrupts.ignore()
            let reply = try await Self.take(client, top, outer, id, tenant, addition)
            withExtendedLifetime(lock) {}
            try Self.show(reply, json: node.json)
        }
    }

    /// The tenant's file under its new name, with its secrets in files of their own.
    private static func addition(
        _ parts: Directory, _ about: TenantArchiveAbout, _ tenant: Name, _ folder: ConfigurationFolder, _ given: [String: [UInt8]]
    ) throws -> TenantAddition {
        var file = try TenantFile(try parts.read("quota.yaml", limit: 1 << 20), file: "quota.yaml")
        try file.setTenant(tenant)
        var secrets: [String: [UInt8]] = [:]
        for name in about.secretsLeftOut {
            guard let value = given[name] else {
                throw Failure.usage(
                    "The archive leaves out \(escaped(about.secretsLeftOut.joined(separator: ", "))); give each with --secret NAME=@FILE. "
                        + "Nothing was imported.")
            }
            secrets[name] = value
        }
        for name in given.keys.sorted() where secrets[name] == nil {
            throw Failure.usage("The archive does not leave out the secret \(escaped(name)). Nothing was imported.")
        }
        for (name, value) in file.secrets where value.hasPrefix("file:") {
            secrets[name] = try parts.directory("secrets").read(name, limit: 1 << 20)
        }
        for name in secrets.keys { try file.setSecret(name, "file:secrets/" + TenantAddition.secretFile(tenant, name)) }
        let named = Dictionary(uniqueKeysWithValues: secrets.map { (TenantAddition.secretFile(tenant, $0.key), $0.value) })
        return try TenantAddition(folder, tenant: tenant, file: file.bytes, secrets: named)
    }

    /// Hands the parts to the node, then the tenant's file; takes both back where the node refuses either.
    private static func take(
        _ client: NodeClient, _ top: Directory, _ outer: Directory, _ id: String, _ tenant: Name, _ addition: TenantAddition
    ) async throws -> [UInt8] {
        let data = try top.directory("data")
        let owner = try data.status()
        let imports = try data.directory("imports", creatingWithMode: 0o700)
        try imports.own(owner?.owner ?? 0, owner?.group ?? 0, mode: 0o700)
        let parts = try outer.directory(id)
        for name in ["quota.yaml", "about.json", "secrets"] { try parts.remove(name) }
        try parts.give(to: owner?.owner ?? 0, owner?.group ?? 0)
        try outer.move(id, to: imports)
        defer { try? imports.remove(id) }
        let request = try NodePath.body(ImportRequest(id: id, tenant: tenant.text))
        let reply = try await client.bytes(
            .post, "/v1/imports", headers: [("Content-Type", "application/json")], body: .bytes(request), deadline: .now() + .hours(1))
        do {
            try addition.make(daemonGID: owner?.group ?? 0)
            do { _ = try await client.reload(dryRun: false) } catch {
                try addition.putBack()
                throw error
            }
            try addition.keep()
        } catch {
            _ = try? await client.bytes(.delete, "/v1/imports/\(tenant)")
            guard var failure = error as? Failure else { throw error }
            failure.sentence = "Nothing was imported: \(failure.sentence)"
            throw failure
        }
        return reply
    }

    private static func show(_ reply: [UInt8], json: Bool) throws {
        guard !json else { return Console.json(reply) }
        let made = try JSONDecoder().decode(ImportReply.self, from: Data(reply))
        Console.out("Imported \(escaped(made.tenant)): \(made.functions) functions, \(made.versions) versions, \(made.keys) keys\n")
        if made.keysLeftOut > 0 {
            Console.note(
                "\(made.keysLeftOut) keys belong to another tenant of this node and stay with it; make new ones with: bulkhead keys create "
                    + "--tenant \(escaped(made.tenant))")
        }
    }
}

enum Transfer {
    static func needRoot(_ command: String) throws(Failure) {
        guard geteuid() == 0 else {
            throw .failed("notRoot", "bulkhead \(command) needs root, because it reads and writes the node's state; use sudo.")
        }
    }

    /// Reads `NAME=@FILE`; one newline at the end is the editor's.
    static func secrets(_ words: [String]) throws(Failure) -> [String: [UInt8]] {
        var found: [String: [UInt8]] = [:]
        for word in words {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, parts[1].hasPrefix("@"), !parts[0].isEmpty,
                parts[0].utf8.allSatisfy({ (48...57).contains($0) || (65...90).contains($0 & 0xDF) || $0 == 0x5F })
            else { throw .usage("--secret '\(escaped(word))' is not NAME=@FILE.") }
            let name = String(parts[0])
            var bytes: [UInt8]
            do throws(FileError) { bytes = try Directory.followingRead(String(parts[1].dropFirst()), limit: 1 << 20) } catch {
                throw .usage("--secret \(escaped(word)) cannot be read, \(error).")
            }
            if bytes.last == 0x0A { bytes.removeLast() }
            guard !bytes.isEmpty else { throw .usage("--secret \(escaped(word)): the file is empty.") }
            guard found.updateValue(bytes, forKey: name) == nil else {
                throw .usage("--secret \(escaped(name)) is given twice; give it once.")
            }
        }
        return found
    }
}
