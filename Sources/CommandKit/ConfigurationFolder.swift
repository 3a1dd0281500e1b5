// SPDX-License-Identifier: Apache-2.0

public import Core
import Glibc

/// The folder with a node's configuration, as its administrator edits it.
public struct ConfigurationFolder: Hashable, Sendable {
    public var path: String
    /// The copy that the daemon reads instead, if it does.
    public var copy: ConfigurationCopy?
    /// Whether it may be made where it does not exist: the node then runs on its defaults.
    public var isEmbedded: Bool

    public init(path: String, copy: ConfigurationCopy?, isEmbedded: Bool) {
        self.path = path
        self.copy = copy
        self.isEmbedded = isEmbedded
    }

    /// Where a node that was started without a configuration keeps changes of its quota.
    public static func embedded(state: String) -> String { state + "/config" }

    /// Finds the folder.
    ///
    /// What lies in the state directory decides, because root wrote it; what the node says counts only for a node without one.
    ///
    /// - Parameters:
    ///   - state: the state directory, if the node was named by one.
    ///   - reported: the folder that the node says it reads.
    public static func locate(state: String?, reported: String?) throws(Failure) -> ConfigurationFolder {
        do {
            if let state {
                let top = try canonical(absolute(state))
                if let copy = try ConfigurationCopy.of(state: top) {
                    return ConfigurationFolder(path: copy.source, copy: copy, isEmbedded: false)
                }
                let own = embedded(state: top)
                guard let reported, reported != own else { return ConfigurationFolder(path: own, copy: nil, isEmbedded: true) }
                guard !reported.hasPrefix(top + "/") else {
                    throw Failure.failed(
                        "configuration",
                        "The node reads a copy of a configuration and does not know of what; restart it with: bulkhead up --config DIR")
                }
            }
            guard let reported, reported.hasPrefix("/") else {
                throw Failure.failed(
                    "configuration",
                    "The node does not say which folder its configuration is in; edit it by hand, then run: bulkhead reload")
            }
            return ConfigurationFolder(path: try canonical(reported), copy: nil, isEmbedded: false)
        } catch let error as FileError {
            throw .failed("configuration", "The folder of the node's configuration cannot be found, \(error); run the command with sudo.")
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("configuration", "The folder of the node's configuration cannot be found: \(error)")
        }
    }

    /// Waits until nobody else changes the configuration or reloads it with this command; makes an embedded folder.
    public func lock() throws(Failure) -> FileLock? {
        do throws(FileError) {
            if isEmbedded, unsafe mkdir(path, 0o755) != 0, errno != EEXIST { throw FileError(path: path, errno: errno) }
            return try FileLock.take(try Directory.open(path))
        } catch {
            throw failure(error)
        }
    }

    func failure(_ error: FileError) -> Failure {
        let next = [EACCES, EPERM].contains(error.errno) ? "run the command with sudo" : "mend this, then try again"
        return .failed("configuration", "The configuration cannot be changed, \(error); \(next).")
    }
}

/// One change of a tenant's file that the node has yet to take: made, then kept or put back.
public struct QuotaEdit: Sendable {
    private let folder: ConfigurationFolder
    /// The folder that the file is really in: a link of the administrator stays a link.
    private let place: String
    private let name: String
    private let before: [UInt8]?
    private let after: [UInt8]
    /// `tenants.d/acme.yaml`.
    public let file: String

    /// Reads the tenant's file and makes the change, on paper. Call it with the lock held.
    ///
    /// - Throws: ``Failure`` where the tenant has no file, or the file cannot be changed by a program.
    public init(_ folder: ConfigurationFolder, tenant: Name, _ settings: [QuotaSetting]) throws(Failure) {
        self.folder = folder
        file = "tenants.d/\(tenant).yaml"
        let path = folder.path + "/" + file
        if !fileExists(folder.path + "/tenants.d"), folder.isEmbedded, tenant.text == "default" {
            (place, name, before) = (folder.path + "/tenants.d", "\(tenant).yaml", nil)
            after = try QuotaSetting.apply(settings, to: Array("tenant: \(tenant)\n".utf8), file: path)
            return
        }
        do {
            let target = try canonical(path)
            place = NodePaths.parent(of: target)
            name = String(target.dropFirst(place.count + (place == "/" ? 0 : 1)))
            let bytes = try Directory.followingRead(target, limit: 1 << 20)
            before = bytes
            after = try QuotaSetting.apply(settings, to: bytes, file: path)
        } catch let error as FileError where error.errno == ENOENT {
            throw .usage(
                "Tenant \(tenant) has no file \(escaped(path)); see which tenants there are with: bulkhead tenants")
        } catch let error as FileError {
            throw folder.failure(error)
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("configuration", "\(escaped(path)) cannot be read: \(error)")
        }
    }

    /// Writes the change where the daemon reads it.
    public func make() throws(Failure) {
        do {
            if let before { try write(after, insteadOf: before) } else { try create() }
        } catch let error as FileError {
            throw folder.failure(error)
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("configuration", "\(escaped(file)) cannot be written: \(error)")
        }
        guard let copy = folder.copy else { return }
        do { try copy.install() } catch {
            try restore()
            throw error
        }
    }

    /// Ends a change that the node took.
    public func keep() throws(Failure) { try folder.copy?.keep() }

    /// Undoes a change that the node refused.
    public func putBack() throws(Failure) {
        try restore()
        try folder.copy?.putBack()
    }

    private func restore() throws(Failure) {
        do {
            if let before { try write(before, insteadOf: after) } else { try Directory.open(folder.path).remove("tenants.d") }
        } catch let error as FileError {
            throw folder.failure(error)
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("configuration", "\(escaped(file)) cannot be put back: \(error)")
        }
    }

    private func write(_ bytes: [UInt8], insteadOf present: [UInt8]) throws {
        guard bytes != present else { return }
        let directory = try Directory.open(place)
        guard let status = try directory.status(name), try directory.read(name, limit: 1 << 20) == present else {
            throw Failure.failed(
                "configuration",
                "\(escaped(place + "/" + name)) was changed by somebody else meanwhile and was left as it is; look at it, then try again.")
        }
        try directory.replace(name, with: bytes, owner: status.owner, group: status.group, mode: status.mode)
    }

    /// A folder `tenants.d` without a tenant would be a mistake, so it appears with the file in it.
    private func create() throws(FileError) {
        let top = try Directory.open(folder.path)
        try top.remove(".tenants.d.new")
        let new = try top.directory(".tenants.d.new", creatingWithMode: 0o755)
        try new.own(geteuid(), getegid(), mode: 0o755)
        try top.own(geteuid(), getegid(), mode: 0o755)
        try new.replace(name, with: after, owner: geteuid(), group: getegid(), mode: 0o644)
        try top.rename(".tenants.d.new", to: "tenants.d")
    }
}
