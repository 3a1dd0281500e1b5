// SPDX-License-Identifier: Apache-2.0

import Glibc

extension HostInventory {
    /// Looks at the host: interpreters, `bsdtar`, and the shape of its root folder.
    public static func probe(_ paths: NodePaths) -> HostInventory {
        HostInventory(
            python: python(paths), node: node(paths), bsdtar: inUsr(paths.onPath("bsdtar", isExecutable: isExecutableFile)),
            rootEntries: rootNames.compactMap { name in
                var info = stat()
                guard unsafe lstat(name, &info) == 0 else { return nil }
                guard info.st_mode & S_IFMT == S_IFLNK else { return RootEntry(name, link: nil) }
                return link(name).map { RootEntry(name, link: $0) }
            },
            trees: optionalTrees.filter(fileExists), files: optionalFiles.filter(fileExists))
    }

    /// `/usr/bin/python3` first: its libraries are where every worker sees them. Else what PATH offers, asked for its real place,
    /// because version managers put scripts there.
    private static func python(_ paths: NodePaths) -> Interpreter? {
        let question = "import sys; print(sys.version_info >= (3, 9)); print(sys.executable); print(sys.base_prefix)"
        for candidate in ["/usr/bin/python3", paths.onPath("python3", isExecutable: isExecutableFile)].compactMap({ $0 })
        where isExecutableFile(candidate) {
            guard let lines = answer([candidate, "-I", "-c", question], paths), lines.count == 3, lines[0] == "True",
                let executable = try? canonical(lines[1])
            else { continue }
            if executable.hasPrefix("/usr/") { return Interpreter(executable: candidate.hasPrefix("/usr/") ? candidate : executable) }
            return Interpreter(
                executable: executable, prefix: (try? canonical(lines[2])) ?? NodePaths.parent(of: NodePaths.parent(of: executable)))
        }
        return nil
    }

    private static func node(_ paths: NodePaths) -> Interpreter? {
        let question = "console.log(Number(process.versions.node.split('.')[0]) >= 16); console.log(process.execPath)"
        for candidate in ["/usr/bin/node", paths.onPath("node", isExecutable: isExecutableFile)].compactMap({ $0 })
        where isExecutableFile(candidate) {
            guard let lines = answer([candidate, "-e", question], paths), lines.count == 2, lines[0] == "true",
                let executable = try? canonical(lines[1])
            else { continue }
            if executable.hasPrefix("/usr/") { return Interpreter(executable: executable) }
            return Interpreter(executable: executable, prefix: NodePaths.parent(of: NodePaths.parent(of: executable)))
        }
        return nil
    }

    private static func answer(_ arguments: [String], _ paths: NodePaths) -> [String]? {
        let environment = ["PATH=" + (paths.environment["PATH"] ?? "/usr/bin:/bin"), "HOME=/", "LANG=C.UTF-8"]
        guard let (output, code) = try? ChildProgram.run(arguments, environment: environment), code == 0 else { return nil }
        return output.split(separator: "\n").map(String.init)
    }

    /// A path that workers see as well, or nil.
    private static func inUsr(_ path: String?) -> String? {
        guard let path, let real = try? canonical(path), real.hasPrefix("/usr/") else { return nil }
        return real
    }

    private static func link(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = unsafe readlink(path, &buffer, buffer.count)
        return count > 0 ? String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self) : nil
    }
}
