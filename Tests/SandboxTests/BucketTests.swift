// SPDX-License-Identifier: Apache-2.0
import Foundation
import SandboxKit
import Testing

/// Buckets of two tenants beside the driver's code, all of one owner, as the daemon keeps them.
enum BucketFolder {
    static let owner = 699_990
    static let root = Driver.code + ".buckets"

    static func make() throws {
        let files = FileManager.default
        try? files.removeItem(atPath: root)
        for folder in ["acme/read", "acme/write", "acme/part/out", "acme/hidden", "globex/secret"] {
            try files.createDirectory(atPath: root + "/" + folder, withIntermediateDirectories: true)
        }
        for object in [
            "acme/read/object", "acme/write/object", "acme/part/object", "acme/part/out/object", "acme/hidden/object",
            "globex/secret/object",
        ] {
            try Data("text".utf8).write(to: URL(fileURLWithPath: root + "/" + object))
            try files.setAttributes([.posixPermissions: 0o600], ofItemAtPath: root + "/" + object)
        }
        try files.createDirectory(
            atPath: Driver.code + ".layers/one", withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
        try files.copyItem(atPath: Driver.code + "/program", toPath: root + "/acme/write/program")
        for (name, text) in [("to-passwd", "/etc/passwd"), ("to-globex", "../../globex/secret"), ("to-hidden", "../hidden")] {
            try files.createSymbolicLink(atPath: root + "/acme/write/" + name, withDestinationPath: text)
        }
        try files.createSymbolicLink(atPath: root + "/acme/link", withDestinationPath: "../globex/secret")
        try files.createSymbolicLink(atPath: root + "/acme/part/link", withDestinationPath: "out")
        _ = try Driver.run("/usr/bin/chown", ["-hR", "\(owner):\(owner)", root])
        _ = try Driver.run("/usr/bin/chmod", ["-R", "go=", root])
        _ = try Driver.run("/usr/bin/chmod", ["755", root])
    }
}

/// In the suite whose order they share: they use one folder.
extension SandboxTests {
    @Suite(.serialized) struct BucketTests {
        private static let grants = "read,write+,part+out/"

        /// What the program says of each case.
        private func answers(_ words: String...) throws -> [String: String] {
            let text = try Driver.run(Driver.driver(), Driver.arguments(words))
            var answers: [String: String] = ["all": text]
            for line in text.split(separator: "\n") {
                guard let sign = line.lastIndex(of: "=") else { continue }
                let name = line[..<sign].replacing(#/^stage 0: .*ended: exited with code [0-9]+ +/#, with: "")
                answers[String(name)] = String(line[line.index(after: sign)...])
            }
            return answers
        }

        @Test(
            "what a hostile worker tries in buckets fails, started at once and from a sealed sandbox",
            arguments: ["buckets", "sealed-buckets"])
        func attack(_ mode: String) throws {
            try BucketFolder.make()
            let answers = try answers(mode, "790101", Self.grants, "./bucket", "attack")
            let (readOnly, otherMount, absent, loop, refused) = ("\(EROFS)", "\(EXDEV)", "\(ENOENT)", "\(ELOOP)", "\(EACCES)")
            let expected = [
                "read only: create": readOnly, "read only: write": readOnly, "read only: unlink": readOnly, "read only: rename": readOnly,
                "read only: mkdir": readOnly, "read only: chmod": readOnly, "read only: touch": readOnly,
                "prefix: create outside": readOnly,
                "prefix: create outside by ..": readOnly, "prefix: rename out": otherMount, "prefix: rename it": readOnly,
                "folder: mkdir": readOnly, "folder: rmdir": readOnly, "other tenant: by name": absent, "other tenant: by ..": absent,
                "other tenant: by ../..": absent, "not granted": absent, "planted link to a file": loop,
                "planted link to another tenant": loop,
                "planted link to a bucket": loop, "make a link": refused, "make a pipe": refused, "make a socket": refused,
                "make a device": "\(EPERM)", "hard link from the code": otherMount, "hard link from a bucket that is read": otherMount,
                "hard link from /tmp": otherMount, "hard link to /tmp": otherMount, "rename to another bucket": otherMount,
                "execute": refused,
                "map as code": "\(EPERM)", "set-id by chmod": "\(ENOSYS)", "give away": "\(EINVAL)", "give to nobody": "\(EINVAL)",
            ]
            for (name, wanted) in expected {
                #expect(answers[name] == wanted, "\(name): \(answers[name] ?? "nothing") instead of \(wanted)")
            }
            #expect(answers.count > expected.count, "\(answers["all"] ?? "")")
        }

        @Test("plain file work in buckets succeeds, started at once and from a sealed sandbox", arguments: ["buckets", "sealed-buckets"])
        func work(_ mode: String) throws {
            try BucketFolder.make()
            let answers = try answers(mode, "790102", Self.grants, "./bucket", "work")
            #expect(answers["count"] == "3" && answers.count > 25, "\(answers["all"] ?? "")")
            for (name, answer) in answers where !["all", "count", "no right is left"].contains(name) {
                #expect(answer == "0", "\(name): \(answer)")
            }
            #expect(answers["no right is left"] == "\(EACCES)")
        }

        @Test("what one worker wrote is on the disk the owner's, and the next worker's to read, replace and remove, and the daemon's")
        func shared() throws {
            try BucketFolder.make()
            let path = BucketFolder.root + "/acme/write/made"
            func asDaemon(_ words: String...) throws -> String {
                let id = "\(BucketFolder.owner)"
                return try Driver.run(
                    "/usr/bin/setpriv", ["--reuid", id, "--regid", id, "--clear-groups", "--bounding-set=-all", "--"] + words)
            }
            #expect(try answers("buckets", "790103", "write+", "./bucket", "write", "/buckets/write/made", "first")["write"] == "0")
            let attributes = try FileManager.default.attributesOfItem(atPath: path)
            #expect(
                attributes[.ownerAccountID] as? Int == BucketFolder.owner && attributes[.groupOwnerAccountID] as? Int == BucketFolder.owner)
            #expect(attributes[.posixPermissions] as? Int == 0o600)
            #expect(try asDaemon("/usr/bin/cat", path) == "first")
            let read = try answers("sealed-buckets", "790104", "write", "./bucket", "read", "/buckets/write/made")
            #expect(read["text"] == "first", "\(read)")
            #expect(try answers("buckets", "790105", "write+", "./bucket", "write", "/buckets/write/made", "second")["write"] == "0")
            #expect(try asDaemon("/usr/bin/cat", path) == "second")
            #expect(try answers("sealed-buckets", "790106", "write+", "./bucket", "remove", "/buckets/write/made")["remove"] == "0")
            #expect(!FileManager.default.fileExists(atPath: path))
            #expect(try answers("buckets", "790107", "write+", "./bucket", "write", "/buckets/write/made", "third")["write"] == "0")
            _ = try asDaemon("/usr/bin/rm", path)
            #expect(!FileManager.default.fileExists(atPath: path))
        }

