// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation
import Glibc
import NIOCore
import NIOPosix

struct Bucket: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "List, create and delete buckets.",
        discussion: """
            A bucket is a folder of objects that workers with a grant see at /buckets/NAME.

              bulkhead bucket create acme/photos
              bulkhead bucket list --tenant acme
            """, subcommands: [BucketList.self, BucketCreate.self, BucketDelete.self])
}

struct BucketList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "List a tenant's buckets.")

    @OptionGroup var node: NodeOptions
    @Option(name: .shortAndLong, help: "The tenant.")
    var tenant: String

    static let columns: [ListColumn] = [
        .text("BUCKET", "bucket"), .count("OBJECTS", "objects"), .bytes("SIZE", "bytes"), .bytes("TENANT", "tenantBytes"),
        .bytes("QUOTA", "tenantLimitBytes"),
    ]

    func run() async throws {
        let tenant = try FunctionReference.tenant(tenant)
        try await NodeClient.with(node) { client in
            try Listing.show(try await client.bytes(.get, NodePath.buckets(tenant)), json: node.json, Self.columns)
        }
    }
}

struct BucketCreate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Create a bucket.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("Its name.", valueName: "tenant/bucket"))
    var bucket: String

    func run() async throws {
        let bucket = try ObjectReference.bucket(bucket)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(.put, NodePath.bucket(bucket))
            if node.json { Console.json(bytes) } else { Console.out("Created \(bucket)\n") }
        }
    }
}

struct BucketDelete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Delete a bucket that is empty, or with all that is in it.",
        discussion: "\n  bulkhead bucket delete acme/photos --force")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("Its name.", valueName: "tenant/bucket"))
    var bucket: String
    @Flag(help: "Delete what is in it, too. There is no way back.")
    var force = false

    func run() async throws {
        let bucket = try ObjectReference.bucket(bucket)
        try await NodeClient.with(node) { client in
            _ = try await client.bytes(.delete, NodePath.bucket(bucket) + (force ? "?force=true" : ""), deadline: .now() + .seconds(600))
            Console.outcome("deleted", "\(bucket)", "Deleted \(bucket)", json: node.json)
        }
    }
}

struct Object: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Put, get, list and delete the objects of a bucket.",
        discussion: """
            \n  bulkhead object put acme/photos/in/a.jpg a.jpg
              bulkhead object get acme/photos/in/a.jpg > a.jpg
              bulkhead object list acme/photos/in/
            """, subcommands: [ObjectPut.self, ObjectGet.self, ObjectList.self, ObjectDelete.self])
}

struct ObjectPut: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "put", abstract: "Store a file, or standard input, as an object.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The object.", valueName: "tenant/bucket/key"))
    var object: String
    @Argument(help: ArgumentHelp("What to store; - for standard input.", valueName: "file"))
    var file: String = "-"

    func run() async throws {
        let reference = try ObjectReference(parsing: object)
        let (body, length) = try Self.body(file)
        try await NodeClient.with(node) { client in
            let bytes = try await client.bytes(
                .put, NodePath.object(reference), body: .stream(body, length: length), deadline: nil)
            if node.json { Console.json(bytes) } else { Console.out(escaped("\(reference)") + "\n") }
        }
    }

    private static func body(_ file: String) throws(Failure) -> (AsyncThrowingStream<ByteBuffer, any Error>, HTTPClientRequest.Body.Length)
    {
        let path = file == "-" ? "/dev/stdin" : file
        let reader: FileReader
        do throws(FileError) { reader = try FileReader(path) } catch {
            throw .usage("The object cannot be read, \(error); name another file.")
        }
        var status = stat()
        let isFile = unsafe file != "-" && stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
        // Used by the stream alone, one part after the other.
        nonisolated(unsafe) let handed = reader
        let stream = AsyncThrowingStream<ByteBuffer, any Error> {
            // Reading blocks, so it has a thread of its own; one part at a time.
            try await NIOThreadPool.singleton.runIfActive { unsafe try handed.read() }.map { ByteBuffer(bytes: $0) }
        }
        return (stream, isFile ? .known(Int64(status.st_size)) : .unknown)
    }
}

