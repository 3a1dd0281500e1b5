// SPDX-License-Identifier: Apache-2.0
public import Core
import Crypto
import Foundation
import Glibc
public import Kernel

/// Bounds of one deploy.
public struct IntakeLimits: Hashable, Sendable {
    public var entries = 20_000
    public var bytes: UInt64 = 256 << 20
    public var depth = 64
    /// Unpacked bytes for each byte that was sent, beyond the first 10 MiB.
    public var ratio: UInt64 = 200
    public init() {}
}

/// A deploy that was refused; a sentence with the entry's name.
public struct IntakeError: Error, Hashable, Sendable, CustomStringConvertible {
    public let description: String
    /// Whether the node could not keep it, and the archive is not to blame.
    public let isStorage: Bool
    public init(_ description: String, isStorage: Bool = false) {
        self.description = description
        self.isStorage = isStorage
    }
}

/// Reads a cpio stream (newc) and writes its files into a folder that nobody else knows, entry by entry, under bounds.
///
/// The stream comes from `bsdtar` in a sandbox and is as little trusted as the archive was. Files are created with O_EXCL and O_NOFOLLOW below directories that this
/// value made itself; links are only written last, so no entry can go through one. Format: cpio(5), "New ASCII format".
public final class CodeIntake {
    private enum Step { case header, name(Entry), body(Entry), link(Entry), done }
    private struct Entry {
        var mode: UInt32, links: UInt32, size: UInt64, nameSize: Int
        var path = ""
    }
    private struct Kept { var kind: String, mode: String, size: UInt64, digest: String }

    private let root: String
    private let limits: IntakeLimits
    private let inputBytes: UInt64
    private var buffer: [UInt8] = []
    private var step = Step.header
    private var kept: [String: Kept] = [:]
    private var links: [(path: String, target: String)] = []
    private var total: UInt64 = 0
    private var offset: UInt64 = 0
    private var file: Int32 = -1
    private var remaining: UInt64 = 0
    private var hash = SHA256()
    private let disk: FileSystemSync
    /// Open from before the first write: what fails from here on is told to it.
    private let folder: OwnedFD
    private let flushesTogether: Bool
    /// Entries up to which each file is flushed by itself: only then does nobody wait for what others have written. A flush is a write of its own, so many take minutes.
    static let fewEntries = 64

