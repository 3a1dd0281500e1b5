// SPDX-License-Identifier: Apache-2.0
import DequeModule
import HeapModule

extension Node {
    mutating func arm(_ kind: Timer.Kind, at: Instant) {
        timerSequence &+= 1
        timers.insert(Timer(at: at, sequence: timerSequence, kind: kind))
    }

    /// Makes sure that the worker's one deadline timer fires no later than `deadline`.
    mutating func armDeadline(_ worker: WorkerID, _ deadline: Instant) {
        if let armed = workers[worker]?.deadlineArmed, armed <= deadline { return }
        workers[worker]?.deadlineArmed = deadline
        arm(.deadline(worker), at: deadline)
    }

    mutating func fireTimers(_ now: Instant, _ actions: inout [Action]) {
        while let timer = timers.min, timer.at <= now {
            timers.removeMin()
            fire(timer, now, &actions)
        }
    }

    private mutating func fire(_ timer: Timer, _ now: Instant, _ actions: inout [Action]) {
        switch timer.kind {
        case .queueWait(let version): expireQueue(version, now, &actions)
        case .deadline(let worker): expireInvocations(of: worker, armedFor: timer.at, now, &actions)
        case .cancelGrace(let id, let worker):
            guard invocations[id] != nil else { return }
            end(worker, because: "an invocation ran past its deadline and did not stop when it was cancelled", &actions)
        case .start(let id): expireStart(id, now, &actions)
        case .idle(let id): expireIdle(id, now, &actions)
        case .drainGrace(let id):
            guard let worker = workers[id] else { return }
            end(id, because: worker.endReason ?? "it did not end in time when it was drained", &actions)
        case .spare(let id):
            guard let worker = workers[id], worker.state == .spare, let name = groups[worker.group]?.tenant else { return }
            if let last = tenants[name]?.lastArrival, now - last < spec.spareIdle {
                return arm(.spare(id), at: now + spec.spareIdle)
            }
            end(id, because: "an unused spare", expected: true, &actions)
        case .minimum(let version):
            keepMinimum(version, now, &actions)
            // Who came while a worker was there that is gone now may wait for the end of a back-off.
            if let pool = pools[version], !pool.waiting.isEmpty { pump(version.function.tenant, now, &actions) }
        case .proven(let id): if workers[id]?.state == .ready { endDeathRow(by: id) }
        case .overrun(let id): chargeOverruns(id, now)
        }
    }

    /// Refuses what has waited too long. All wait equally long, so the oldest of a version is the first.
    private mutating func expireQueue(_ version: VersionID, _ now: Instant, _ actions: inout [Action]) {
        pools[version]?.isQueueArmed = false
        while let head = pools[version]?.waiting.first {
            guard let invocation = invocations[head], case .queued(let until) = invocation.place else {
                pools[version]?.waiting.removeFirst()
                continue
            }
            guard until <= now else {
                pools[version]?.isQueueArmed = true
                return arm(.queueWait(version), at: until)
            }
            drop(invocation, .refused(refusal(head, version, queueFull: false)), &actions)
        }
    }

    /// Makes sure that runs which outlast what the fair queue charged for them are charged more.
    mutating func armOverrun(_ id: WorkerID, _ now: Instant) {
        guard workers[id]?.isOverrunArmed == false else { return }
        workers[id]?.isOverrunArmed = true
        arm(.overrun(id), at: now + Self.overrunStep)
    }
    static let overrunStep: Nanoseconds = .milliseconds(100)

    private mutating func chargeOverruns(_ id: WorkerID, _ now: Instant) {
        workers[id]?.isOverrunArmed = false
        guard let worker = workers[id], worker.inFlight > 0 else { return }
        for case let running? in worker.slots {
            guard let invocation = invocations[running] else { continue }
            let ran = now - invocation.startedAt
            guard ran >= invocation.charged else { continue }
            let more = max(ran - invocation.charged + Self.overrunStep, Self.overrunStep)
            invocations[running]?.charged += more
            queue.overrun(invocation.ticket, by: more)
        }
        armOverrun(id, now)
    }

    private mutating func expireInvocations(of id: WorkerID, armedFor: Instant, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.deadlineArmed == armedFor else { return }
        workers[id]?.deadlineArmed = nil
        var next: Instant?
        for (slot, entry) in worker.slots.enumerated() {
            guard let running = entry, let invocation = invocations[running], !invocation.isCancelSent else { continue }
            guard invocation.deadline <= now else {
                next = min(next ?? invocation.deadline, invocation.deadline)
                continue
            }
            actions.append(.note(running, .deadlinePassed))
            reply(running, .failed(.timedOut, reason: "the function ran past its timeout", nil), &actions)
            invocations[running]?.isCancelSent = true
            actions.append(.note(running, .cancelSent(id)))
            actions.append(.cancel(id, slot: UInt16(slot)))
            arm(.cancelGrace(running, id), at: now + spec.cancelGrace)
        }
        if let next { armDeadline(id, next) }
    }

    private mutating func expireStart(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        guard let worker = workers[id], worker.state == .starting else { return }
        // A spare that was adopted meanwhile has a timer of its own, armed later.
        if worker.spec != nil, worker.startDeadline > now { return }
        let limit = (worker.spec?.startTimeout ?? Self.spareStartTimeout) / 1_000_000
        let reason = "the worker was not ready within its start timeout of \(limit) ms"
        failStart(id, .failed(.timedOut, reason: reason, nil), now, &actions)
        end(id, because: reason, &actions)
    }

    private mutating func expireIdle(_ id: WorkerID, _ now: Instant, _ actions: inout [Action]) {
        workers[id]?.isIdleArmed = false
        guard let worker = workers[id], worker.state == .ready, worker.inFlight == 0, let function = worker.spec else { return }
        let due = worker.idleSince + idleTime(worker)
        let isOpen = tenants[function.version.function.tenant]?.isOpen == true
        let isKept = pools[function.version].map { isOpen && !$0.isRemoved && $0.workers <= $0.spec.minimumWorkers } ?? false
        guard due <= now, !isKept else {
            workers[id]?.isIdleArmed = true
            return arm(.idle(id), at: max(due, now + (isKept ? function.idle : 0)))
        }
        drain(id, now, &actions)
    }

    /// How long a spare may take until it waits for its function.
    static let spareStartTimeout: Nanoseconds = .seconds(30)
}