        @Test(
            "a bucket that is not there, leads elsewhere or is not the daemon's ends the start with the stage and the name",
            arguments: [
                ("nothing", "nothing: No such file"), ("link", "link: Too many levels"), ("part+none/", "part/none: No such file"),
                ("part+link/", "part/link: Too many levels"), ("foreign", "foreign: Operation not permitted"),
                ("read,nothing", "nothing: No such file"),
            ])
        func refused(_ grants: String, _ reason: String) throws {
            try BucketFolder.make()
            try FileManager.default.createDirectory(atPath: BucketFolder.root + "/acme/foreign", withIntermediateDirectories: true)
            for mode in ["buckets", "sealed-buckets"] {
                let text = try answers(mode, "790108", grants, "./bucket", "work")["all"] ?? ""
                #expect(text.contains("refused at 61"), "\(text)")
                #expect(!text.contains("exited with code"), "\(text)")
                if mode == "buckets" { #expect(text.contains("stage 61 (open the bucket) \(reason)"), "\(text)") }
            }
        }

        @Test("a file system that cannot map ids ends the start: no worker sees a bucket with other ids")
        func unmappable() throws {
            try BucketFolder.make()
            let path = BucketFolder.root + "/acme/plain"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            _ = try Driver.run("/usr/bin/mount", ["-t", "ramfs", "ramfs", path])
            defer { _ = try? Driver.run("/usr/bin/umount", [path]) }
            _ = try Driver.run("/usr/bin/chown", ["\(BucketFolder.owner)", path])
            let text = try answers("buckets", "790109", "plain+", "./bucket", "work")["all"] ?? ""
            #expect(text.contains("stage 62 (map the bucket's owner to the worker) plain: Invalid argument"), "\(text)")
        }

        @Test("the posture of a worker has its buckets and nothing else")
        func posture() throws {
            try BucketFolder.make()
            let lines = try Driver.run(Driver.driver(), Driver.arguments(["posture", "790110", Self.grants, "./bucket", "wait"])).split(
                separator: "\n")
            #expect(lines.contains { $0.hasSuffix("true holes: ") && !$0.hasPrefix("without") }, "\(lines)")
            #expect(
                lines.contains {
                    $0 == "without true holes: main: buckets is /buckets/part ro, /buckets/part/out rw, /buckets/read ro, /buckets/write rw"
                }, "\(lines)")
        }
    }
}