    /// `root` must not exist. `inputBytes` is the archive's size, for the ratio.
    public init(root: String, inputBytes: UInt64, limits: IntakeLimits = IntakeLimits(), disk: FileSystemSync = FileSystemSync()) throws {
        self.root = root
        self.limits = limits
        self.inputBytes = inputBytes
        self.disk = disk
        guard unsafe mkdir(root, 0o700) == 0 else {
            throw Self.failure()
        }
        let folder = unsafe open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw Self.failure() }
        self.folder = OwnedFD(folder)
        flushesTogether = disk.tells(folder)
    }

    private static func failure(_ number: Int32 = errno) -> IntakeError {
        IntakeError("the code cannot be stored: \(unsafe String(cString: strerror(number)))", isStorage: true)
    }

    /// What the disk or the process has no room for is no fault of the archive; a name too long for it is.
    private static func unstored(_ what: String, _ number: Int32 = errno) -> IntakeError {
        IntakeError(
            "\(what) cannot be stored: \(unsafe String(cString: strerror(number)))",
            isStorage: [ENOSPC, EDQUOT, EMFILE, ENFILE, EIO, EROFS, ENOMEM].contains(number))
    }

    deinit { if file >= 0 { close(file) } }

    /// Takes the next bytes of the stream.
    public func feed(_ bytes: ArraySlice<UInt8>) throws {
        buffer.append(contentsOf: bytes)
        while try advance() {}
    }

    /// After the stream's end: the tree's hash and size. All of it is on the disk.
    public func finish() throws -> (hash: String, bytes: UInt64) {
        guard case .done = step else { throw IntakeError("the archive ends too early") }
        guard !kept.isEmpty else { throw IntakeError("the archive is empty") }
        var manifest = SHA256()
        for (path, entry) in kept.sorted(by: { $0.key < $1.key }) {
            manifest.update(data: Data("\(entry.kind) \(entry.mode) \(entry.size) \(entry.digest) \(path.utf8.count) \(path)\n".utf8))
        }
        return (Self.hex(manifest.finalize()), total)
    }

    /// What was taken; whole after ``finish()``.
    public var listing: CodeListing {
        CodeListing(
            kept.mapValues { entry in
                switch entry.kind {
                case "d": .folder
                case "l": .link
                default: .file(isExecutable: entry.mode == "755")
                }
            })
    }

    /// The end of the stream: makes the links, and waits for the disk. Here, as whoever feeds may block.
    private func settle() throws {
        for link in links { try make(link.path, link.target) }
        guard fchmod(folder.rawValue, 0o755) == 0 else { throw Self.failure() }
        if flushesTogether, kept.count > Self.fewEntries {
            guard disk.all(folder.rawValue) == 0 else { throw Self.failure() }
        } else {
            for (path, entry) in kept where entry.kind == "d" {
                let file = unsafe open(root + "/" + path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                guard file >= 0 else { throw Self.failure() }
                let open = OwnedFD(file)
                guard disk.one(open.rawValue) == 0 else { throw Self.failure() }
            }
        }
        // Also after the file system's own: a journal that has ended is told to everybody here, and there since Linux 5.17 only.
        guard disk.one(folder.rawValue) == 0 else { throw Self.failure() }
    }

    private static func hex(_ digest: SHA256Digest) -> String { digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }

    // MARK: the stream

    private func advance() throws -> Bool {
        switch step {
        case .header:
            guard buffer.count >= 110 else { return false }
            guard buffer.starts(with: Array("070701".utf8)) || buffer.starts(with: Array("070702".utf8)) else {
                throw IntakeError("the unpacked stream is not a cpio archive")
            }
            func field(_ index: Int) throws -> UInt32 {
                let text = String(decoding: buffer[(6 + 8 * index)..<(14 + 8 * index)], as: UTF8.self)
                guard let value = UInt32(text, radix: 16) else { throw IntakeError("the unpacked stream has a broken header") }
                return value
            }
            let entry = Entry(mode: try field(1), links: try field(4), size: UInt64(try field(6)), nameSize: Int(try field(11)))
            guard entry.nameSize > 0, entry.nameSize <= 4097 else {
                throw IntakeError("a path of \(entry.nameSize) bytes is longer than 4096")
            }
            drop(110)
            step = .name(entry)
        case .name(var entry):
            let padded = entry.nameSize + padding(entry.nameSize)
            guard buffer.count >= padded else { return false }
            let name = Array(buffer[0..<(entry.nameSize - 1)])
            drop(padded)
            if name == Array("TRAILER!!!".utf8) {
                try settle()
                step = .done
                return true
            }
            entry.path = try checked(name)
            try begin(entry)
        case .body(let entry):
            let take = Int(min(remaining, UInt64(buffer.count)))
            if take > 0 {
                let part = Array(buffer[0..<take])
                let written = unsafe write(file, part, take)
                guard written == take else {
                    // A part of it was written: the disk is full, and says so only to the next write.
                    let reason = unsafe String(cString: strerror(written < 0 ? errno : ENOSPC))
                    throw IntakeError("the code cannot be stored: \(reason)", isStorage: true)
                }
                hash.update(data: Data(part))
                remaining -= UInt64(take)
                drop(take)
            }
            guard remaining == 0 else { return false }
            guard buffer.count >= padding(0) else { return false }
            drop(padding(0))
            try endFile(entry)
        case .link(let entry):
            let size = Int(entry.size) + padding(Int(entry.size))
            guard buffer.count >= size else { return false }
            let target = Array(buffer[0..<Int(entry.size)])
            drop(size)
            try remember(entry.path, target)
            step = .header
        case .done:
            buffer.removeAll()
            return false
        }
        return true
    }

    private func drop(_ count: Int) {
        buffer.removeFirst(count)
        offset += UInt64(count)
    }

    /// Names and bodies end at a multiple of four from the start of the stream.
    private func padding(_ size: Int) -> Int { Int((4 - (offset + UInt64(size)) % 4) % 4) }

    // MARK: entries

    private func checked(_ name: [UInt8]) throws -> String {
        let shown = escaped(name, limit: 200)
        guard let text = String(validating: name, as: UTF8.self) else { throw IntakeError("the path \(shown) is not UTF-8") }
        guard name.first != Self.slash else {
            throw IntakeError("the path \(shown) is absolute: paths must be relative to the function's folder")
        }
        let parts = Self.parts(text).filter { $0 != "." }
        guard !parts.contains("..") else { throw IntakeError("the path \(shown) leaves the function's folder (..)") }
        guard parts.count <= limits.depth else { throw IntakeError("the path \(shown) is deeper than \(limits.depth) folders") }
        guard parts.allSatisfy({ $0.utf8.count <= 255 && !$0.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) }) else {
            throw IntakeError("the path \(shown) has a part that is longer than 255 bytes or has control characters")
        }
        return parts.joined(separator: "/")
    }

    private static let slash: UInt8 = 0x2F

    /// The parts of a path as the kernel sees them. By bytes: to a Character, a slash with a combining mark behind it is no slash.
    private static func parts(_ path: String) -> [String] { path.utf8.split(separator: slash).map { String(Substring($0)) } }

    /// The folder that a path is in; nil at the top.
    private static func folder(_ path: String) -> String? {
        let parts = parts(path)
        return parts.count > 1 ? parts.dropLast().joined(separator: "/") : nil
    }

    private func begin(_ entry: Entry) throws {
        let shown = escaped(entry.path.utf8, limit: 200)
        guard kept.count + links.count < limits.entries else { throw IntakeError("the archive has more than \(limits.entries) entries") }
        let kind = entry.mode & 0o170000
        if !entry.path.isEmpty, kind != 0o040000 {
            guard kept[entry.path] == nil, !links.contains(where: { $0.path == entry.path }) else {
                throw IntakeError("\(shown) is in the archive twice")
            }
        }
        switch kind {
        case 0o040000:
            try makeDirectory(entry.path)
            guard entry.size == 0 else { throw IntakeError("the folder \(shown) has content") }
            step = .header
        case 0o100000:
            guard !entry.path.isEmpty else { throw IntakeError("a file has no name") }
            guard entry.links <= 1 || entry.size > 0 else {
                throw IntakeError("\(shown) is a hard link: store the file itself (tar --hard-dereference)")
            }
            total += entry.size
            guard total <= limits.bytes else { throw IntakeError("the archive holds more than \(limits.bytes >> 20) MiB") }
            guard total <= 10 << 20 || total / max(1, inputBytes) <= limits.ratio else {
                throw IntakeError("the archive unpacks to more than \(limits.ratio) times its size")
            }
            if let folder = Self.folder(entry.path) { try makeDirectory(folder) }
            file = unsafe open(root + "/" + entry.path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
            guard file >= 0 else { throw Self.unstored(shown) }
            remaining = entry.size
            hash = SHA256()
            step = .body(entry)
        case 0o120000:
            guard entry.size > 0, entry.size <= 4096 else { throw IntakeError("the link \(shown) has no usable target") }
            step = .link(entry)
        default:
            throw IntakeError(
                "\(shown) is neither a file, a folder nor a link (mode \(String(entry.mode, radix: 8))): devices, pipes and sockets are refused"
            )
        }
    }

    private func makeDirectory(_ path: String) throws {
        var built = ""
        for part in Self.parts(path) {
            built += built.isEmpty ? part : "/" + part
            if kept[built]?.kind == "d" { continue }
            let shown = escaped(built.utf8, limit: 200)
            guard kept[built] == nil, !links.contains(where: { $0.path == built }) else {
                throw IntakeError("\(shown) is both a file or link and a folder")
            }
            guard kept.count < limits.entries else { throw IntakeError("the archive has more than \(limits.entries) entries") }
            guard unsafe mkdir(root + "/" + built, 0o755) == 0 else { throw Self.unstored(shown) }
            unsafe chmod(root + "/" + built, 0o755)
            kept[built] = Kept(kind: "d", mode: "755", size: 0, digest: "")
        }
    }

    private func endFile(_ entry: Entry) throws {
        let isExecutable = entry.mode & 0o111 != 0
        // Set-id bits and everybody's write permission end here.
        let isFlushed = !flushesTogether || kept.count < Self.fewEntries
        guard fchmod(file, isExecutable ? 0o755 : 0o644) == 0, !isFlushed || disk.one(file) == 0, close(file) == 0 else {
            throw Self.failure()
        }
        file = -1
        kept[entry.path] = Kept(kind: "f", mode: isExecutable ? "755" : "644", size: entry.size, digest: Self.hex(hash.finalize()))
        step = .header
    }

    private func remember(_ path: String, _ target: [UInt8]) throws {
        let shown = escaped(path.utf8, limit: 200)
        guard let text = String(validating: target, as: UTF8.self), target.first != Self.slash, !target.contains(0) else {
            throw IntakeError("the link \(shown) points outside the function's folder (\(escaped(target, limit: 100)))")
        }
        var place = Self.parts(path).dropLast()
        for part in Self.parts(text) where part != "." {
            if part == ".." {
                guard place.popLast() != nil else {
                    throw IntakeError("the link \(shown) points outside the function's folder (\(escaped(target, limit: 100)))")
                }
            } else {
                place.append(part)
            }
        }
        if let folder = Self.folder(path) { try makeDirectory(folder) }
        guard kept[path] == nil else { throw IntakeError("\(shown) is in the archive twice") }
        links.append((path, text))
    }

    private func make(_ path: String, _ target: String) throws {
        guard unsafe symlink(target, root + "/" + path) == 0 else {
            throw Self.unstored("the link \(escaped(path.utf8, limit: 200))")
        }
        kept[path] = Kept(kind: "l", mode: "777", size: UInt64(target.utf8.count), digest: target)
    }
}

