// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Glibc
import Kernel

/// Copies of what changes all the time, each consistent in itself, while it is in use.
public enum Snapshot {
    /// Copies a database as of one moment (SQLite's VACUUM INTO), with what is in its write-ahead log. Returns the schema's number.
    public static func database(_ path: String, to copy: String) throws(StoreError) -> Int {
        do {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(5)
            let source = try DatabaseQueue(path: path, configuration: configuration)
            defer { try? source.close() }
            try source.writeWithoutTransaction { try $0.execute(sql: "VACUUM INTO ?", arguments: [copy]) }
            let made = try DatabaseQueue(path: copy, configuration: configuration)
            defer { try? made.close() }
            return try made.read { database in
                guard try String.fetchOne(database, sql: "PRAGMA quick_check") == "ok" else {
                    throw StoreError("the copy of \(path) is damaged, and so is what it was copied from: stop the node and look at it")
                }
                return try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0
            }
        } catch let error as StoreError { throw error } catch {
            throw StoreError("\(path) cannot be copied: \(error). Check that the disk has room")
        }
    }

    /// Links a file, or a folder with all below it: costs no room, for what is never written again.
    public static func link(_ path: String, to other: String) throws(StoreError) {
        var info = stat()
        guard unsafe lstat(path, &info) == 0 else { throw failure("link", path) }
        guard info.st_mode & S_IFMT == S_IFDIR else {
            guard unsafe linkat(AT_FDCWD, path, AT_FDCWD, other, 0) == 0 || errno == EEXIST else { throw failure("link", path) }
            return
        }
        guard unsafe mkdir(other, 0o700) == 0 || errno == EEXIST else { throw failure("make", other) }
        for name in try names(path) { try link("\(path)/\(name)", to: "\(other)/\(name)") }
        guard unsafe chmod(other, info.st_mode & 0o7777) == 0 else { throw failure("make", other) }
    }

    /// Copies what is in a file, or in a folder with all below it, as it is now, for its owner alone; what is not there is left out.
    ///
    /// Modes and owners are not copied: the configuration of a service is root's, its folders set the group, and a service that may set no such bit
    /// (systemd's RestrictSUIDSGID=) would be refused.
    public static func copy(_ path: String, to other: String) throws(StoreError) {
        var info = stat()
        guard unsafe lstat(path, &info) == 0 else { return }
        if info.st_mode & S_IFMT == S_IFDIR {
            guard unsafe mkdir(other, 0o700) == 0 else { throw failure("make", other) }
            for name in try names(path) { try copy("\(path)/\(name)", to: "\(other)/\(name)") }
            return
        }
        do {
            guard info.st_mode & S_IFMT == S_IFREG else { return try FileManager.default.copyItem(atPath: path, toPath: other) }
            let content = try Data(contentsOf: URL(fileURLWithPath: path))
            let file = unsafe open(other, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            guard file >= 0 else { throw failure("make", other) }
            try FileHandle(fileDescriptor: file, closeOnDealloc: true).write(contentsOf: content)
        } catch let error as StoreError { throw error } catch {
            guard FileManager.default.fileExists(atPath: path) else { return }
            throw StoreError("\(path) cannot be copied: \(Phrase.open(error.localizedDescription)). Check that the disk has room")
        }
    }

    static func names(_ path: String) throws(StoreError) -> [String] {
        do { return try FileManager.default.contentsOfDirectory(atPath: path) } catch {
            throw StoreError("\(path) cannot be listed: \(Phrase.open(error.localizedDescription))")
        }
    }

    private static func failure(_ what: String, _ path: String) -> StoreError {
        StoreError("the state cannot be copied: \(KernelError("\(what) \(path)")). Check that the disk has room")
    }
}

extension StateStore {
    /// Copies the database and links the code of its versions into a folder. To be called where no deploy or sweep is under way.
    public func snapshot(of path: String, code: CodeStore, into folder: String) throws(StoreError) -> Int {
        let schema = try Snapshot.database(path, to: folder + "/bulkhead.sqlite")
        try code.link(try codeHashes().sorted(), to: folder + "/code")
        return schema
    }
}

extension CodeStore {
    /// Links some of the code into a new folder.
    public func link(_ hashes: [String], to folder: String) throws(StoreError) {
        guard unsafe mkdir(folder, 0o755) == 0 else { throw StoreError("\(folder) cannot be made: \(KernelError("mkdir"))") }
        for hash in hashes { try Snapshot.link(directory + "/" + hash, to: folder + "/" + hash) }
    }
}

extension EventStore {
    /// Copies the events and links their payloads into a folder that does not exist.
    public func snapshot(of directory: String, into folder: String) throws(StoreError) -> Int {
        for path in [folder, folder + "/payloads"] {
            guard unsafe mkdir(path, 0o700) == 0 else { throw StoreError("\(path) cannot be made: \(KernelError("mkdir"))") }
        }
        // A payload is on the disk before its row and goes after it: what the rows of the copy name was there before the copy or came meanwhile.
        linkPayloads(directory, folder)
        let schema = try Snapshot.database(directory + "/events.sqlite", to: folder + "/events.sqlite")
        linkPayloads(directory, folder)
        return schema
    }

    private func linkPayloads(_ directory: String, _ folder: String) {
        for name in (try? files.names()) ?? [] { try? Snapshot.link(files.path(name), to: "\(folder)/payloads/\(name)") }
    }
}

extension LogStore {
    /// Links the segments that are full and copies the one that is written, tenant by tenant, into a folder that does not exist. Each line that was stored is whole in it.
    public func snapshot(into folder: String) throws(StoreError) {
        flush()
        guard unsafe mkdir(folder, 0o700) == 0 else { throw StoreError("\(folder) cannot be made: \(KernelError("mkdir"))") }
        for name in (try? Snapshot.names(directory)) ?? [] {
            guard let tenant = Name(name) else { continue }
            let made: Result<Void, StoreError> = whileStill {
                do throws(StoreError) {
                    let all = numbers(tenant)
                    guard let last = all.last else { return .success(()) }
                    guard unsafe mkdir("\(folder)/\(tenant)", 0o700) == 0 else {
                        throw StoreError("\(folder)/\(tenant) cannot be made: \(KernelError("mkdir"))")
                    }
                    for number in all.dropLast() { try Snapshot.link(path(tenant, number), to: "\(folder)/\(tenant)/\(number).jsonl") }
                    try Snapshot.copy(path(tenant, last), to: "\(folder)/\(tenant)/\(last).jsonl")
                    return .success(())
                } catch { return .failure(error) }
            }
            try made.get()
        }
    }
}

extension UsageLedger {
    /// Copies what is counted and then the records that are not. To be called where no ``checkpoint()`` is under way.
    public func snapshot(of directory: String, into folder: String) throws(StoreError) -> Int {
        guard unsafe mkdir(folder, 0o700) == 0 else { throw StoreError("\(folder) cannot be made: \(KernelError("mkdir"))") }
        let schema = try Snapshot.database(directory + "/usage.sqlite", to: folder + "/usage.sqlite")
        for name in try Snapshot.names(directory) where name.hasSuffix(UsageSegment.suffix) {
            try Snapshot.copy("\(directory)/\(name)", to: "\(folder)/\(name)")
        }
        return schema
    }
}
