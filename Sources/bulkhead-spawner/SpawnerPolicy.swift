// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit

/// What the spawner may do, from a file that only root can write. Every request of the daemon is checked against it.
struct SpawnerPolicy {
    enum Address { case tcp(host: String, port: UInt16), unix(String) }

    var daemonExecutable = ""
    var daemonUID: UInt32 = 0
    var daemonGID: UInt32 = 0
    var daemonEnvironment: [String] = []
    var stateDirectory = ""
    var codeDirectory = ""
    /// The daemon's own folder: the parent of the code store.
    var daemonDirectory: String { codeDirectory.lastIndex(of: "/").map { String(codeDirectory[..<$0]) } ?? stateDirectory }
    /// Of the daemon; a bucket is `TENANT/NAME` in it.
    var bucketDirectory = ""
    var shareDirectory = ""
    /// The folder of the operator's layers; empty where there is none.
    var layerDirectory = ""
    var listeners: [(name: String, address: Address)] = []
    var firstUID: UInt32 = 0
    var uidCount: UInt32 = 0
    var cgroupName = ""
    /// Whether the cgroups are made below the spawner's own one, which a service manager has given away, instead of at the root (v2 only).
    var isDelegated = false
    var ceilings: [String: UInt64] = [
        "memory": 1 << 40, "cpu": 1_024_000, "processes": 32_768, "workers": 2000, "temporary": 1 << 40, "groups": 1000,
    ]
    var runtimes: [RuntimeProfile] = []
    /// What all of this was read from.
    let text: String

    struct Failure: Error, CustomStringConvertible { let description: String }

    static func load(_ path: String) throws(Failure) -> SpawnerPolicy {
        var status = stat()
        guard unsafe stat(path, &status) == 0 else {
            throw Failure(description: "\(path): \(unsafe String(cString: strerror(errno))). `bulkhead up` writes this file.")
        }
        guard status.st_uid == 0, status.st_mode & 0o022 == 0 else {
            throw Failure(description: "\(path) must belong to root and be writable by root alone: chown root \(path); chmod 600 \(path)")
        }
        guard let text = SmallFile.read(path) else { throw Failure(description: "\(path) cannot be read") }
        return try SpawnerPolicy(text: text, path: path)
    }

    init(text: String, path: String) throws(Failure) {
        self.text = text
        var seen: Set<String> = []
        var runtime: RuntimeProfile?
        var number = 0
        func fail(_ reason: String) -> Failure { Failure(description: "\(path):\(number): \(reason)") }
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            number += 1
            let words = line.split(separator: " ").map(String.init)
            guard let key = words.first, !key.hasPrefix("#") else { continue }
            let rest = words.dropFirst().joined(separator: " ")
            if runtime != nil {
                if key == "}" {
                    if let done = runtime { runtimes.append(done) }
                    runtime = nil
                } else if runtime?.read(key, Array(words.dropFirst()), rest) != true {
                    throw fail("`\(key)` is not understood in a runtime")
                }
                continue
            }
            let isRepeatable = ["daemon-environment", "listen", "ceiling", "runtime"].contains(key)
            guard isRepeatable || seen.insert(key).inserted else { throw fail("`\(key)` is given twice") }
            guard !rest.isEmpty else { throw fail("`\(key)` has no value") }
            if key == "runtime" {
                guard words.count == 3, words[2] == "{", !runtimes.contains(where: { $0.name == words[1] }) else {
                    throw fail("expected `runtime NAME {`")
                }
                runtime = RuntimeProfile(name: words[1])
            } else if !read(key, Array(words.dropFirst()), rest) {
                throw fail("`\(key) \(rest)` is not understood")
            }
        }
        guard runtime == nil else { throw fail("a runtime has no closing `}`") }
        for key in [
            "version", "daemon-executable", "daemon-uid", "daemon-gid", "state-directory", "code-directory", "bucket-directory",
            "uid-range", "cgroup-name", "share-directory",
        ]
        where !seen.contains(key) { throw fail("`\(key)` is missing") }
        guard daemonUID > 0, firstUID > 1000, uidCount > 0, !(firstUID..<(firstUID + uidCount)).contains(daemonUID) else {
            throw fail("the daemon's uid must not be 0 and must lie outside the workers' range, which must lie above 1000")
        }
    }

    private mutating func read(_ key: String, _ words: [String], _ rest: String) -> Bool {
        func isPath(_ text: String) -> Bool { text.hasPrefix("/") && !text.split(separator: "/").contains("..") }
        switch key {
        case "version": return rest == "1"
        case "daemon-executable": daemonExecutable = rest
        case "daemon-uid": return set(&daemonUID, rest)
        case "daemon-gid": return set(&daemonGID, rest)
        case "daemon-environment": daemonEnvironment.append(rest)
        case "state-directory": stateDirectory = rest
        case "code-directory": codeDirectory = rest
        case "bucket-directory": bucketDirectory = rest
        case "share-directory": shareDirectory = rest
        case "layer-directory": layerDirectory = rest
        case "cgroup-name":
            cgroupName = rest
            return rest.hasPrefix("bulkhead") && rest.utf8.allSatisfy { $0 == 45 || (48...57).contains($0) || (97...122).contains($0) }
        case "cgroup-parent":
            isDelegated = true
            return rest == "own"
        case "uid-range": return words.count == 2 && set(&firstUID, words[0]) && set(&uidCount, words[1]) && uidCount <= 65_536
        case "ceiling":
            guard words.count == 2, ceilings[words[0]] != nil, let value = UInt64(words[1]) else { return false }
            ceilings[words[0]] = value
        case "listen":
            guard words.count == 2 else { return false }
            if words[1].hasPrefix("unix:") {
                listeners.append((words[0], .unix(String(words[1].dropFirst(5)))))
                return isPath(String(words[1].dropFirst(5)))
            }
            guard let colon = words[1].lastIndex(of: ":"), let port = UInt16(words[1][words[1].index(after: colon)...]) else {
                return false
            }
            listeners.append((words[0], .tcp(host: String(words[1][..<colon]), port: port)))
        default: return false
        }
        let paths = ["daemon-executable", "state-directory", "code-directory", "bucket-directory", "share-directory", "layer-directory"]
        return paths.contains(key) ? isPath(rest) : true
    }

    private func set(_ field: inout UInt32, _ text: String) -> Bool {
        guard let value = UInt32(text) else { return false }
        field = value
        return true
    }
}

extension RuntimeProfile {
    /// One line of a `runtime` block; false where it is not understood.
    fileprivate mutating func read(_ key: String, _ words: [String], _ rest: String) -> Bool {
        switch key {
        case "mount" where words.count == 2: mounts.append(Mount(source: words[0], target: words[1]))
        case "file" where words.count == 2: files.append(Mount(source: words[0], target: words[1]))
        case "link" where words.count == 2: links.append(Mount(source: words[0], target: words[1]))
        case "argument" where !rest.isEmpty: arguments.append(rest)
        case "environment" where rest.contains("="): environment.append(rest)
        case "filter" where words.count == 1: filter = rest
        case "memory-floor": memoryFloor = UInt64(rest) ?? 0
        default: return false
        }
        return memoryFloor > 0
    }
}
