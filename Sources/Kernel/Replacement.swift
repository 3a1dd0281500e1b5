// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// Another program in the place of this process's own: execve(2) keeps the process's number, its children (also those that die with it), and the descriptors that are named.
public enum Replacement {
    /// The path of the program that this process executes, also where another file has that name by now.
    public static func ownPath() -> String? {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe readlink("/proc/self/exe", &bytes, bytes.count)
        guard count > 0, let text = String(validating: bytes.prefix(count), as: UTF8.self) else { return nil }
        let mark = " (deleted)"
        return text.hasSuffix(mark) ? String(text.dropLast(mark.count)) : text
    }

    /// Whether another file than the one that this process executes has the path; false where none has.
    public static func isOther(_ path: String) -> Bool {
        var own = stat(), found = stat()
        guard unsafe stat("/proc/self/exe", &own) == 0, unsafe stat(path, &found) == 0 else { return false }
        return own.st_ino != found.st_ino || own.st_dev != found.st_dev
    }

    /// Opens a program that root alone can have written: what is executed later is what was looked at.
    public static func open(_ path: String) throws(KernelError) -> OwnedFD {
        let number = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard number >= 0 else { throw KernelError("open \(path)") }
        let file = OwnedFD(number)
        var status = stat()
        guard unsafe fstat(number, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw KernelError("\(path) is no file", number: EACCES)
        }
        guard status.st_uid == 0, status.st_mode & 0o022 == 0 else {
            throw KernelError("\(path) must belong to root and be writable by root alone", number: EPERM)
        }
        return file
    }

    /// The bytes as a file that nobody can change any more. memfd_create(2).
    public static func sealed(_ bytes: [UInt8]) throws(KernelError) -> OwnedFD {
        let number = unsafe ck_sealed_file(bytes, bytes.count)
        guard number >= 0 else { throw KernelError("keep \(bytes.count) bytes") }
        return OwnedFD(number)
    }

    /// Everything in a file that ``sealed(_:)`` made, at most `limit` bytes.
    public static func read(_ file: Int32, limit: Int) throws(KernelError) -> [UInt8] {
        var status = stat()
        guard unsafe fstat(file, &status) == 0, status.st_size <= limit else { throw KernelError("read a state", number: EFBIG) }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        guard unsafe pread(file, &bytes, bytes.count, 0) == bytes.count else { throw KernelError("read a state") }
        return bytes
    }

    /// Starts the program with `--probe-state 3`, where 3 is `state`. Returns its process and a descriptor that what it says can be read from without waiting.
    public static func startProbe(_ program: Int32, state: Int32, name: String) throws(KernelError) -> (pid: Int32, output: Int32) {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw KernelError("make a pipe") }
        defer { close(ends[1]) }
        for end in ends { _ = ck_keep_open(end, 0) }
        _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
        let pid = unsafe ck_start_probe(program, state, ends[1], name)
        guard pid > 0 else {
            let error = KernelError("start a process")
            close(ends[0])
            throw error
        }
        return (pid, ends[0])
    }

    /// Executes the program in this process, which keeps these descriptors. Returns only where that failed; everything is as before then.
    public static func execute(_ program: Int32, arguments: [String], keeping descriptors: [Int32]) -> KernelError {
        var words = unsafe arguments.map { unsafe strdup($0) }
        unsafe words.append(nil)
        defer { for index in unsafe words.indices { unsafe free(words[index]) } }
        defer { for descriptor in descriptors { _ = ck_keep_open(descriptor, 0) } }
        for descriptor in descriptors where ck_keep_open(descriptor, 1) != 0 { return KernelError("keep descriptor \(descriptor)") }
        _ = unsafe ck_execute(program, &words)
        return KernelError("execute \(arguments.first ?? "")")
    }

    /// The other side of ``execute(_:arguments:keeping:)``: what is named is there, ends with the next execution again, and nothing else is open but the standard three.
    public static func settle(_ descriptors: [Int32]) throws(KernelError) {
        for descriptor in descriptors where ck_keep_open(descriptor, 0) != 0 { throw KernelError("take over descriptor \(descriptor)") }
        let sorted = descriptors.sorted()
        guard unsafe ck_close_others(sorted, sorted.count) == 0 else { throw KernelError("close what was not left") }
        // After execveat(2) the name would be a descriptor's number.
        unsafe ck_name_self("bulkhead-spawner")
    }
}
