// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import SandboxKit
import Wire

import struct SystemPackage.Errno

/// The request gate: every field is checked against the policy before anything happens.
extension Spawner {
    func receiveRequest() {
        guard daemonSocket >= 0 else { return }
        do throws(KernelError) {
            guard let message = try Datagram.receive(daemonSocket, limit: spawnerMessageLimit, maximumDescriptors: 0) else {
                // The daemon closed its end; its death follows, or is made to.
                closeDaemonSocket()
                if daemonPID > 0 { kill(daemonPID, SIGKILL) }
                return
            }
            do throws(WireError) { handle(try SpawnerRequest(decoding: message.bytes[...])) } catch { illegal("\(error)") }
        } catch {
            switch error.errno {
            case .wouldBlock, .resourceTemporarilyUnavailable: break
            // It was killed with events unread: no request, so no illegal one.
            // What it has sent before can still be read: what it wants kept is among it.
            case .connectionReset where successor?.isPrepared == true: break
            case .connectionReset:
                closeDaemonSocket()
                if daemonPID > 0 { kill(daemonPID, SIGKILL) }
            default: illegal("\(error)")
            }
        }
    }

    /// Requests that a daemon has left behind at its end: what it wants kept is among them. Nothing can be added to them, also not by a child of the daemon that has the socket, too:
    /// after SHUT_RD what is there stays readable, and the end of file follows.
    func drainRequests() {
        shutdown(daemonSocket, Int32(SHUT_RD))
        var one = pollfd(fd: daemonSocket, events: Int16(POLLIN), revents: 0)
        while daemonSocket >= 0, unsafe poll(&one, 1, 0) > 0, one.revents & Int16(POLLIN) != 0 { receiveRequest() }
    }

    private func handle(_ request: SpawnerRequest) {
        if case .hello(let version) = request {
            guard !hasGreeted else { return illegal("a second hello") }
            guard version == spawnerProtocolVersion else {
                return illegal("protocol version \(version), this spawner speaks \(spawnerProtocolVersion)")
            }
            hasGreeted = true
            return
        }
        guard hasGreeted else { return illegal("a request before hello") }
        guard daemonPID > 0 else {
            // The last words of a daemon that has ended: nothing is done for it any more.
            if case .keep(let workers, let isLast) = request { keep(workers, isLast: isLast) }
            return
        }
        switch request {
        case .hello: break
        case .ready(let text): ready(text)
        case .setGroup(let group, let limits): setGroup(group, limits)
        case .removeGroup(let group):
            guard groups.contains(group) else { return illegal("removal of an unknown group") }
            guard !workers.values.contains(where: { $0.group == group }) else { return illegal("removal of a group with workers") }
            groups.remove(group)
            dropLeaves(of: group)
            cgroups.remove("\(group)")
        case .spawn(let request): spawn(request)
        case .assign(let worker, let runtime, let limits, let code, let command, let access, let layers):
            assign(worker, runtime, limits, code, command, access, layers)
        case .kill(let worker):
            // A worker may have ended while the request was on its way: that is no breach.
            guard usedIDs.contains(worker.number) else { return illegal("kill of a worker that never was") }
            end(worker)
        case .inspect(let worker): inspect(worker)
        case .usage(let list): tellUsage(list)
        case .alive(let number): answered(number)
        case .restart: beginRestart()
        case .restartWhole: beginRestart(isWhole: true)
        case .keep(let workers, let isLast): keep(workers, isLast: isLast)
        case .prepared: illegal("a daemon that serves is prepared already")
        case .reloaded(let text): reloaded(text)
        case .account(let worker, let account):
            guard usedIDs.contains(worker.number) else { return illegal("an account of a worker that never was") }
            workers[worker]?.account = account
        }
    }

