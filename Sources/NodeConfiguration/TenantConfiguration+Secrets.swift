// SPDX-License-Identifier: Apache-2.0
import Foundation
import Yams

/// Who hears of alarms: loops, budgets, dead letters.
public enum NotifyTarget: Hashable, Sendable {
    /// POST, signed where there is a secret.
    case webhook(url: String, secret: Secret?)
    /// A program with its arguments; only the node's owner chooses programs.
    case command([String])

    /// As a difference shows it: without the secret, and without an URL's query, which may hold a token.
    var shown: String {
        switch self {
        case .webhook(let url, let secret): String(url.prefix { $0 != "?" }) + (secret == nil ? "" : " signed")
        case .command(let words): words.joined(separator: " ")
        }
    }
}

extension Mapping {
    /// The most targets of one owner.
    static let notifyLimit = 16

    /// `{NAME: value, OTHER: file:secrets/other}`. `directory` is the configuration's, below which the files are; nil where none can be read.
    func secrets(_ key: String, directory: String?) -> [String: Secret] {
        guard let values = mapping(key) else { return [:] }
        if values.keys.count > Self.secretLimit {
            document.fail(values.node, "`\(key)` has \(values.keys.count) entries; at most \(Self.secretLimit) are kept")
        }
        var found: [String: Secret] = [:]
        for name in values.keys {
            guard Secret.isName(name) else {
                document.fail(values.value(name), "`\(name.prefix(60))` is not a secret's name: letters, digits and _, like API_TOKEN")
                continue
            }
            if let text = values.text(name) { found[name] = secret(text, values.value(name), directory) }
        }
        return found
    }

    /// `[{webhook: URL, secret: NAME}]`.
    func tenantTargets(_ key: String, secrets: [String: Secret]) -> [NotifyTarget] {
        mappings(key, limit: Self.notifyLimit).compactMap { target in
            if let command = target.value("command") {
                document.fail(command, "`command` is only for the node's owner, in bulkhead.yaml: write `webhook` here")
                return nil
            }
            var secret: Secret?
            if let name = target.secretName("secret") {
                secret = secrets[name]
                if secret == nil { document.fail(target.value("secret"), "`\(name)` is not in `secrets`: add it there") }
            }
            return target.webhook(secret)
        }
    }

    /// `[{webhook: URL, secret: file:secrets/hook}, {command: [/usr/bin/program, argument]}]`.
    func nodeTargets(_ key: String, directory: String?) -> [NotifyTarget] {
        mappings(key, limit: Self.notifyLimit).compactMap { target in
            guard target.keys.contains("command") else {
                let secret = target.text("secret").flatMap { self.secret($0, target.value("secret"), directory) }
                return target.webhook(secret)
            }
            let words = target.words("command")
            target.finish()
            guard let words else { return nil }
            guard words[0].utf8.first == 0x2F else {
                document.fail(target.value("command"), "`command` begins with the whole path of a program, like /usr/bin/logger")
                return nil
            }
            return .command(words)
        }
    }

    private func webhook(_ secret: Secret?) -> NotifyTarget? {
        if value("webhook") == nil { document.fail(node, "`webhook` is missing: an URL") }
        let url = webURL("webhook")
        finish()
        return url.map { .webhook(url: $0, secret: secret) }
    }

    /// Its text, or what is in `file:secrets/FILE`.
    func secret(_ text: String, _ node: Yams.Node?, _ directory: String?) -> Secret? {
        guard text.hasPrefix("file:") else {
            if !text.isEmpty, text.utf8.count <= Secret.sizeLimit { return Secret(Array(text.utf8)) }
            document.fail(node, "a secret has 1 to \(Secret.sizeLimit) bytes")
            return nil
        }
        let path = String(text.dropFirst(5))
        guard let directory else {
            document.fail(node, "`\(text.prefix(200))` is a file, and there is no configuration directory here to find it in")
            return nil
        }
        switch SecretFile.read(path, below: directory) {
        case .success(let secret): return secret
        case .failure(let problem):
            document.fail(node, "`\(path.prefix(200))` \(problem.sentence)")
            return nil
        }
    }
}

/// A secret that is a file of its own, in the folder `secrets` of the configuration's directory: that one is copied for the daemon, too.
enum SecretFile {
    struct Problem: Error { let sentence: String }

    /// One newline at the end is the editor's and is dropped.
    static func read(_ path: String, below directory: String) -> Result<Secret, Problem> {
        let outside = Problem(
            sentence: "must be a file in the folder `secrets` beside bulkhead.yaml, written secrets/NAME, and no link out of it")
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0] == "secrets", !parts[1].isEmpty, !parts[1].hasPrefix("."), !path.utf8.contains(0) else {
            return .failure(outside)
        }
        let root = URL(fileURLWithPath: directory).resolvingSymlinksInPath().path
        // Links are followed first and judged by where they end; then that path itself is opened, not the link.
        let file = URL(fileURLWithPath: root + "/" + path).resolvingSymlinksInPath().path
        guard file.hasPrefix(root == "/" ? root : root + "/") else { return .failure(outside) }
        // A pipe would be waited for and a device never ends.
        guard let attributes = try? FileManager.default.attributesOfItem(atPath: file),
            attributes[.type] as? FileAttributeType == .typeRegular,
            let handle = FileHandle(forReadingAtPath: file)
        else { return .failure(Problem(sentence: "is not a file that can be read: check that it is there, no link, and its permissions")) }
        defer { try? handle.close() }
        guard var bytes = try? handle.read(upToCount: Secret.sizeLimit + 1).map(Array.init) ?? [], !bytes.isEmpty else {
            return .failure(Problem(sentence: "is empty"))
        }
        guard bytes.count <= Secret.sizeLimit else { return .failure(Problem(sentence: "is longer than \(Secret.sizeLimit) bytes")) }
        if bytes.last == 0x0A { bytes.removeLast() }
        return bytes.isEmpty ? .failure(Problem(sentence: "is empty")) : .success(Secret(bytes))
    }
}
