// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit

/// Drives ``SandboxHost`` for the tests, which run in many threads where this needs one. `sandbox-driver SHARE SCRATCH CODE stages` fails every stage once;
/// `... run COMMAND [ARGUMENT]` starts one worker and prints its reports; `... network COMMAND` one with network, `... sealed COMMAND` does so from a sealed one. `... buckets ID GRANTS COMMAND` and
/// `... sealed-buckets ID GRANTS COMMAND` give it buckets of the tenant `acme` in `CODE.buckets`, which belong to ``owner``: `read`, `write+`, `part+out/`, with
/// commas between; `... posture ID GRANTS COMMAND` waits for its first line and prints what its posture says of them.
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
        let driver = Driver(host: host, tree: tree, code: code, buckets: words[3] + ".buckets")
        switch words[4] {
        case "stages":
            let command = ["./program", "exit", "0"]
            for stage in SandboxFailure.allStages where ![60, 64, 68].contains(stage) {
                driver.attempt(
                    stage: stage, command: command, grants: [29, 61, 62, 63].contains(stage) ? grants("write+") : [],
                    hasNetwork: [8, 9, 25].contains(stage))
            }
            driver.attempt(stage: 0, command: command)
            driver.attempt(stage: 43, command: command, isSealed: true)
            for stage: UInt32 in [60, 64, 68] { driver.attempt(stage: stage, command: command, isSealed: true, grants: grants("write+")) }
        case "run": driver.attempt(stage: 0, command: Array(words[5...]))
        case "network": driver.attempt(stage: 0, command: Array(words[5...]), hasNetwork: true)
        case "sealed": driver.attempt(stage: 0, command: Array(words[5...]), isSealed: true)
        case "buckets", "sealed-buckets", "posture":
            guard words.count > 7, let id = UInt32(words[5]) else { fatal("\(words[4]) needs an id, grants and a command") }
            driver.attempt(
                stage: 0, command: Array(words[7...]), isSealed: words[4] == "sealed-buckets", id: id, grants: grants(words[6]),
                isPosture: words[4] == "posture")
        default: fatal("unknown mode \(words[4])")
        }
    }

    static func grants(_ text: String) -> [BucketGrant] {
        text.split(separator: ",").compactMap { word in
            let parts = word.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
            return Name(parts[0]).map { BucketGrant(bucket: $0, isWritable: parts.count > 1, prefix: parts.count > 1 ? parts[1] : "") }
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
    let buckets: String
    static let owner: UInt32 = 699_990
    static let limits = WorkerLimits(memoryBytes: 64 << 20, processes: 32)

    private func access(_ grants: [BucketGrant]) -> Buckets? {
        guard let tenant = Name("acme"), !grants.isEmpty else { return nil }
        return Buckets(root: buckets, ownerUID: Self.owner, ownerGID: Self.owner, tenant: tenant, grants: grants)
    }

    /// For the stages that concern them: the folder `one` in `CODE.layers`.
    private func layers(_ stage: UInt32) -> Layers? {
        (65...68).contains(stage) ? Layers(root: buckets.dropLast("buckets".count) + "layers", names: [Name("one")].compactMap { $0 }) : nil
    }

    /// Prints two lines: `stage N: ` and how the start or the worker ended, `after N: ` and what is left of it.
    func attempt(
        stage: UInt32, command: [String], isSealed: Bool = false, id: UInt32? = nil, grants: [BucketGrant] = [], isPosture: Bool = false,
        hasNetwork: Bool = false
    ) {
        // Of this program alone: suites beside this one drive others, whose workers are nobody's leftovers.
        let uid = id ?? 2_000_000 + UInt32(getpid() % 65_536) * 64 + stage
        let path = "g1/w-\(stage)"
        let before = Footprint()
        defer {
            var left = Footprint().leftovers(since: before, uid: uid)
            // The kernel may take a moment for the last of a process that it has reported as ended.
            if !(0..<1000).contains(where: { _ in tree.remove(path) || usleep(1000) != 0 }) { left.append("its cgroup cannot be removed") }
            print("after \(stage): \(left.isEmpty ? "nothing is left" : left.joined(separator: "; "))")
        }
        do {
            try tree.create("g1", limits: CgroupLimits(memoryBytes: 256 << 20, cpuMilli: 1000, processes: 100), isLeaf: false)
            try tree.create(path, limits: CgroupLimits(memoryBytes: 64 << 20, cpuMilli: 1000, processes: 32), isLeaf: true)
            let unified = try tree.openUnified(path)
            let joins = try tree.openJoins(path)
            defer { for file in joins + [unified].compactMap({ $0 }) { close(file) } }
            var spec = SandboxSpec(runtime: "native", waitsForOrder: isSealed, id: uid, limits: Self.limits)
            spec.cgroup = unified
            spec.joins = joins
            spec.cgroupSuffix = tree.suffix(path)
            spec.cgroupLines = tree.membershipLines
            spec.code = isSealed ? nil : code
            spec.command = command
            spec.buckets = isSealed ? nil : access(grants)
            spec.layers = isSealed ? nil : layers(stage)
            spec.failStage = stage
            spec.network = hasNetwork
            let worker = try host.launch(spec).split()
            let files = [worker.pidfd, worker.report, worker.control, worker.stdout, worker.stderr]
            defer { for file in files + (worker.egress.map { [$0] } ?? []) { close(file) } }
            if isPosture {
                print(output(worker.stdout), posture(worker.pid, uid, path, access(grants)))
                kill(worker.pid, SIGKILL)
            }
            let end = follow(worker.pid, uid, worker.report, command, access(grants), stage)
            print("stage \(stage): \(end) \(output(worker.stdout))")
        } catch let failure as SandboxFailure {
            print("stage \(stage): refused at \(failure.stage) \(failure.errno == EREMOTEIO) \(failure)")
        } catch { print("stage \(stage): \(error)") }
    }

    /// Holes, of a worker with these buckets, and of one that should have none.
    private func posture(_ pid: Int32, _ uid: UInt32, _ path: String, _ buckets: Buckets?) -> String {
        [buckets, nil].map { buckets in
            let expectation = Posture.Expectation(
                reaper: pid, uid: uid, processes: 32, cgroupSuffix: tree.suffix(path), cgroupLines: tree.membershipLines, buckets: buckets)
            let checks = Posture.read(expectation)
            return "\(checks.count > 30) holes: "
                + checks.filter { !$0.isHeld }.map { "\($0.name) is \($0.actual)" }.joined(separator: "; ")
        }.joined(separator: "\nwithout ")
    }

    private func follow(
        _ pid: Int32, _ uid: UInt32, _ report: Int32, _ command: [String], _ buckets: Buckets?, _ stage: UInt32
    ) -> String {
        var text = ""
        var bytes = [UInt8](repeating: 0, count: 64)
        while true {
            let count = unsafe recv(report, &bytes, bytes.count, 0)
            // Said once where the worker ended with the go-ahead unread; what it had said comes after.
            if count < 0, errno == ECONNRESET { continue }
            guard count > 0, let message = SandboxReport(Array(bytes.prefix(count))) else { break }
            switch message {
            case .sealed:
                text += "sealed "
                do throws(SandboxFailure) {
                    try host.assign(
                        pid: pid, id: uid, code: code, temporaryBytes: 1 << 20, buckets: buckets, layers: layers(stage),
                        limits: ProcessLimits(Self.limits), failStage: stage)
                    try host.order(report, runtime: "native", command: command)
                } catch {
                    text += "refused at \(error.stage) \(error.errno == EREMOTEIO) "
                    kill(pid, SIGKILL)
                }
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
