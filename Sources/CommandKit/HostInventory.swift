// SPDX-License-Identifier: Apache-2.0

/// What the host offers to build runtimes from. Gathered once, so that everything made of it is pure.
public struct HostInventory: Hashable, Sendable {
    /// An interpreter and, where it lies outside `/usr`, the folder to show to workers.
    public struct Interpreter: Hashable, Sendable {
        public var executable: String
        public var prefix: String?
        public init(executable: String, prefix: String? = nil) {
            self.executable = executable
            self.prefix = prefix
        }
    }
    public var python: Interpreter?
    public var node: Interpreter?
    public var bsdtar: String?
    /// `/bin`, `/sbin`, `/lib` ...
    public var rootEntries: [RootEntry]
    /// Which of ``optionalTrees`` exist.
    public var trees: [String]
    /// Which of ``optionalFiles`` exist.
    public var files: [String]

    /// A top folder of the host that programs refer to.
    public struct RootEntry: Hashable, Sendable {
        public var name: String
        /// What the link says (`usr/bin`); nil where it is a folder of its own.
        public var link: String?
        public init(_ name: String, link: String?) {
            self.name = name
            self.link = link
        }
    }

    /// Folders of the host that programs in `/usr` refer to.
    public static let optionalTrees = ["/etc/alternatives", "/etc/ssl/certs"]
    public static let optionalFiles = ["/etc/ld.so.cache"]
    public static let rootNames = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"]

    public init(
        python: Interpreter?, node: Interpreter?, bsdtar: String?, rootEntries: [RootEntry], trees: [String],
        files: [String]
    ) {
        self.python = python
        self.node = node
        self.bsdtar = bsdtar
        self.trees = trees
        self.files = files
        self.rootEntries = rootEntries
    }
}

/// A runtime that this host cannot offer, and how to mend it.
public struct MissingRuntime: Hashable, Sendable {
    public var name: String
    public var needs: String
    public var package: String
    public var sentence: String {
        name == "unpack"
            ? "Deploying is not possible because \(needs) is missing; run: apt-get install \(package)"
            : "The runtime \(name) is left out because \(needs) is missing; run: apt-get install \(package)"
    }
}

extension HostInventory {
    /// The runtimes of this host and the ones that it lacks parts for.
    public func runtimes(shareDirectory: String) -> (offered: [SpawnerPolicy.Runtime], missing: [MissingRuntime]) {
        var offered: [SpawnerPolicy.Runtime] = []
        var missing: [MissingRuntime] = []
        if let python {
            let options = ["-u", "-B", "-X", "utf8"]
            let arguments = [python.executable] + options + ["/runtime/python3/bootstrap.py"]
            offered.append(interpreter("python3", python, arguments, floor: 24 << 20, share: shareDirectory))
        } else {
            missing.append(MissingRuntime(name: "python3", needs: "a Python 3 interpreter", package: "python3-minimal"))
        }
        if let node {
            let arguments = [node.executable, "/runtime/nodejs/bootstrap.cjs"]
            offered.append(interpreter("nodejs", node, arguments, floor: 64 << 20, share: shareDirectory))
        } else {
            missing.append(MissingRuntime(name: "nodejs", needs: "Node.js", package: "nodejs"))
        }
        var command = base("command", share: shareDirectory)
        command.memoryFloor = 8 << 20
        command.arguments = ["/runtime/command/bulkhead-command"]
        offered.append(command)
        offered.append(base("native", share: shareDirectory))
        // A sealed, empty sandbox becomes a worker of any runtime, so its root holds what any of them needs.
        var sealed = base("sealed", share: shareDirectory)
        for prefix in [python?.prefix, node?.prefix].compactMap({ $0 }) { sealed.mounts.append(.init(prefix, prefix)) }
        offered.append(sealed)
        if let bsdtar {
            var unpack = base("unpack", share: shareDirectory)
            unpack.arguments = ["/bin/sh", "-c", "exec \(bsdtar) -cf - --format=newc @- <&3 >&3 3>&-"]
            unpack.memoryFloor = 16 << 20
            offered.append(unpack)
        } else {
            missing.append(MissingRuntime(name: "unpack", needs: "bsdtar", package: "libarchive-tools"))
        }
        return (offered, missing)
    }

    private func interpreter(
        _ name: String, _ interpreter: Interpreter, _ arguments: [String], floor: UInt64, share: String
    ) -> SpawnerPolicy.Runtime {
        var runtime = base(name, share: share)
        if let prefix = interpreter.prefix { runtime.mounts.append(.init(prefix, prefix)) }
        runtime.arguments = arguments
        runtime.memoryFloor = floor
        return runtime
    }

    /// What every root holds: the host's programs and libraries, and the bootstraps.
    private func base(_ name: String, share: String) -> SpawnerPolicy.Runtime {
        var runtime = SpawnerPolicy.Runtime(name: name)
        runtime.mounts = [.init("/usr", "/usr")]
        for entry in rootEntries {
            if let link = entry.link {
                runtime.links.append(.init(link, entry.name))
            } else {
                runtime.mounts.append(.init(entry.name, entry.name))
            }
        }
        runtime.mounts += trees.map { .init($0, $0) }
        runtime.mounts.append(.init(share + "/runtimes", "/runtime"))
        runtime.files = files.map { .init($0, $0) }
        runtime.environment = ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp", "TMPDIR=/tmp"]
        return runtime
    }
}
