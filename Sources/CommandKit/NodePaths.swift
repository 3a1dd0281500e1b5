// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Where the parts of an installation are.
public struct NodePaths: Sendable {
    /// The folder of the running `bulkhead` executable.
    public var executableFolder: String
    /// The variables `BULKHEAD_*` of the environment.
    public var environment: [String: String]

    /// What a service manager says to the spawner, which takes this program's place: `NAME=VALUE`.
    public var serviceVariables: [String] {
        Self.serviceNames.compactMap { name in environment[name].map { "\(name)=\($0)" } }
    }
    /// sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
    static let serviceNames = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
    /// Which stream the journal reads as this program's standard error, for the daemon: systemd.exec(5). It is the same all the way down.
    var journalStream: String? {
        environment["JOURNAL_STREAM"].flatMap { value in
            !value.isEmpty && value.utf8.allSatisfy { (0x30...0x3A).contains($0) } ? value : nil
        }
    }

    /// Where the parts of the installation are, for another command of it: `NAME=VALUE`.
    public var installationVariables: [String] {
        ["BULKHEAD_SHARE", "BULKHEAD_SPAWNER", "BULKHEAD_DAEMON", "PATH"].compactMap { name in environment[name].map { "\(name)=\($0)" } }
    }

    /// How many sockets, from descriptor 3 on, a service manager gave this process to hand on.
    public var inheritedSockets: Int32 {
        guard environment["LISTEN_PID"] == "\(getpid())", let count = Int32(environment["LISTEN_FDS"] ?? "") else { return 0 }
        return (0...16).contains(count) ? count : 0
    }

    /// State and configuration of a system-wide node.
    public static let systemState = "/var/lib/bulkhead"
    public static let systemConfiguration = "/etc/bulkhead"
    /// The control socket of a system-wide node.
    public static let systemSocket = "/run/bulkhead/control.sock"

    public init(executableFolder: String, environment: [String: String]) {
        self.executableFolder = executableFolder
        self.environment = environment
    }

    /// The installation that this process belongs to.
    public static func current() -> NodePaths {
        let executable = (try? canonical("/proc/self/exe")) ?? "/usr/bin/bulkhead"
        let names = ["BULKHEAD_STATE", "BULKHEAD_SHARE", "BULKHEAD_SPAWNER", "BULKHEAD_DAEMON", "PATH", "JOURNAL_STREAM"] + serviceNames
        var environment: [String: String] = [:]
        for name in names { if let value = unsafe getenv(name) { environment[name] = unsafe String(cString: value) } }
        return NodePaths(executableFolder: parent(of: executable), environment: environment)
    }

    /// The state directory that the user named: `--state`, else `BULKHEAD_STATE`.
    public func state(_ option: String?) -> String? {
        (option ?? environment["BULKHEAD_STATE"]).flatMap { $0.isEmpty ? nil : $0 }
    }

    /// The control socket: of `--state`, else of `BULKHEAD_STATE`, else of the system-wide node.
    ///
    /// - Throws: ``Failure`` of kind unreachable where no node is to be found, with the way to start or name one.
    public func controlSocket(state: String?, exists: (String) -> Bool) throws(Failure) -> String {
        if let state = self.state(state) {
            let socket = absolute(state) + "/run/control.sock"
            guard exists(socket) else {
                throw Failure(
                    status: .unreachable, code: "unreachable",
                    sentence:
                        "No node runs on \(escaped(state)) (there is no \(escaped(socket))); "
                        + "start it with: bulkhead up --state \(escaped(state))"
                )
            }
            return socket
        }
        guard exists(Self.systemSocket) else {
            throw Failure(
                status: .unreachable, code: "unreachable",
                sentence: "No node is named and no system-wide one runs (\(Self.systemSocket)); "
                    + "name one with --state DIR or BULKHEAD_STATE, or start one with: bulkhead up --state DIR")
        }
        return Self.systemSocket
    }

    /// The folder with `runtimes/` and `policy/`, which the spawner shows to workers.
    public func sandboxShare(exists: (String) -> Bool) throws(Failure) -> String {
        try share("runtimes", inSource: "Sandbox", exists)
    }

    /// The folder with one folder a template.
    public func templates(exists: (String) -> Bool) throws(Failure) -> String {
        try share("templates", inSource: "Deploy", exists) + "/templates"
    }

    private func share(_ name: String, inSource folder: String, _ exists: (String) -> Bool) throws(Failure) -> String {
        var tried: [String] = []
        if let named = environment["BULKHEAD_SHARE"], !named.isEmpty { tried += [named, named + "/" + folder] }
        tried.append(Self.parent(of: executableFolder) + "/share/bulkhead")
        if let found = tried.first(where: { exists($0 + "/" + name) }) { return found }
        // In the source tree the executable lies a few folders below the top.
        var top = executableFolder
        while top != "/" {
            if exists(top + "/Sandbox/runtimes"), exists(top + "/Deploy/templates") { return top + "/" + folder }
            top = Self.parent(of: top)
        }
        throw .failed(
            "installation",
            "The folder '\(name)' of this installation is missing (looked in \(tried.map { escaped($0) }.joined(separator: ", "))); "
                + "reinstall, or name the folder that holds it in BULKHEAD_SHARE.")
    }

    /// One of the other two programs: named by a variable, or beside this one, or where a package puts it (`/usr/lib/bulkhead`).
    public func program(_ name: String, variable: String, isExecutable: (String) -> Bool) throws(Failure) -> String {
        let places = [executableFolder + "/" + name, Self.parent(of: executableFolder) + "/lib/bulkhead/" + name]
        let named = environment[variable].flatMap { $0.isEmpty ? nil : $0 }
        let path = named ?? places.first(where: isExecutable) ?? places[0]
        guard isExecutable(path) else {
            throw .failed(
                "installation", "\(escaped(path)) is missing or cannot be executed; reinstall, or name it in \(variable).")
        }
        return path
    }

    /// The first executable of that name on `PATH`.
    public func onPath(_ name: String, isExecutable: (String) -> Bool) -> String? {
        (environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin").split(separator: ":").lazy
            .filter { $0.hasPrefix("/") }.map { "\($0)/\(name)" }.first(where: isExecutable)
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return "/" }
        return String(path[..<slash])
    }
}

/// The path from the root, for one that may begin at the present folder.
public func absolute(_ path: String) -> String {
    if path.hasPrefix("/") { return path }
    guard let here = unsafe getcwd(nil, 0) else { return path }
    defer { unsafe free(here) }
    return unsafe String(cString: here) + "/" + path
}

/// Whether a file exists (links are followed).
public func fileExists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

/// Whether a regular file exists that may be executed.
public func isExecutableFile(_ path: String) -> Bool {
    var info = stat()
    guard unsafe stat(path, &info) == 0, info.st_mode & S_IFMT == S_IFREG else { return false }
    return unsafe access(path, X_OK) == 0
}
