// SPDX-License-Identifier: Apache-2.0

import Core
import Glibc

/// Looks at the whole host for `bulkhead doctor`. Changes nothing.
public struct HostDoctor: Sendable {
    public var paths: NodePaths
    /// A state directory to look at as well.
    public var state: String?
    /// A port to look at as well.
    public var port: UInt16?
    /// The folder with `bulkhead.yaml`; nil for that of the node on ``state``, else of the system-wide one.
    public var configuration: String?

    public init(paths: NodePaths, state: String?, port: UInt16?, configuration: String? = nil) {
        self.paths = paths
        self.state = state
        self.port = port
        self.configuration = configuration
    }

    public func checks() -> [HealthCheck] {
        var checks = installation() + abilities()
        // All else that is known of the kernel the spawner's probe says, by the code that seals: a second opinion would differ. Where it could not run, that is the answer.
        let root = HealthCheck(
            "root", isWell: geteuid() == 0, else: .missing, found: "user \(geteuid())",
            neededFor: "bulkhead up, and for a complete answer here", remedy: "sudo bulkhead doctor")
        if !checks.contains(where: { $0.name == root.name }) { checks.append(root) }
        checks += HealthCheck.runtimes(HostInventory.probe(paths))
        if let share = try? paths.sandboxShare(exists: fileExists) { checks.append(Self.commandHelper(share: share)) }
        let tar = paths.onPath("tar", isExecutable: isExecutableFile)
        checks.append(
            HealthCheck(
                "tar", isWell: tar != nil, else: .missing, found: tar ?? "not found", neededFor: "deploy: packs the folder",
                remedy: "apt-get install tar"))
        checks.append(space())
        if let state { checks.append(Self.stateCheck(state)) }
        if let port { checks.append(Self.portCheck(port)) }
        return checks + layers()
    }

    /// What is known of layers; nothing where there is no configuration yet.
    func layers() -> [HealthCheck] {
        do throws(FileError) {
            if let configuration { return LayerDoctor(configuration: configuration).checks() }
            return try ConfigurationFolder.resting(state: state).map { LayerDoctor(configuration: $0).checks() } ?? []
        } catch {
            return [
                HealthCheck(
                    "layers", .missing, found: "not known: \(error)", neededFor: "functions that have layers", remedy: "name --config DIR")
            ]
        }
    }

    private func installation() -> [HealthCheck] {
        [("bulkhead-spawner", "BULKHEAD_SPAWNER"), ("bulkheadd", "BULKHEAD_DAEMON")].map { name, variable in
            let found = try? paths.program(name, variable: variable, isExecutable: isExecutableFile)
            return HealthCheck(
                name, isWell: found != nil, else: .required, found: found ?? "not found", neededFor: "every node",
                remedy: "reinstall, or name it in \(variable)")
        }
            + [("runtimes", try? paths.sandboxShare(exists: fileExists))].map { name, found in
                HealthCheck(
                    name, isWell: found != nil, else: .required, found: found ?? "not found", neededFor: "every worker",
                    remedy: "reinstall, or name the folder in BULKHEAD_SHARE")
            }
    }

    /// The program in every worker of the runtime `command`.
    static func commandHelper(share: String) -> HealthCheck {
        let path = share + "/runtimes/command/bulkhead-command"
        let isThere = isExecutableFile(path)
        return HealthCheck(
            "bulkhead-command", isWell: isThere, else: .missing, found: isThere ? path : "\(path) is missing or not executable",
            neededFor: "the runtime command", remedy: "reinstall, or build it (Deploy/build)")
    }

    /// What the spawner's own probe says of the kernel.
    private func abilities() -> [HealthCheck] {
        guard let spawner = try? paths.program("bulkhead-spawner", variable: "BULKHEAD_SPAWNER", isExecutable: isExecutableFile) else {
            return []
        }
        guard let (output, _) = try? ChildProgram.run([spawner, "--probe", place], environment: ["LANG=C.UTF-8"]) else {
            return [HealthCheck("probe", .required, found: "\(spawner) does not run", neededFor: "every node", remedy: "reinstall")]
        }
        let checks = HealthCheck.abilities(probe: output)
        guard !checks.isEmpty else {
            return [
                HealthCheck(
                    "probe", .required, found: "the spawner's probe says nothing", neededFor: "every worker", remedy: "run it as root")
            ]
        }
        return checks
    }

    /// Where the state is or will be: its folder, or the nearest above it that exists.
    private var place: String {
        var place = absolute(state ?? "/var/lib")
        while !fileExists(place), place != "/" { place = NodePaths.parent(of: place) }
        return place
    }

    private func space() -> HealthCheck {
        var info = statvfs()
        let isKnown = unsafe statvfs(place, &info) == 0
        let free = isKnown ? UInt64(info.f_bavail) * UInt64(info.f_frsize) : 0
        return HealthCheck(
            "disk", isWell: free >= 1 << 30, else: .missing, found: isKnown ? "\(Units.bytes(free)) free at \(place)" : "unknown",
            neededFor: "code, logs and the database (1 GiB is a start)", remedy: "free some space, or choose another --state DIR")
    }

    static func stateCheck(_ state: String) -> HealthCheck {
        let needed = "everything that a node keeps"
        guard fileExists(state) else {
            return HealthCheck("state", .ok, found: "\(state) does not exist yet; bulkhead up makes it", neededFor: needed, remedy: "")
        }
        guard let directory = try? Directory.open(state) else {
            return HealthCheck(
                "state", .required, found: "\(state) is no folder that can be read", neededFor: needed, remedy: "choose another --state DIR"
            )
        }
        var info = statvfs()
        if unsafe statvfs(directory.path, &info) == 0, info.f_flag & UInt(ST_RDONLY) != 0 {
            return HealthCheck("state", .required, found: "\(state) is read-only", neededFor: needed, remedy: "choose another --state DIR")
        }
        do { try StateDirectory.checkVersion(directory) } catch {
            let found = (error as? Failure).map { Phrase.open($0.sentence) } ?? "its version cannot be read"
            return HealthCheck("state", .required, found: found, neededFor: needed, remedy: "choose another --state DIR")
        }
        let isRunning = StateDirectory.isInUse(state)
        return HealthCheck("state", .ok, found: isRunning ? "\(state), a node runs on it" : state, neededFor: needed, remedy: "")
    }

    static func portCheck(_ port: UInt16) -> HealthCheck {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var yes: Int32 = 1
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        let number = errno
        return HealthCheck(
            "port", isWell: result == 0, else: .required, found: result == 0 ? "\(port) is free" : "\(port): \(errorText(number))",
            neededFor: "calls over HTTP", remedy: "stop what listens there, or choose another --port")
    }
}