/// Trees of code by the hash of their content.
public struct CodeStore: Sendable {
    let directory: String
    let incoming: String

    /// Removes what an interrupted deploy left. Both directories exist already.
    public init(directory: String, incoming: String) throws(StoreError) {
        self.directory = directory
        self.incoming = incoming
        do {
            for name in try FileManager.default.contentsOfDirectory(atPath: incoming) {
                try FileManager.default.removeItem(atPath: incoming + "/" + name)
            }
        } catch { throw StoreError("\(incoming) cannot be cleaned: \(Phrase.open(error.localizedDescription))") }
    }

    /// A path for an upload or a tree that is not finished.
    public func newPath(_ suffix: String) -> String { "\(incoming)/\(UUID().uuidString.lowercased())\(suffix)" }

    /// Takes a finished tree in under its hash; one that is there already is kept.
    public func keep(_ path: String, hash: String) throws(StoreError) {
        let target = directory + "/" + hash
        if unsafe rename(path, target) != 0 {
            let reason = errno
            discard(path)
            guard reason == ENOTEMPTY || reason == EEXIST else {
                throw StoreError("the code cannot be stored: \(unsafe String(cString: strerror(reason)))")
            }
        }
        // Where its name is not on the disk a version would be left without its code.
        let folder = unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        defer { if folder >= 0 { close(folder) } }
        guard folder >= 0, fsync(folder) == 0 else {
            throw StoreError("the code cannot be stored: \(unsafe String(cString: strerror(errno)))")
        }
    }

    public func discard(_ path: String) { try? FileManager.default.removeItem(atPath: path) }

    /// A small file at the top of a finished tree, not followed if it is a link; nil where there is none or it is larger than `limit`.
    public func file(_ name: String, in path: String, limit: Int) -> [UInt8]? {
        let file = unsafe open(path + "/" + name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: limit + 1)
        let count = unsafe read(file, &bytes, limit + 1)
        return count >= 0 && count <= limit ? Array(bytes.prefix(count)) : nil
    }
}
