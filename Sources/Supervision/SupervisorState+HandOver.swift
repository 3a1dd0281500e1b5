// SPDX-License-Identifier: Apache-2.0
public import Core
import Glibc
import Logging
import NIOCore
public import Wire

/// Workers from one daemon to the next.
extension SupervisorState {
    /// Invocations that are queued or running and are not an event's.
    public var activeCalls: Int {
        node.activeInvocations - (events?.running.keys.count { node.isActive($0) } ?? 0)
    }

    /// Lets go of every idle worker that can be handed over. `send` gets its record and the descriptors of its fd 3 and of what it has of
    /// stdout and stderr, which stay ours, and says whether they are
    /// on their way. Returns those that are; nothing of them is read here any more.
    public func releaseWorkers(_ send: (WorkerRecord, [CInt]) -> Bool) -> [WorkerID] {
        node.idleWorkers.filter { worker in
            guard let process = processes[worker], let link = process.link, link.isBetweenFrames, let deployment = process.deployment,
                let terms = terms(of: deployment)
            else { return false }
            let open = process.pipes.filter(\.pipe.isOpen)
            // What was seen of its processor time and is on nobody's bill yet, for want of room in the ledger: the successor sees it again, and bills it.
            let function = deployment.spec.version.function
            let unbilled = min(unbilledCPU[function] ?? 0, process.usage.cpuMicroseconds)
            let egress = process.egress?.descriptor
            // Without the way out that its function has it would be another worker.
            guard (egress == nil) == (process.egress == nil) else { return false }
            let record = WorkerRecord(
                worker: worker, version: deployment.spec.version, start: process.kind, served: process.served,
                cpuMicroseconds: process.usage.cpuMicroseconds - unbilled, pid: process.pid, startedAt: process.startedAt,
                hasOutput: open.contains { $0.pipe.stream == .stdout }, hasErrors: open.contains { $0.pipe.stream == .stderr },
                hasEgress: egress != nil, terms: terms
            )
            guard send(record, [process.control] + open.map(\.descriptor) + (egress.map { [$0] } ?? [])) else {
                return false
            }
            if unbilled > 0 { unbilledCPU[function]? -= unbilled }
            link.close()
            // Connections of an idle worker end here; it makes new ones through the successor.
            process.egress?.close()
            // What is still in them is the successor's to read.
            for pipe in open { pipe.pipe.close() }
            return true
        }
    }

    /// Takes a worker of the daemon before as an idle one of this, or ends it where its function is not the same any more. The descriptors are adopted.
    /// Before the spawner's welcome is told.
    /// - Returns: whether it serves.
    public func inherit(_ record: WorkerRecord, _ kept: KeptWorker, _ descriptors: [CInt]) -> Bool {
        guard let deployment = deployments[record.version], descriptors.count == HandOverMessage.worker(record).descriptorCount,
            !endedEarly.contains(record.worker),
            terms(of: deployment) == record.terms
        else {
            for descriptor in descriptors { _ = Glibc.close(descriptor) }
            spawner(.kill(record.worker))
            return false
        }
        let process = Process(startedAt: record.startedAt)
        process.pid = record.pid > 0 ? record.pid : kept.pid
        process.uid = kept.uid
        process.cgroup = kept.cgroup
        process.kind = record.start
        process.served = record.served
        process.usage.cpuMicroseconds = record.cpuMicroseconds
        process.deployment = deployment
        process.slots = Array(repeating: nil, count: Int(deployment.spec.instanceConcurrency))
        processes[record.worker] = process
        workersByCgroup[String(kept.cgroup.drop { $0 == "/" })] = record.worker
        listen(
            to: record.worker, control: descriptors[0], stdout: record.hasOutput ? descriptors[1] : nil,
            stderr: record.hasErrors ? descriptors[record.hasOutput ? 2 : 1] : nil)
        if record.hasEgress, let listener = descriptors.last { letOut(record.worker, through: listener) }
        handle(
            .inherited(
                InheritedWorker(
                    worker: record.worker, group: kept.group, version: record.version, start: record.start, hasServed: record.served > 0)))
        return node.has(record.worker)
    }

    /// Ends a worker that nobody has taken over.
    public func end(_ worker: WorkerID) { spawner(.kill(worker)) }

    /// Everything that a worker of this deployment and the spawner are told of it; nil where that is too much for a record.
    private func terms(of deployment: Deployment) -> [UInt8]? {
        let spec = deployment.spec
        let told = SpawnerRequest.spawn(
            SpawnRequest(
                worker: WorkerID(0), group: GroupID(0), runtime: spec.runtime, preparation: .started, limits: spec.limits,
                network: spec.network, code: spec.code, command: spec.command, buckets: access(spec),
                layers: spec.layers))
        let terms = told.encoded() + Self.initFrame(deployment, spec).encoded()
        return terms.count <= WorkerRecord.maximumTerms ? terms : nil
    }

    /// Admits again after ``beginDraining()``.
    public func endDraining() { handle(.resumed) }
}