    private func ready(_ text: String) {
        guard text.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) else { return illegal("control characters in the READY line") }
        health.began(MonotonicClock.nanoseconds())
        readyDeadline = nil
        manager.notify(["READY=1", "STATUS=Serves on \(address)."])
        tellUntold()
        // And what only the daemon's start has needed of this program.
        ProcessControl.forgetCode()
        guard !wasEverReady else { return }
        wasEverReady = true
        let line = text + "\n"
        unsafe write(1, line, line.utf8.count)
    }

    private func setGroup(_ group: GroupID, _ limits: GroupLimits) {
        guard limits.isValid, limits.memoryBytes <= policy.ceilings["memory"] ?? 0, UInt64(limits.cpuMilli) <= policy.ceilings["cpu"] ?? 0
        else {
            return illegal("limits of \(group) are above the policy's ceilings")
        }
        guard groups.contains(group) || groups.count < Int(policy.ceilings["groups"] ?? 0) else { return illegal("too many groups") }
        do throws(KernelError) {
            let limits = CgroupLimits(memoryBytes: limits.memoryBytes, cpuMilli: limits.cpuMilli, processes: limits.processes)
            try cgroups.create("\(group)", limits: limits, isLeaf: false)
            groups.insert(group)
            dropLeaves(of: group)
            for worker in workers.values where worker.group == group {
                // On v1 a group's fall took its leaves along; a rise gives them back what is theirs.
                var present = worker.cgroupLimits
                present.cpuMilli = 0
                try cgroups.setLimits(worker.path, worker.cgroupLimits, isLeaf: true, present: present)
            }
        } catch {
            // Lowering a memory limit below what is in use can fail; the old limit then still holds.
            groups.insert(group)
            tell(.groupFailed(group, reason: "\(error)"))
        }
    }

    /// The sentence that is wrong with a worker's limits, command and code; nil where nothing is.
    private func objection(_ limits: WorkerLimits, runtime: String, code: String, command: [String], needsProgram: Bool) -> String? {
        guard let profile = host.profile(runtime) else { return "unknown runtime \(runtime)" }
        guard limits.isValid, limits.memoryBytes <= policy.ceilings["memory"] ?? 0, UInt64(limits.cpuMilli) <= policy.ceilings["cpu"] ?? 0,
            UInt64(limits.processes) <= policy.ceilings["processes"] ?? 0, limits.temporaryBytes <= policy.ceilings["temporary"] ?? 0
        else { return "limits above the policy's ceilings" }
        if !code.isEmpty {
            guard code.utf8.count == 64, code.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }) else {
                return "a code name that is not a content hash"
            }
        }
        guard command.allSatisfy({ !$0.utf8.contains(0) }) else { return "a NUL byte in a command" }
        guard needsProgram, profile.arguments.isEmpty else { return nil }
        guard let program = command.first, !code.isEmpty else { return "no command for runtime \(runtime)" }
        // By bytes, as the kernel reads it: to a Character, a slash with a combining mark behind it is no slash.
        let path = Array(program.utf8)
        let parts = path.split(separator: 0x2F, omittingEmptySubsequences: false)
        guard path.first != 0x2F, path.contains(0x2F), !parts.contains([0x2E, 0x2E]), path.count < 256 else {
            return "a command that is not a path inside the code"
        }
        return nil
    }

    private func openCode(_ hash: String) -> Int32? {
        let file = unsafe open(policy.codeDirectory + "/" + hash, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        return file >= 0 ? file : nil
    }

    private func spawn(_ request: SpawnRequest) {
        guard groups.contains(request.group) else { return illegal("a worker in an unknown group") }
        // The numbers of an ended daemon's workers are free again only when those are gone: this one's table has one row for each.
        guard usedIDs.insert(request.worker.number), workers[request.worker] == nil, !leaving.contains(where: { $0.id == request.worker })
        else { return illegal("worker \(request.worker) is named twice") }
        // A daemon counts upwards. What is kept for each gap must fit the record that a new program reads.
        guard usedIDs.ranges.count <= 1 << 16 else { return illegal("worker numbers in no order") }
        guard request.worker.number < 1 << 48 else { return illegal("a worker number above 2^48") }
        guard workers.count + leaving.count < Int(policy.ceilings["workers"] ?? 0) else {
            return illegal("more workers than the policy allows")
        }
        if let reason = objection(
            request.limits, runtime: request.runtime, code: request.code, command: request.command,
            needsProgram: request.preparation == .started)
        {
            return illegal(reason)
        }
        guard request.buckets == nil || request.preparation == .started else {
            return illegal("buckets of a worker before it has a function")
        }
        guard request.layers.isEmpty || request.preparation == .started else {
            return illegal("layers of a worker before it has a function")
        }
        guard request.layers.isEmpty || !policy.layerDirectory.isEmpty else { return illegal("layers of a node that has none") }
        guard !request.network || request.preparation == .started else { return illegal("network of a worker before it has a function") }
        do throws(SpawnFailure) { try start(request) } catch { tell(.failed(request.worker, reason: error.description)) }
    }

    /// The buckets that the daemon owns under these names; that they exist is found out when they are opened.
    func buckets(_ access: BucketAccess?) -> Buckets? {
        access.map {
            Buckets(
                root: policy.bucketDirectory, ownerUID: policy.daemonUID, ownerGID: policy.daemonGID, tenant: $0.tenant, grants: $0.grants)
        }
    }

    /// The operator's layers of these names; that they exist and are the operator's is found out when they are opened.
    func layers(_ names: [Name]) -> Layers? { Layers(root: policy.layerDirectory, names: names) }

    /// A file in a bucket may be longer than the function's `/tmp`: as long as the largest that the policy allows, for its tenant's storage is the bound there.
    private func processLimits(_ limits: WorkerLimits, _ buckets: Buckets?) -> ProcessLimits {
        let writesBuckets = buckets?.grants.contains(where: \.isWritable) == true
        return ProcessLimits(limits, fileBytes: writesBuckets ? policy.ceilings["temporary"] ?? 0 : 0)
    }

    private var highestProcessLimits: ProcessLimits {
        ProcessLimits(
            openFiles: WorkerLimits.openFileRange.upperBound, processes: UInt32(clamping: policy.ceilings["processes"] ?? 0),
            fileBytes: policy.ceilings["temporary"] ?? 0)
    }

    struct SpawnFailure: Error, CustomStringConvertible { let description: String }

    private func start(_ request: SpawnRequest) throws(SpawnFailure) {
        guard let uid = uids.take() else { throw SpawnFailure(description: "every uid of the workers' range is in use") }
        var code: Int32?
        defer { if let code { close(code) } }
        if !request.code.isEmpty {
            code = openCode(request.code)
            guard code != nil else {
                uids.give(back: uid)
                throw SpawnFailure(description: "the code \(request.code.prefix(12)) is not in the code store")
            }
        }
        var leaf: CgroupLeaf?
        do {
            let buckets = buckets(request.buckets)
            var taken = try takeLeaf(request.group, Self.cgroupLimits(request.limits))
            leaf = taken
            let parts = try host.launch(
                SandboxSpec(
                    runtime: request.runtime, waitsForOrder: request.preparation == .sealed, id: uid, limits: request.limits,
                    processLimits: request.preparation == .started
                        ? processLimits(request.limits, buckets) : highestProcessLimits, network: request.network, cgroup: taken.unified,
                    joins: taken.joins, cgroupSuffix: cgroups.suffix(taken.path),
                    cgroupLines: cgroups.membershipLines, code: code, command: request.command, buckets: buckets,
                    layers: layers(request.layers))
            ).split()
            taken.closeEntrances()
            let theirs = [parts.control, parts.stdout, parts.stderr] + (parts.egress.map { [$0] } ?? [])
            defer { for end in theirs { close(end) } }
            let worker = LiveWorker(
                id: request.worker, group: request.group, uid: uid, path: taken.path, pid: parts.pid, pidfd: parts.pidfd,
                report: parts.report, outOfMemoryEvent: taken.outOfMemoryEvent, runtime: request.runtime, limits: request.limits,
                cgroupLimits: taken.limits, preparation: request.preparation, isAssigned: request.preparation == .started, buckets: buckets,
                layers: layers(request.layers))
            workers[worker.id] = worker
            try watch(worker)
            tell(
                .spawned(
                    worker.id, pid: worker.pid, uid: uid, cgroup: cgroups.suffix(worker.path), hasEgress: parts.egress != nil),
                descriptors: theirs)
        } catch {
            if workers[request.worker] == nil {
                leaf?.close()
                if let path = leaf?.path { cgroups.remove(path) }
                uids.give(back: uid)
            }
            throw SpawnFailure(description: "\(error)")
        }
    }

    func watch(_ worker: LiveWorker) throws(KernelError) {
        try poller.add(worker.report, token: Token.report.rawValue << 56 | worker.id.number)
        try poller.add(worker.pidfd, token: Token.exit.rawValue << 56 | worker.id.number)
        if let event = worker.outOfMemoryEvent { try poller.add(event, token: Token.outOfMemory.rawValue << 56 | worker.id.number) }
    }

    private func assign(
        _ id: WorkerID, _ runtime: String, _ limits: WorkerLimits, _ code: String, _ command: [String], _ access: BucketAccess?,
        _ names: [Name]
    ) {
        guard usedIDs.contains(id.number) else { return illegal("assignment of a worker that never was") }
        guard let worker = workers[id], !worker.isKilled else { return }
        guard !worker.isAssigned else { return illegal("a second assignment of \(id)") }
        let isSealed = worker.preparation == .sealed
        if let reason = objection(limits, runtime: runtime, code: code, command: command, needsProgram: isSealed) { return illegal(reason) }
        guard isSealed || runtime == worker.runtime else { return illegal("assignment of \(id) to another runtime") }
        guard names.isEmpty || !policy.layerDirectory.isEmpty else { return illegal("layers of a node that has none") }
        workers[id]?.isAssigned = true
        workers[id]?.limits = limits
        workers[id]?.buckets = buckets(access)
        workers[id]?.layers = layers(names)
        workers[id]?.isTemporaryResized = limits.temporaryBytes != worker.limits.temporaryBytes
        if !worker.isSealed {
            // The seal is still under way, of a prewarmed worker too: the code can only be mounted in its finished root.
            workers[id]?.pendingOrder = (runtime, command)
            pendingCode[id] = code
            return
        }
        complete(id, runtime, code, command)
    }

    /// The sealed worker is ready for what was asked of it before.
    func completePending(_ id: WorkerID) {
        workers[id]?.isSealed = true
        guard let order = workers[id]?.pendingOrder, let code = pendingCode.removeValue(forKey: id) else { return }
        workers[id]?.pendingOrder = nil
        complete(id, order.runtime, code, order.command)
    }

    private func complete(_ id: WorkerID, _ runtime: String, _ code: String, _ command: [String]) {
        guard let worker = workers[id] else { return }
        do {
            let limits = Self.cgroupLimits(worker.limits)
            try cgroups.setLimits(worker.path, limits, isLeaf: true, present: worker.cgroupLimits)
            workers[id]?.cgroupLimits = limits
            let tree = code.isEmpty ? nil : openCode(code)
            defer { if let tree { close(tree) } }
            if !code.isEmpty, tree == nil { throw SpawnFailure(description: "the code \(code.prefix(12)) is not in the code store") }
            try host.assign(
                pid: worker.pid, id: worker.uid, code: tree,
                temporaryBytes: worker.isTemporaryResized ? worker.limits.temporaryBytes : nil, buckets: worker.buckets,
                layers: worker.layers, limits: processLimits(worker.limits, worker.buckets))
            if worker.preparation == .sealed { try host.order(worker.report, runtime: runtime, command: command) }
            tell(.assigned(id))
        } catch {
            tell(.failed(id, reason: "\(error)"))
            end(id)
        }
    }

    func end(_ id: WorkerID) {
        guard let worker = workers[id] else { return }
        workers[id]?.isKilled = true
        ProcessControl.signal(pidfd: worker.pidfd, SIGKILL)
    }

    private func tellUsage(_ list: [WorkerID]) {
        let entries = list.compactMap(present)
        guard tell(.usage(entries)) else { return }
        for entry in entries { workers[entry.worker]?.toldCPU = entry.usage.cpuMicroseconds }
    }

    private func present(_ id: WorkerID) -> WorkerUsage? {
        guard let worker = workers[id] else { return nil }
        return WorkerUsage(worker: id, pid: Posture.mainProcess(of: worker.pid) ?? 0, usage: Usage(cgroups.usage(worker.path)))
    }

    private func inspect(_ id: WorkerID) {
        guard let worker = workers[id] else {
            tell(.posture(id, []))
            return
        }
        let expectation = Posture.Expectation(
            reaper: worker.pid, uid: worker.uid, processes: worker.limits.processes, cgroupSuffix: cgroups.suffix(worker.path),
            cgroupLines: cgroups.membershipLines, buckets: worker.isSealed || worker.preparation == .started ? worker.buckets : nil,
            layers: worker.isSealed || worker.preparation == .started ? worker.layers : nil)
        var checks = Posture.read(expectation)
        if let limits = cgroups.limits(worker.path) {
            func add(_ name: String, _ expected: UInt64, _ actual: UInt64) {
                checks.append(
                    Posture.Check(name: name, expected: "\(expected)", actual: "\(actual)", isHeld: actual > 0 && actual <= expected))
            }
            add("cgroup memory", worker.limits.memoryBytes, limits.memoryBytes)
            add("cgroup processes", UInt64(worker.limits.processes) + 1, UInt64(limits.processes))
            add("cgroup cpu (thousandths)", UInt64(worker.limits.cpuMilli), UInt64(limits.cpuMilli))
        }
        tell(.posture(id, checks.map { PostureCheck(name: $0.name, expected: $0.expected, actual: $0.actual, isHeld: $0.isHeld) }))
    }
}

extension Usage {
    init(_ usage: CgroupUsage) {
        self.init(
            cpuMicroseconds: usage.cpuMicroseconds, memoryBytes: usage.memoryBytes, peakMemoryBytes: usage.peakMemoryBytes,
            processes: usage.processes, processLimitHits: usage.processLimitHits)
    }
}
