// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A helper program of the CLI (`tar`, an interpreter that is asked for its version) whose standard output is read.
///
/// It starts with no signal blocked or ignored; every descriptor that this program opens is closed in it.
public final class ChildProgram {
    /// Its process id, for kill(2); good until ``wait()`` has returned.
    public let process: Int32
    private let output: Int32
    private var status: Int32?

    /// Starts `arguments[0]` (an absolute path).
    ///
    /// - Parameter errors: the file that standard error goes to, made where it does not exist; nil for ours.
    /// - Throws: ``FileError`` with what posix_spawn(3) or pipe(2) said.
    public init(_ arguments: [String], environment: [String] = [], errors: String? = nil) throws(FileError) {
        let program = arguments.first ?? ""
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw FileError(path: program, errno: errno) }
        defer { close(ends[1]) }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        if let errors { unsafe posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_APPEND, 0o600) }
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe sigfillset(&signals)
        unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var child: pid_t = 0
        let result = unsafe withCStrings(arguments) { vector in
            unsafe withCStrings(environment) { unsafe posix_spawn(&child, program, &actions, &attributes, vector, $0) }
        }
        guard result == 0 else {
            close(ends[0])
            throw FileError(path: program, errno: result)
        }
        process = child
        output = ends[0]
    }

    deinit {
        close(output)
        if status == nil {
            kill(process, SIGKILL)
            _ = wait()
        }
    }

    /// The next bytes of its standard output; nil at the end. Blocks.
    public func read(upTo count: Int = 128 << 10) throws(FileError) -> [UInt8]? { try readSome(output, "pipe", count) }

    /// Waits for its end. Returns the exit code, or 128 and the signal's number.
    @discardableResult
    public func wait() -> Int32 {
        if let status { return status }
        var raw: Int32 = 0
        while unsafe waitpid(process, &raw, 0) < 0, errno == EINTR {}
        let code = raw & 0x7f == 0 ? (raw >> 8) & 0xff : 128 + (raw & 0x7f)
        status = code
        return code
    }

    /// Runs a program to its end: what it printed (at most 1 MiB is kept) and its exit code.
    public static func run(_ arguments: [String], environment: [String] = []) throws(FileError) -> (output: String, code: Int32) {
        let child = try ChildProgram(arguments, environment: environment, errors: "/dev/null")
        var bytes: [UInt8] = []
        while let chunk = try child.read() { if bytes.count < 1 << 20 { bytes += chunk } }
        return (String(decoding: bytes, as: UTF8.self), child.wait())
    }
}

/// Replaces this program (execve(2)) with all signals unblocked and at their defaults, and no descriptor but 0, 1, 2 and those below `kept`.
///
/// - Throws: ``FileError``; it does not return otherwise.
public func replaceProgram(_ arguments: [String], environment: [String], keepingBelow kept: Int32 = 3) throws(FileError) -> Never {
    let program = arguments.first ?? ""
    var signals = sigset_t()
    unsafe sigemptyset(&signals)
    // A thread's own mask is what execve keeps, whichever thread this is.
    unsafe pthread_sigmask(SIG_SETMASK, &signals, nil)
    for number in 1..<Int32(NSIG) where number != SIGKILL && number != SIGSTOP { signal(number, SIG_DFL) }
    for name in (try? Directory.open("/proc/self/fd").names()) ?? [] {
        if let descriptor = Int32(name), descriptor > 2, descriptor >= kept { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    }
    _ = unsafe withCStrings(arguments) { vector in unsafe withCStrings(environment) { unsafe execve(program, vector, $0) } }
    throw FileError(path: program, errno: errno)
}

/// Lets this program and what it executes open as many files as its hard limit allows, 65,536 at most, as under the service: a shell's soft limit of 1,024 is for programs
/// that call select(2). getrlimit(2).
public func raiseOpenFiles() {
    var limit = rlimit()
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = max(limit.rlim_cur, min(limit.rlim_max, 65_536))
    _ = unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Lends the strings as a C vector ended by a null pointer (argv, envp) for one call.
private func withCStrings<R>(
    _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R
) -> R {
    var vector: [UnsafeMutablePointer<CChar>?] = unsafe strings.map { unsafe strdup($0) }
    unsafe vector.append(nil)
    defer { for index in unsafe vector.indices { unsafe free(vector[index]) } }
    return unsafe vector.withUnsafeMutableBufferPointer { buffer in
        guard let base = buffer.baseAddress else { preconditionFailure("a vector holds at least its null pointer") }
        return unsafe body(base)
    }
}

/// A file that is read from its beginning to its end.
public final class FileReader {
    private let path: String
    private let descriptor: Int32

    /// - Throws: ``FileError`` where the file cannot be opened.
    public init(_ path: String) throws(FileError) {
        self.path = path
        descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw FileError(path: path, errno: errno) }
    }

    deinit { close(descriptor) }

    /// The next bytes; nil at the end.
    public func read(upTo count: Int = 128 << 10) throws(FileError) -> [UInt8]? { try readSome(descriptor, path, count) }
}

/// The next bytes of a descriptor; nil at the end. Blocks.
private func readSome(_ descriptor: Int32, _ path: String, _ count: Int) throws(FileError) -> [UInt8]? {
    while true {
        var got = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            got = unsafe Glibc.read(descriptor, buffer.baseAddress, count)
            initialized = max(0, got)
        }
        if got > 0 { return bytes }
        if got == 0 { return nil }
        if errno != EINTR { throw FileError(path: path, errno: errno) }
    }
}
