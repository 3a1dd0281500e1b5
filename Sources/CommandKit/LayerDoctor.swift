// SPDX-License-Identifier: Apache-2.0

import Core
import Glibc

/// Looks at the operator's layers as the spawner will when a worker gets one: what is wrong with them is known before a start fails on it. Changes nothing.
struct LayerDoctor {
    /// The folder with `bulkhead.yaml`.
    let configuration: String

    /// Whose functions a layer is for.
    private struct Users {
        var forced: [String] = []
        var allowed: [String] = []

        var sentence: String {
            let parts = [
                forced.isEmpty ? nil : "every function of \(Self.list(forced))",
                allowed.isEmpty ? nil : "functions of \(Self.list(allowed)) that name it",
            ]
            let text = parts.compactMap { $0 }.joined(separator: ", ")
            return text.isEmpty ? "nobody: no tenant's file names it" : text
        }

        private static func list(_ tenants: [String]) -> String {
            tenants.count > 4
                ? tenants.prefix(3).joined(separator: ", ") + " and \(tenants.count - 3) more" : tenants.joined(separator: ", ")
        }
    }

    func checks() -> [HealthCheck] {
        do throws(FileError) {
            // The spawner's policy has the path without links, too, and from there on none is followed.
            return try checks(in: try Directory.open(try canonical(absolute(configuration))))
        } catch {
            return [
                HealthCheck(
                    "layers", .missing, found: "not known: \(error)", neededFor: "functions that have layers",
                    remedy: error.errno == EACCES ? "sudo bulkhead doctor" : "name another folder with --config DIR")
            ]
        }
    }

    private func checks(in folder: Directory) throws(FileError) -> [HealthCheck] {
        let path = folder.path + "/layers"
        let (users, unclear) = try Self.users(folder)
        let status = try folder.status("layers")
        let layers = status?.kind == .directory ? try Self.layers(try folder.directory("layers")) : [:]
        var checks: [HealthCheck] = []
        let refused = status.flatMap { Self.fault($0, path) }
        if let (found, remedy) = refused {
            checks.append(
                HealthCheck(
                    "layers", .missing, found: found, neededFor: "any layer: the spawner mounts none from there", remedy: remedy))
        } else if layers.isEmpty {
            checks.append(HealthCheck("layers", .ok, found: "none in \(path)", neededFor: "", remedy: ""))
        }
        for (name, status) in layers.sorted(by: { $0.key < $1.key }) {
            let (place, needed) = (path + "/\(name)", (users[name] ?? Users()).sentence)
            if let (found, remedy) = Self.fault(status, place) ?? Self.closed(status, place) {
                checks.append(HealthCheck("layer \(name)", .missing, found: found, neededFor: needed, remedy: remedy))
            } else if refused == nil {
                checks.append(HealthCheck("layer \(name)", .ok, found: "\(place), for \(needed)", neededFor: needed, remedy: ""))
            }
        }
        for (name, users) in users.sorted(by: { $0.key < $1.key }) where layers[name] == nil {
            checks.append(
                HealthCheck(
                    "layer \(name)", .required, found: "no folder \(path)/\(name) (a link is none)",
                    neededFor: "\(users.sentence); without it the node refuses the configuration",
                    remedy: "install -d -m 755 \(path)/\(name), or take it out of `layers` of these tenants"))
        }
        return checks + unclear
    }

    /// The folders that the node takes for layers.
    private static func layers(_ folder: Directory) throws(FileError) -> [Name: FileStatus] {
        var found: [Name: FileStatus] = [:]
        for entry in try folder.names() {
            guard let name = Name(entry), let status = try folder.status(entry), status.kind == .directory else { continue }
            found[name] = status
        }
        return found
    }

    /// What the spawner refuses a folder for (`Sandbox/layers.c`), and the way out.
    private static func fault(_ status: FileStatus, _ path: String) -> (found: String, remedy: String)? {
        guard status.kind == .directory else { return ("\(path) is no folder (a link is none)", "put the folder itself there") }
        var (faults, steps): ([String], [String]) = ([], [])
        if status.owner != 0 { (faults, steps) = (["belongs to user \(status.owner)"], ["chown root \(path)"]) }
        if status.mode & 0o022 != 0 {
            faults.append("may be written by others than root (mode \(String(status.mode, radix: 8)))")
            steps.append("chmod go-w \(path)")
        }
        guard !faults.isEmpty else { return nil }
        return ("\(path) \(faults.joined(separator: " and "))", steps.joined(separator: " && ") + ", once you know what is in it")
    }

    /// The spawner mounts it, and then the worker, which has a user id of its own, fails on it.
    private static func closed(_ status: FileStatus, _ path: String) -> (found: String, remedy: String)? {
        guard status.mode & 0o005 != 0o005 else { return nil }
        return ("\(path) cannot be read by workers (mode \(String(status.mode, radix: 8)))", "chmod -R o+rX \(path)")
    }

    /// Who names which layer in `tenants.d`, and the files of which it is not known.
    private static func users(_ folder: Directory) throws(FileError) -> (users: [Name: Users], unclear: [HealthCheck]) {
        var (users, unclear): ([Name: Users], [HealthCheck]) = ([:], [])
        let path = folder.path + "/tenants.d"
        guard fileExists(path) else { return (users, unclear) }
        for file in try Directory.open(path).names() where file.hasSuffix(".yaml") && !file.hasPrefix(".") {
            let bytes = try Directory.followingRead(path + "/" + file, limit: 1 << 20)
            // Most have none, and there may be thousands.
            guard String(decoding: bytes, as: UTF8.self).contains("layers") else { continue }
            let tenant = String(file.dropLast(5))
            do {
                let settings = try YAMLText(bytes).settings
                for name in names(settings["layers.force"]) { users[name, default: Users()].forced.append(tenant) }
                for name in names(settings["layers.allow"]) { users[name, default: Users()].allowed.append(tenant) }
            } catch {
                unclear.append(
                    HealthCheck(
                        "layers", .missing, found: "\(path)/\(file):\(error.line) cannot be read by this command (\(error.sentence))",
                        neededFor: "to know which layers \(tenant) names",
                        remedy: "bulkhead reload says what is wrong with it, if anything is"))
            }
        }
        return (users, unclear)
    }

    /// The names in a list as it is written: `[scrub, "tracing"]`, or one a line behind dashes. What is no name the node refuses by itself.
    static func names(_ written: String?) -> Set<Name> {
        var names: Set<Name> = []
        for line in (written ?? "").split(separator: "\n") {
            for word in line.split(whereSeparator: { "[],\"' \t\r".contains($0) }) {
                if word.hasPrefix("#") { break }
                if let name = Name(word) { names.insert(name) }
            }
        }
        return names
    }
}

extension ConfigurationFolder {
    /// Where a node that may not run has its configuration: what its state directory says, else the system-wide node's; nil where there is none.
    static func resting(state: String?) throws(FileError) -> String? {
        var folder = NodePaths.systemConfiguration
        if let state {
            guard fileExists(state) else { return nil }
            let top = try canonical(absolute(state))
            if let copy = try ConfigurationCopy.of(state: top) { return copy.source }
            if top != NodePaths.systemState { folder = embedded(state: top) }
        }
        return fileExists(folder) ? folder : nil
    }
}