struct ObjectGet: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Write an object to standard output, or to a file that appears when it is whole.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The object.", valueName: "tenant/bucket/key"))
    var object: String
    @Argument(help: ArgumentHelp("Where to; - for standard output.", valueName: "file"))
    var file: String = "-"

    private struct Got: Encodable {
        var object: String
        var file: String
        var bytes: Int
    }

    func run() async throws {
        let reference = try ObjectReference(parsing: object)
        try await NodeClient.with(node) { client in
            let answer = try await client.send(.get, NodePath.object(reference), deadline: nil)
            guard answer.isSuccess else { throw NodeClient.failure(status: answer.status, body: try await client.collect(answer)) }
            let target = file == "-" ? nil : try Target(file)
            var bytes = 0
            do {
                for try await part in answer.body {
                    bytes += part.readableBytes
                    if let target { try target.write(part) } else { Console.out(bytes: part.readableBytesView) }
                }
                try target?.finish()
            } catch {
                target?.discard()
                throw client.explain(error)
            }
            // On standard output there is the object and nothing else.
            if node.json, target != nil { try Console.value(Got(object: "\(reference)", file: absolute(file), bytes: bytes)) }
        }
    }

    /// A file under another name until it is whole.
    private struct Target {
        let path: String
        let descriptor: Int32
        private var partial: String { path + ".part" }

        init(_ path: String) throws(Failure) {
            self.path = path
            descriptor = unsafe open(path + ".part", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o666)
            guard descriptor >= 0 else { throw Self.failure(path) }
        }

        func write(_ part: ByteBuffer) throws(Failure) {
            var rest = Array(part.readableBytesView)[...]
            while !rest.isEmpty {
                let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
                guard count > 0 else { throw Self.failure(path) }
                rest = rest.dropFirst(count)
            }
        }

        func finish() throws(Failure) {
            close(descriptor)
            guard unsafe rename(partial, path) == 0 else { throw Self.failure(path) }
        }

        func discard() {
            close(descriptor)
            unsafe unlink(partial)
        }

        private static func failure(_ path: String) -> Failure {
            .usage("'\(escaped(path))' cannot be written: \(unsafe String(cString: strerror(errno))); name another file.")
        }
    }
}

struct ObjectList: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the objects of a bucket.",
        discussion: """
            All of them, or those whose keys begin with what stands behind the bucket; sorted up to 100,000, and beyond in the order \
            of the folders. With --json one object a line.

              bulkhead object list acme/photos/in/
            """)

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The bucket; a prefix of keys may follow.", valueName: "tenant/bucket[/prefix]"))
    var bucket: String

    static let columns: [ListColumn] = [.text("KEY", "key"), .bytes("SIZE", "size"), .age("MODIFIED", "modifiedAt")]

    func run() async throws {
        let (bucket, prefix) = try ObjectReference.prefix(bucket)
        try await NodeClient.with(node) { client in
            var kept: [ObjectReply] = [], after: String?
            repeat {
                let bytes = try await client.bytes(.get, NodePath.objects(bucket, prefix: prefix, after: after))
                let page = try JSONDecoder().decode(ObjectPage.self, from: Data(bytes))
                kept += page.objects
                after = page.next
                if after == nil || kept.count >= 100_000 {
                    try show(kept.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) })
                    kept = []
                }
            } while after != nil
        }
    }

    private func show(_ objects: [ObjectReply]) throws {
        if node.json {
            for object in objects { try Console.value(object) }
        } else {
            Console.out(Listing.table(try JSONValue(parsing: [UInt8](try JSONEncoder().encode(objects))).elements, Self.columns))
        }
    }
}

struct ObjectDelete: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "delete", abstract: "Delete an object.")

    @OptionGroup var node: NodeOptions
    @Argument(help: ArgumentHelp("The object.", valueName: "tenant/bucket/key"))
    var object: String

    func run() async throws {
        let reference = try ObjectReference(parsing: object)
        try await NodeClient.with(node) { client in
            _ = try await client.bytes(.delete, NodePath.object(reference))
            Console.outcome("deleted", "\(reference)", escaped("Deleted \(reference)"), json: node.json)
        }
    }
}
