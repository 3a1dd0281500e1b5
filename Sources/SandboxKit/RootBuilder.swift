// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc

/// Builds the root that workers of one runtime start in, on a tmpfs of ours: nobody but us ever wrote a path in it, so no path can be a planted link.
struct RootBuilder {
    let scratch: String
    private var root: String { scratch }

    /// Returns a handle on the finished mount namespace. The caller is then inside it and goes home by itself.
    func build(_ profile: RuntimeProfile) throws(SandboxFailure) -> Int32 {
        try check(unsafe sbx_namespace_begin(scratch), "begin the root of \(profile.name)")
        for directory in ["tmp", "dev", "dev/shm", "proc", "function", "runtime", "buckets", "layers", "etc", "usr"] {
            try makeDirectory("/" + directory)
        }
        for device in ["null", "zero", "full", "random", "urandom"] {
            try writeFile("/dev/" + device, "")
            try check(unsafe sbx_bind("/dev/" + device, root + "/dev/" + device, 1), "bind /dev/\(device)")
        }
        for (text, path) in [("/proc/self/fd", "/dev/fd"), ("fd/0", "/dev/stdin"), ("fd/1", "/dev/stdout"), ("fd/2", "/dev/stderr")] {
            try link(text, path)
        }
        let id = SBX_INNER_ID
        try writeFile("/etc/passwd", "worker:x:\(id):\(id):worker:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
        try writeFile("/etc/group", "worker:x:\(id):\nnogroup:x:65534:\n")
        try writeFile("/etc/hosts", "127.0.0.1 localhost worker\n::1 localhost\n")
        try writeFile("/etc/hostname", "worker\n")
        try writeFile("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
        for entry in profile.links { try link(entry.source, entry.target) }
        for mount in profile.mounts {
            try makeDirectory(mount.target)
            try check(unsafe sbx_bind(mount.source, root + mount.target, 0), "bind \(mount.source) at \(mount.target)")
        }
        for file in profile.files {
            if let slash = file.target.lastIndex(of: "/") { try makeDirectory(String(file.target[..<slash])) }
            try writeFile(file.target, "")
            try check(unsafe sbx_bind(file.source, root + file.target, 0), "bind \(file.source) at \(file.target)")
        }
        var handle: Int32 = -1
        try check(unsafe sbx_namespace_seal(scratch, &handle), "seal the root of \(profile.name)")
        return handle
    }

    private func makeDirectory(_ path: String) throws(SandboxFailure) {
        var built = root
        for part in path.split(separator: "/") {
            built += "/" + part
            if unsafe mkdir(built, 0o755) != 0, errno != EEXIST {
                throw SandboxFailure("make the directory \(path) in the root", errno: errno)
            }
            // umask must not decide what workers may read.
            unsafe chmod(built, 0o755)
        }
    }

    private func writeFile(_ path: String, _ text: String) throws(SandboxFailure) {
        let file = unsafe open(root + path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw SandboxFailure("write \(path) in the root", errno: errno) }
        defer { close(file) }
        guard unsafe write(file, text, text.utf8.count) == text.utf8.count, fchmod(file, 0o644) == 0 else {
            throw SandboxFailure("write \(path) in the root", errno: errno)
        }
    }

    private func link(_ text: String, _ path: String) throws(SandboxFailure) {
        if unsafe symlink(text, root + path) != 0, errno != EEXIST { throw SandboxFailure("link \(path) in the root", errno: errno) }
    }

    private func check(_ error: Int32, _ subject: String) throws(SandboxFailure) {
        if error != 0 { throw SandboxFailure(subject, errno: error) }
    }
}
