// SPDX-License-Identifier: Apache-2.0

public import Core
import Glibc

/// The text of `tenants.d/NAME.yaml` on its way from one node to another.
public struct TenantFile {
    private var text: YAMLText

    /// - Parameter file: for the sentence of an error.
    public init(_ bytes: [UInt8], file: String) throws(Failure) {
        do { text = try YAMLText(bytes) } catch { throw Self.unclear(error, file) }
        guard text.settings["secrets", default: ""].isEmpty else {
            throw Self.unclear(YAMLText.Unclear(line: 1, sentence: "`secrets` is not `NAME: value` pairs"), file)
        }
    }

    public var bytes: [UInt8] { text.bytes }

    /// What each secret is, as it is written: the text itself, or `file:secrets/FILE`.
    public var secrets: [String: String] {
        var found: [String: String] = [:]
        for (key, value) in text.settings where key.hasPrefix("secrets.") { found[String(key.dropFirst(8))] = value }
        return found
    }

    public mutating func setTenant(_ tenant: Name) throws(Failure) { try set(["tenant"], tenant.text) }
    /// Nil removes it.
    public mutating func setSecret(_ name: String, _ value: String?) throws(Failure) { try set(["secrets", name], value) }

    private mutating func set(_ path: [String], _ value: String?) throws(Failure) {
        do { try text.set(path, to: value) } catch { throw Self.unclear(error, "quota.yaml") }
    }

    private static func unclear(_ error: YAMLText.Unclear, _ file: String) -> Failure {
        .failed(
            "configuration",
            "\(escaped(file)):\(error.line) cannot be read by this command (\(escaped(error.sentence))); write its secrets as "
                + "NAME: value, one a line, then try again.")
    }
}

/// A tenant that the configuration gets and that the node has yet to take: made, then kept or put back.
public struct TenantAddition: Sendable {
    private let folder: ConfigurationFolder
    private let tenant: Name
    private let file: [UInt8]
    /// By the name of the file in `secrets/`.
    private let secrets: [String: [UInt8]]
    /// Whether the whole folder `tenants.d` is made, for a node that ran on its defaults until now.
    private let isFirst: Bool
    private var place: String { folder.path + "/tenants.d/\(tenant).yaml" }

    /// How the file of a secret is named: `acme.API_TOKEN`.
    public static func secretFile(_ tenant: Name, _ name: String) -> String { "\(tenant).\(name)" }

    /// Call it with the lock held. Throws where something is there already.
    public init(_ folder: ConfigurationFolder, tenant: Name, file: [UInt8], secrets: [String: [UInt8]]) throws(Failure) {
        self.folder = folder
        self.tenant = tenant
        self.file = file
        self.secrets = secrets
        isFirst = folder.isEmbedded && !fileExists(folder.path + "/tenants.d")
        for path in [place] + secrets.keys.sorted().map({ folder.path + "/secrets/" + $0 }) where fileExists(path) {
            throw .usage("\(escaped(path)) exists already; import under another name with --as, or remove it. Nothing was imported.")
        }
    }

    /// Writes the files where the daemon reads them.
    public func make(daemonGID: UInt32) throws(Failure) {
        do {
            let top = try Directory.open(folder.path)
            // A daemon that reads the folder itself, and no copy of it, has to be able to.
            let (group, mode): (UInt32, UInt32) = folder.copy == nil ? (daemonGID, 0o640) : (getegid(), 0o600)
            if !secrets.isEmpty {
                let isNew = try top.status("secrets") == nil
                let all = try top.directory("secrets", creatingWithMode: 0o700)
                if isNew, folder.copy == nil { try all.own(geteuid(), daemonGID, mode: 0o750) }
                for (name, bytes) in secrets { try all.replace(name, with: bytes, owner: geteuid(), group: group, mode: mode) }
            }
            if isFirst {
                // Without its file the tenant that was there until now would be gone.
                let new = try top.directory("tenants.d", creatingWithMode: 0o755)
                try new.replace("default.yaml", with: Array("tenant: default\n".utf8), owner: geteuid(), group: getegid(), mode: 0o644)
            }
            let tenants = try Directory.open(folder.path + "/tenants.d")
            try tenants.replace("\(tenant).yaml", with: file, owner: geteuid(), group: group, mode: mode)
        } catch {
            remove()
            throw folder.failure(error)
        }
        do { try folder.copy?.install() } catch {
            remove()
            throw error
        }
    }

    public func keep() throws(Failure) { try folder.copy?.keep() }

    public func putBack() throws(Failure) {
        remove()
        try folder.copy?.putBack()
    }

    private func remove() {
        guard let top = try? Directory.open(folder.path) else { return }
        if isFirst { try? top.remove("tenants.d") }
        if let tenants = try? Directory.open(folder.path + "/tenants.d") { try? tenants.remove("\(tenant).yaml") }
        if let all = try? top.directory("secrets") { for name in secrets.keys { try? all.remove(name) } }
    }
}
