// SPDX-License-Identifier: Apache-2.0

import Core
import Glibc

/// The copy of the administrator's configuration that the daemon reads: it may not read the original. `STATE/data/config`.
///
/// The folder `tenants.d` is one file there, a `TenantBundle`.
public struct ConfigurationCopy: Hashable, Sendable {
    /// The file in the state directory that names the original; root's.
    static let sourceFile = "config.source"
    private static let name = "config"

    public var state: String
    /// The folder with `bulkhead.yaml` and `tenants.d/`.
    public var source: String
    public var path: String { state + "/data/" + Self.name }

    public init(state: String, source: String) {
        self.state = state
        self.source = source
    }

    /// The copy that the node of a state directory reads; nil where it reads no copy.
    public static func of(state: String) throws(FileError) -> ConfigurationCopy? {
        let directory = try Directory.open(state)
        guard try directory.status(sourceFile) != nil else { return nil }
        var bytes = try directory.read(sourceFile, limit: 64 << 10)
        if bytes.last == Ascii.newline { bytes.removeLast() }
        return ConfigurationCopy(state: directory.path, source: String(decoding: bytes, as: UTF8.self))
    }

    /// Copies anew. The former copy stays aside until ``keep()`` or ``putBack()``.
    ///
    /// - Parameter daemonUID: whom the copy belongs to (default: whoever owns the folder that it is in).
    public func install(daemonUID: UInt32? = nil, daemonGID: UInt32? = nil) throws(Failure) {
        do {
            let from = try Directory.open(source)
            let data = try Directory.open(state).directory("data")
            let status = try data.status()
            let (owner, group) = (daemonUID ?? status?.owner ?? 0, daemonGID ?? status?.group ?? 0)
            try data.remove(Self.name + ".new")
            let to = try data.directory(Self.name + ".new", creatingWithMode: 0o700)
            try fill(to, from, owner, group, former: daemonUID == nil ? try? data.directory(Self.name) : nil)
            try data.remove(Self.name + ".old")
            // A daemon that found no copy would begin with the embedded defaults.
            if try data.status(Self.name) != nil {
                try data.exchange(Self.name + ".new", Self.name)
                do { try data.rename(Self.name + ".new", to: Self.name + ".old") } catch {
                    // Nobody has looked at the new one yet.
                    try data.exchange(Self.name + ".new", Self.name)
                    throw error
                }
            } else {
                try data.rename(Self.name + ".new", to: Self.name)
            }
        } catch let error as FileError {
            throw .failed("configuration", "The configuration cannot be read or copied, \(error); check --config \(escaped(source)).")
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("configuration", "The configuration in \(escaped(source)) cannot be copied: \(error)")
        }
    }

    /// Ends an ``install(daemonUID:daemonGID:)`` that the node took.
    public func keep() throws(Failure) {
        do {
            let data = try Directory.open(state + "/data")
            try data.remove(Self.name + ".old")
            // Of an exchange that was broken off, on a file system that cannot do it at once.
            try data.remove(Self.name + ".aside")
        } catch { throw failure(error) }
    }

    /// Undoes an ``install(daemonUID:daemonGID:)`` that the node refused.
    public func putBack() throws(Failure) {
        do {
            let data = try Directory.open(state + "/data")
            guard try data.status(Self.name + ".old") != nil else { return }
            if try data.status(Self.name) != nil {
                try data.exchange(Self.name + ".old", Self.name)
                try data.remove(Self.name + ".old")
            } else {
                try data.rename(Self.name + ".old", to: Self.name)
            }
        } catch {
            throw failure(error)
        }
    }

    private func failure(_ error: FileError) -> Failure {
        .failed("configuration", "The copy of the configuration cannot be put in its place, \(error); restart the node.")
    }

    /// - Parameter former: the copy whose unchanged files of tenants are used again; at a start there is none, and all is read.
    private func fill(_ to: Directory, _ from: Directory, _ owner: UInt32, _ group: UInt32, former: Directory?) throws {
        try to.own(owner, group, mode: 0o700)
        var isEmpty = true
        if try exists("bulkhead.yaml", in: from) {
            let (bytes, _) = try from.settledRead("bulkhead.yaml", limit: 1 << 20, now: time(nil))
            try to.create("bulkhead.yaml", [bytes[...]], owner: owner, group: group)
            isEmpty = false
        }
        if try exists("tenants.d", in: from) {
            let tenants = TenantBundling(
                source: try Directory.open(source + "/tenants.d"), former: FormerBundle("tenants.d", in: former))
            try tenants.write("tenants.d", in: to, owner: owner, group: group)
            isEmpty = false
        }
        if try from.status("layers")?.kind == .directory { try copyLayerNames(to, from, owner, group) }
        if try from.status("secrets")?.kind == .directory { try copySecrets(to, from, owner, group) }
        guard !isEmpty else {
            throw Failure.usage(
                "\(escaped(source)) holds neither bulkhead.yaml nor tenants.d; name the folder that does with --config DIR.")
        }
    }

    /// What `secrets: {NAME: file:secrets/FILE}` of a tenant means. No links: they could show the daemon any file of root's.
    private func copySecrets(_ to: Directory, _ from: Directory, _ owner: UInt32, _ group: UInt32) throws(FileError) {
        let secrets = try from.directory("secrets")
        let copies = try to.directory("secrets", creatingWithMode: 0o700)
        try copies.own(owner, group, mode: 0o700)
        for name in try secrets.names() where try secrets.status(name)?.kind == .file && !name.hasPrefix(".") {
            try copies.replace(name, with: try secrets.read(name, limit: 1 << 20), owner: owner, group: group, mode: 0o600)
        }
    }

    /// Which layers there are; what is in them is for workers, and the spawner's to mount from the original.
    private func copyLayerNames(_ to: Directory, _ from: Directory, _ owner: UInt32, _ group: UInt32) throws(FileError) {
        let layers = try from.directory("layers")
        let copies = try to.directory("layers", creatingWithMode: 0o700)
        try copies.own(owner, group, mode: 0o700)
        for name in try layers.names() where try layers.status(name)?.kind == .directory && Name(name) != nil {
            try copies.directory(name, creatingWithMode: 0o700).own(owner, group, mode: 0o700)
        }
    }

    private func exists(_ name: String, in directory: Directory) throws(FileError) -> Bool { try directory.status(name) != nil }
}
