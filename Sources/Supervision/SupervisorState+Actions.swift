// SPDX-License-Identifier: Apache-2.0
import Core
import Logging
import NIOCore
import Store
import Wire

/// What the node decides, done: workers asked for, initialized, given invocations, ended.
extension SupervisorState {
    func perform(_ action: Action, _ now: Instant) {
        switch action {
        case .setGroup(let group, let limits): spawner(.setGroup(group, limits))
        case .removeGroup(let group): spawner(.removeGroup(group))
        case .spawn(let order): spawn(order, now)
        case .assign(let worker, let function):
            processes[worker]?.deployment = deployments[function.version]
            processes[worker]?.begunAt = now
            processes[worker]?.stageAt = now
            processes[worker]?.isAdopted = true
            processes[worker]?.link?.join(frameShare(function.version.function.tenant))
            spawner(
                .assign(
                    worker, runtime: function.runtime, limits: function.limits, code: function.code, command: function.command,
                    buckets: access(function), layers: function.layers))
            spawner(.account(worker, Self.account(function.version.function)))
        case .initialize(let worker, let function): initialize(worker, function)
        case .invoke(let worker, let slot, let id, let deadline, let start): invoke(worker, slot, id, deadline, start, now)
        case .cancel(let worker, let slot): processes[worker]?.link?.send(Frame(.cancel, slot: slot))
        case .drain(let worker):
            var frame = Frame(.drain)
            frame.add(.grace, UInt32(2000))
            processes[worker]?.link?.send(frame)
        case .kill(let worker): spawner(.kill(worker))
        case .beginCharge(let id, let version, let reserved): beginCharge(id, version, reserved)
        case .settleCharge(let id, let version, let outcome, let charged, let ran):
            let cpu = unbilledCPU.removeValue(forKey: version.function) ?? 0
            figures[version.function]?.microGBSeconds += charged
            ledger?.settle(id, outcome, charged: charged, durationUs: ran / 1000, cpuUs: cpu, wallMs: time())
        case .budgetMark(let name, let kind, let mark):
            logger.warning("a budget is used up to \(mark.rawValue) %", metadata: ["tenant": "\(name)", "budget": "\(kind.rawValue)"])
            markedBudgets[name, default: []].insert(kind)
            budgetMarked?(name, kind, mark)
        case .reply(let id, let verdict): answer(id, verdict)
        case .note(let id, let decision): explain.note(id, decision, at: now)
        }
    }

    private func beginCharge(_ id: InvocationID, _ version: VersionID, _ reserved: UInt64) {
        guard let ledger, let memory = deployments[version]?.spec.limits.memoryBytes else { return }
        do throws(StoreError) {
            try ledger.begin(id, version.function, reserved: reserved, memoryBytes: memory, wallMs: time())
        } catch { unnoted[id] = error.description }
    }

    private func spawn(_ order: SpawnOrder, _ now: Instant) {
        var request = SpawnRequest(
            worker: order.worker, group: order.group, runtime: "", preparation: .sealed, limits: order.limits)
        let process = Process(startedAt: clock.wall())
        (process.begunAt, process.stageAt) = (now, now)
        if case .prewarmed = order.preparation { process.kind = .prewarmed }
        switch order.preparation {
        case .sealed: request.runtime = "sealed"
        case .prewarmed(let runtime):
            request.runtime = runtime
            request.preparation = .prewarmed
        case .started(let function):
            request.runtime = function.runtime
            request.preparation = .started
            request.network = function.network
            request.code = function.code
            request.command = function.command
            request.buckets = access(function)
            request.layers = function.layers
            process.deployment = deployments[function.version]
        }
        processes[order.worker] = process
        spawner(.spawn(request))
        if case .started(let function) = order.preparation { spawner(.account(order.worker, Self.account(function.version.function))) }
    }

    private func initialize(_ worker: WorkerID, _ function: FunctionSpec) {
        guard let deployment = deployments[function.version] ?? processes[worker]?.deployment else {
            return handle(.initFailed(worker, type: "Removed", message: "version \(function.version) was removed while its worker started"))
        }
        if let layer = deployment.missingLayers.first {
            return handle(
                .initFailed(
                    worker, type: "LayerError",
                    message: "its tenant may not use the layer \(layer) any more: the operator grants it by `layers` in the tenant's file"))
        }
        processes[worker]?.slots = Array(repeating: nil, count: Int(function.instanceConcurrency))
        processes[worker]?.link?.send(Self.initFrame(deployment, function))
    }

    /// What a worker is told of its function.
    static func initFrame(_ deployment: Deployment, _ function: FunctionSpec) -> Frame {
        var frame = Frame(.initialize)
        frame.add(.function, function.version.function.description)
        frame.add(.version, function.version.number)
        for word in deployment.handler { frame.add(.handler, word) }
        for (name, value) in deployment.environment.sorted(by: { $0.key < $1.key }) { frame.add(.environment, "\(name)=\(value)") }
        for (name, value) in deployment.secrets.sorted(by: { $0.key < $1.key }) { frame.add(.secret, "\(name)=\(value)") }
        for grant in function.buckets { frame.add(.bucket, grant.bucket.text) }
        for layer in function.layers { frame.add(.layer, layer.text) }
        frame.add(.memoryLimit, function.limits.memoryBytes)
        frame.add(.timeout, UInt32(clamping: function.timeout / 1_000_000))
        frame.add(.concurrency, function.instanceConcurrency)
        return frame
    }

    private func invoke(_ worker: WorkerID, _ slot: UInt16, _ id: InvocationID, _ deadline: Instant, _ start: StartKind, _ now: Instant) {
        guard let invocation = pending[id], let process = processes[worker] else { return }
        if let reason = unnoted.removeValue(forKey: id) {
            // What cannot be charged is not run: a budget must hold.
            logger.error("an invocation was not started", metadata: ["invocation": "\(id)", "reason": "\(reason)"])
            invocation.fault = FunctionFault(type: "Ledger", message: "its use cannot be noted: \(reason)", stack: "")
            return handle(.finished(id, worker, .internal))
        }
        invocation.dispatchedAt = now
        invocation.worker = worker
        invocation.start = start
        process.slots[Int(slot)] = id
        process.lastInvocation = id
        let order = invocation.order
        var frame = FrameWriter(.invoke, slot: slot, reserving: 192 + order.body.readableBytes)
        frame.add(.invocation, id.description)
        frame.add(.deadline, clock.wall() + (deadline - now) / 1_000_000)
        frame.add(.trigger, order.trigger)
        frame.add(.contentType, order.contentType)
        frame.add(.attempt, order.event?.attempt ?? 1)
        if !order.traceparent.isEmpty { frame.add(.traceparent, order.traceparent) }
        for line in order.headers { frame.add(.header, line) }
        frame.add(.body, order.body.readableBytesView)
        process.link?.invoke(frame.finished(), slot: slot)
    }
}
