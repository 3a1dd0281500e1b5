// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit
import Wire

extension Spawner {
    /// What the worker's own setup code says. The tenant's code cannot speak here: its copy of the socket closes on exec.
    func readReports(_ id: WorkerID) {
        guard let worker = workers[id] else { return }
        var bytes = [UInt8](repeating: 0, count: 64)
        while true {
            let count = unsafe recv(worker.report, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            guard count > 0 else {
                // The end of file of a worker that is going: its exit follows.
                if count == 0 { poller.remove(worker.report) }
                return
            }
            guard let report = SandboxReport(Array(bytes.prefix(count))) else { continue }
            switch report {
            case .sealed: completePending(id)
            case .failed(let stage, let errno):
                let name = SandboxFailure.stageName(stage) ?? "unknown"
                note(.setupFailed(stage: stage, stageName: String(name.prefix(60)), errno: errno), id)
                ProcessControl.signal(pidfd: worker.pidfd, SIGKILL)
            case .syscall(let number, let name, let native): note(.syscall(number: number, name: name, native: native), id)
            case .ended(let cause): note(cause, id)
            }
        }
    }

    /// The first report counts: the end that follows a failed stage says less.
    private func note(_ cause: DeathCause, _ id: WorkerID) {
        guard workers[id]?.cause == nil else { return }
        workers[id]?.cause = cause
    }

    /// v1 has no `memory.oom.group`: when one process of the worker was killed for memory, the rest goes with it.
    func ranOutOfMemory(_ id: WorkerID) {
        guard let worker = workers[id], let event = worker.outOfMemoryEvent else { return }
        var count: UInt64 = 0
        unsafe read(event, &count, 8)
        if cgroups.usage(worker.path).oomKills > 0 { ProcessControl.signal(pidfd: worker.pidfd, SIGKILL) } else { suspects.insert(id) }
    }

    /// Pid 1 of the worker is gone, and with it, before it could be waited for, every process of its pid namespace. pid_namespaces(7).
    func workerExited(_ id: WorkerID) {
        guard workers[id] != nil else { return }
        readReports(id)
        var status: Int32 = 0
        // Without a wait: nothing may hold this thread up.
        guard let pid = workers[id]?.pid, unsafe waitpid(pid, &status, WNOHANG) != 0 else { return }
        guard var worker = workers.removeValue(forKey: id) else { return }
        for descriptor in [worker.report, worker.pidfd] + (worker.outOfMemoryEvent.map { [$0] } ?? []) {
            poller.remove(descriptor)
            close(descriptor)
        }
        pendingCode[id] = nil
        suspects.remove(id)
        let kernel = cgroups.usage(worker.path)
        worker.usage = Usage(kernel)
        worker.cause = cause(worker, status, kernel)
        leaving.append(worker)
        retryLeaving()
        ends &+= 1
        // A tenth of a millisecond, so not at each.
        if ends.isMultiple(of: 256) { ProcessControl.forgetCode() }
    }

    private func cause(_ worker: LiveWorker, _ status: Int32, _ kernel: CgroupUsage) -> DeathCause {
        switch worker.cause {
        case .setupFailed, .syscall: return worker.cause ?? .killed
        default: break
        }
        if kernel.oomKills > 0 { return .outOfMemory(limit: worker.limits.memoryBytes, peak: kernel.peakMemoryBytes) }
        // Killed by the filter without a word: a call of a foreign ABI. seccomp(2), SECCOMP_RET_KILL_PROCESS ends with SIGSYS.
        if case .signalled(SIGSYS) = worker.cause { return .syscall(number: -1, name: "", native: false) }
        if worker.isKilled { return .killed }
        return worker.cause ?? (status & 0x7F > 0 ? .signalled(status & 0x7F) : .exited(code: (status >> 8) & 0xFF))
    }

    /// A worker is gone for the daemon when its cgroup is: only then are its uid and its memory free.
    func retryLeaving() {
        guard !leaving.isEmpty else { return }
        leaving.removeAll { worker in
            guard cgroups.remove(worker.path) else { return false }
            uids.give(back: worker.uid)
            tellEnd(worker)
            return true
        }
        tellUntold()
        for id in suspects {
            guard let worker = workers[id] else { continue }
            if cgroups.usage(worker.path).oomKills > 0 {
                suspects.remove(id)
                ProcessControl.signal(pidfd: worker.pidfd, SIGKILL)
            }
        }
    }
}
