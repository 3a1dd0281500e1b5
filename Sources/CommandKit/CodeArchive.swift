// SPDX-License-Identifier: Apache-2.0

/// What `deploy` sends: a folder as a tar stream, or an archive file as it is.
public enum CodeArchive: Hashable, Sendable {
    /// `bytes` is the sum of the files' sizes, without what is left out.
    case folder(path: String, bytes: UInt64, files: Int)
    case file(path: String, bytes: UInt64, contentType: String)

    /// The most that is sent: the node refuses more, so it is said before anything is sent. Bytes.
    public static let limit: UInt64 = 256 << 20
    /// Names that are never sent, at any depth.
    public static let excluded: Set<String> = [".git"]

    /// Looks at what the user named.
    ///
    /// - Throws: ``Failure`` of kind usage: nothing there, no `function.yaml`, too large, no archive.
    public static func examine(_ path: String) throws(Failure) -> CodeArchive {
        let shown = escaped(path)
        do {
            let full = try canonical(path)
            let parent = try Directory.open(NodePaths.parent(of: full))
            let name = full.split(separator: "/").last.map(String.init)
            switch try parent.status(name)?.kind {
            case .directory:
                let folder = try Directory.open(full)
                guard try folder.status("function.yaml") != nil else {
                    throw Failure.usage(
                        "\(shown) has no function.yaml; make one (bulkhead init --template python3 shows how), "
                            + "or name the function's folder."
                    )
                }
                var count = Count()
                try count.add(folder)
                return .folder(path: full, bytes: count.bytes, files: count.files)
            case .file:
                let bytes = try parent.status(name)?.size ?? 0
                guard bytes <= limit else { throw tooLarge(shown) }
                guard let type = contentType(full) else {
                    throw Failure.usage(
                        "\(shown) is neither a folder nor an archive by its name; name a folder, or a .tar, .tar.gz, .tgz or .zip file.")
                }
                return .file(path: full, bytes: bytes, contentType: type)
            default: throw Failure.usage("\(shown) is neither a folder nor a file; name the function's folder.")
            }
        } catch let error as FileError {
            throw .usage("\(shown) cannot be read, \(error); name the function's folder.")
        } catch let error as Failure {
            throw error
        } catch {
            throw .usage("\(shown) cannot be read (\(error)); name the function's folder.")
        }
    }

    static func contentType(_ path: String) -> String? {
        let name = path.lowercased()
        if name.hasSuffix(".tar") { return "application/x-tar" }
        if name.hasSuffix(".tar.gz") || name.hasSuffix(".tgz") { return "application/gzip" }
        return name.hasSuffix(".zip") ? "application/zip" : nil
    }

    private static func tooLarge(_ shown: String) -> Failure {
        .usage(
            "\(shown) holds more than \(Units.bytes(limit)), the most that one version may hold; leave out what the function does not need."
        )
    }

    /// The command that writes a folder as a tar stream: the same folder gives the same bytes, whoever owns it.
    public static func tarArguments(program: String, folder: String) -> [String] {
        [
            program, "--create", "--file=-", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--sort=name", "--owner=root:0",
            "--group=root:0", "--numeric-owner", "--no-acls", "--no-selinux", "--no-xattrs",
        ]
            + excluded.sorted().map { "--exclude=\($0)" } + ["--directory=\(folder)", "--", "."]
    }

    private struct Count {
        var bytes: UInt64 = 0
        var files = 0

        mutating func add(_ folder: Directory) throws {
            for name in try folder.names() where !CodeArchive.excluded.contains(name) {
                guard let status = try folder.status(name) else { continue }
                files += 1
                switch status.kind {
                case .file: bytes += status.size
                case .directory: try add(try folder.directory(name))
                case .link: break
                case .other:
                    throw Failure.usage(
                        "\(escaped(folder.path))/\(escaped(name)) is a device, socket or pipe, "
                            + "which cannot be part of a function; remove it."
                    )
                }
                guard bytes <= CodeArchive.limit else { throw CodeArchive.tooLarge(escaped(folder.path)) }
            }
        }
    }
}
