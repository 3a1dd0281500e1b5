// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit

/// Drives ``SandboxHost`` for the tests, which run in many threads where this needs one. `sandbox-driver SHARE SCRATCH CODE stages` fails every stage once;
/// `... run COMMAND [ARGUMENT]` starts one worker and prints its reports; `... sealed COMMAND` does so from a sealed one.
@main struct Main {
    static func main() throws {
        let words = CommandLine.arguments
        guard words.count >= 5 else { fatal("usage: sandbox-driver SHARE SCRATCH CODE stages|run|sealed ...") }
        var profile = RuntimeProfile(name: "native", mounts: [.init(source: "/usr", target: "/usr")])
        profile.links = [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")].map { .init(source: $0.0, target: $0.1) }
        let host = try SandboxHost(scratchDirectory: words[2], shareDirectory: words[1], profiles: [profile])
        guard let tree = CgroupTree(name: "bulkhead-sandbox-test-\(getpid())") else { fatal("no cgroups") }
        try tree.prepare()
        defer { tree.removeAll() }
        let code = unsafe open(words[3], O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        let driver = Driver(host: host, tree: tree, code: code)
        switch words[4] {
        case "stages":
            for stage in SandboxFailure.allStages where stage != 60 { driver.attempt(stage: stage, command: ["./program", "exit", "0"]) }
            driver.attempt(stage: 0, command: ["./program", "exit", "0"])
            driver.attempt(stage: 43, command: ["./program", "exit", "0"], isSealed: true)
        case "run": driver.attempt(stage: 0, command: Array(words[5...]))
        case "sealed": driver.attempt(stage: 0, command: Array(words[5...]), isSealed: true)
        default: fatal("unknown mode \(words[4])")
        }
    }

    static func fatal(_ text: String) -> Never {
        print("driver: \(text)")
        exit(2)
    }
}

struct Driver {
    let host: SandboxHost
    let tree: CgroupTree
    let code: Int32

    /// Prints one line: `stage N: ` and how the start or the worker ended.
    func attempt(stage: UInt32, command: [String], isSealed: Bool = false) {
        let limits = WorkerLimits(memoryBytes: 64 << 20, processes: 32)
        let path = "g1/w-\(stage)"
        do {
            try tree.create("g1", limits: CgroupLimits(memoryBytes: 256 << 20, cpuMilli: 1000, processes: 100), isLeaf: false)
            try tree.create(path, limits: CgroupLimits(memoryBytes: 64 << 20, cpuMilli: 1000, processes: 32), isLeaf: true)
            let unified = try tree.openUnified(path)
            let joins = try tree.openJoins(path)
            defer { for file in joins + [unified].compactMap({ $0 }) { close(file) } }
            var spec = SandboxSpec(runtime: "native", waitsForOrder: isSealed, id: 790_000 + stage, limits: limits)
            spec.cgroup = unified
            spec.joins = joins
            spec.cgroupSuffix = tree.suffix(path)
            spec.cgroupLines = tree.membershipLines
            spec.code = isSealed ? nil : code
            spec.command = command
            spec.failStage = stage
            let worker = try host.launch(spec).split()
            defer { for file in [worker.pidfd, worker.report, worker.control, worker.stdout, worker.stderr] { close(file) } }
            print("stage \(stage): \(follow(worker.pid, worker.report, command, isSealed, stage)) \(output(worker.stdout))")
        } catch let failure as SandboxFailure {
            print("stage \(stage): refused at \(failure.stage) \(failure.errno == EREMOTEIO)")
        } catch { print("stage \(stage): \(error)") }
        for _ in 0..<1000 where !tree.remove(path) { usleep(1000) }
    }

    private func follow(_ pid: Int32, _ report: Int32, _ command: [String], _ isSealed: Bool, _ stage: UInt32) -> String {
        var text = ""
        var bytes = [UInt8](repeating: 0, count: 64)
        while true {
            let count = unsafe recv(report, &bytes, bytes.count, 0)
            guard count > 0, let message = SandboxReport(Array(bytes.prefix(count))) else { break }
            switch message {
            case .sealed:
                text += "sealed "
                do {
                    try host.assign(pid: pid, code: code, temporaryBytes: 1 << 20)
                    try host.order(report, runtime: "native", command: command)
                } catch { text += "\(error) " }
            case .failed(let stage, let errno): text += "failed at \(stage) \(errno == EREMOTEIO) "
            case .ended(let cause): text += "ended: \(cause) "
            case .syscall(_, let name, let native): text += "syscall: \(name) \(native) "
            }
            if case .failed = message { kill(pid, SIGKILL) }
        }
        waitpid(pid, nil, 0)
        return text
    }

    private func output(_ file: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe read(file, &bytes, bytes.count)
        return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : ""
    }
}
