// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit

/// `--learn`: runs one program of the operator's in the sandbox with a filter that refuses nothing, and prints the rules that it would have needed. A process of its own, which
/// ends with the program: it opens no listener, starts no daemon, and nothing that a daemon may ask for leads here.
enum Learning {
    static let usage = "--learn POLICY [--network] FOLDER PROGRAM [ARGUMENT ...]"

    struct Failure: Error, CustomStringConvertible { let description: String }

    static func run(_ words: [String], say: (String) -> Void) throws -> Int32 {
        var words = words[...]
        guard geteuid() == 0 else { throw Failure(description: "must be started as root") }
        guard let path = words.popFirst() else { throw Failure(description: "usage: bulkhead-spawner \(usage)") }
        let hasNetwork = words.first == "--network"
        if hasNetwork { words.removeFirst() }
        guard let folder = words.popFirst(), !words.isEmpty else { throw Failure(description: "usage: bulkhead-spawner \(usage)") }
        let policy = try SpawnerPolicy.load(path)
        let lock = unsafe open(policy.stateDirectory + "/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard lock >= 0, ProcessControl.lockExclusively(lock) else {
            throw Failure(
                description:
                    "a node runs on \(policy.stateDirectory), and may serve tenants: stop it, or name the policy of one that is stopped")
        }
        // `sealed` has what any of the runtimes needs.
        guard let profile = ["sealed", "native"].lazy.compactMap({ name in policy.runtimes.first { $0.name == name } }).first else {
            throw Failure(description: "\(path) has no runtime without a program of its own (sealed, native)")
        }
        // Opened when the process has the mount namespace that it is mounted from.
        guard let resolved = unsafe realpath(folder, nil) else { throw Failure(description: "\(folder): \(reason)") }
        defer { unsafe free(resolved) }
        let rules = "\(policy.shareDirectory)/policy/\(profile.filter).json"
        var lesson = try FilterLesson(file: rules, network: hasNetwork)
        umask(0o022)
        guard unsafe chdir("/") == 0 else { throw Failure(description: "cannot enter /") }
        let scratch = policy.stateDirectory + "/mnt"
        if unsafe mkdir(scratch, 0o700) != 0, errno != EEXIST { throw Failure(description: "cannot make \(scratch)") }
        let host = try SandboxHost(scratchDirectory: scratch, shareDirectory: policy.shareDirectory, profiles: [profile], learns: true)
        try SandboxHost.reducePrivileges()
        let code = unsafe open(resolved, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard code >= 0 else { throw Failure(description: "\(folder): \(reason)") }
        say("nothing is refused by the filter here: run what you trust")
        let worker = try host.launch(
            SandboxSpec(
                runtime: profile.name, id: policy.firstUID, limits: WorkerLimits(memoryBytes: 1 << 30, processes: 512), network: hasNetwork,
                code: code, command: Array(words))
        ).split()
        let end = follow(worker.report, outputs: [worker.stdout, worker.stderr], &lesson)
        waitpid(worker.pid, nil, 0)
        for number in lesson.unnamed.sorted() { say("call \(number) has no name in this release's table") }
        if lesson.dropped > 0 { say("\(lesson.dropped) calls that differ from the first \(FilterLesson.limit) were not kept") }
        for line in lesson.lines { print(line) }
        guard let end else { throw Failure(description: "the program could not be started") }
        say("the program ended: \(end)")
        return 0
    }

    private static var reason: String { unsafe String(cString: strerror(errno)) }

    /// Passes on what the program writes, to standard error, and takes down what it calls, until its pid 1 has ended.
    private static func follow(_ report: Int32, outputs: [Int32], _ lesson: inout FilterLesson) -> DeathCause? {
        var watched = ([report] + outputs).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        var bytes = [UInt8](repeating: 0, count: 16 << 10)
        var end: DeathCause?
        while watched.contains(where: { $0.fd >= 0 }) {
            guard unsafe poll(&watched, UInt(watched.count), -1) > 0 else { continue }
            for index in watched.indices where watched[index].revents != 0 {
                let count = unsafe read(watched[index].fd, &bytes, bytes.count)
                guard count > 0 else {
                    // Once where the worker ended with something of ours unread.
                    if count == 0 || errno != ECONNRESET { watched[index].fd = -1 }
                    continue
                }
                let message = Array(bytes.prefix(count))
                if index > 0 {
                    unsafe write(2, message, count)
                } else if let call = LearnedCall(message) {
                    lesson.note(call)
                } else if case .ended(let cause)? = SandboxReport(message) {
                    end = cause
                }
            }
        }
        return end
    }
}
