// SPDX-License-Identifier: Apache-2.0
import DequeModule
import HeapModule

extension Node {
    func arm(_ kind: Timer.Kind, at: Instant) {
        timerSequence &+= 1
        timers.insert(Timer(at: at, sequence: timerSequence, kind: kind))
    }

    /// Makes sure that the worker's one deadline timer fires no later than `deadline`.
    func armDeadline(_ worker: Worker, _ deadline: Instant) {
        if let armed = worker.deadlineArmed, armed <= deadline { return }
        worker.deadlineArmed = deadline
        arm(.deadline(worker.id), at: deadline)
    }

    func fireTimers(_ now: Instant, _ actions: inout [Action]) {
        while let timer = timers.min, timer.at <= now {
            timers.removeMin()
            fire(timer, now, &actions)
        }
    }

    private func fire(_ timer: Timer, _ now: Instant, _ actions: inout [Action]) {
        switch timer.kind {
        case .queueWait(let version): if let pool = pools[version] { expireQueue(pool, now, &actions) }
        case .deadline(let id): if let worker = workers[id] { expireInvocations(of: worker, armedFor: timer.at, now, &actions) }
        case .cancelGrace(let invocation, let id):
            guard invocations[invocation] != nil, let worker = workers[id] else { return }
            end(worker, because: "an invocation ran past its deadline and did not stop when it was cancelled", &actions)
        case .start(let id): if let worker = workers[id] { expireStart(worker, now, &actions) }
        case .idle(let id): if let worker = workers[id] { expireIdle(worker, now, &actions) }
        case .drainGrace(let id):
            guard let worker = workers[id] else { return }
            end(worker, because: worker.endReason ?? "it did not end in time when it was drained", &actions)
        case .spare(let id):
            guard let worker = workers[id], worker.state == .spare, let name = groups[worker.group]?.tenant else { return }
            if let last = tenants[name]?.lastArrival, now - last < spec.spareIdle {
                return arm(.spare(id), at: now + spec.spareIdle)
            }
            end(worker, because: "an unused spare", expected: true, &actions)
        case .minimum(let version):
            guard let pool = pools[version] else { return }
            keepMinimum(pool, now, &actions)
            // Who came while a worker was there that is gone now may wait for the end of a back-off.
            if !pool.waiting.isEmpty { pump(pool.tenant, now, &actions) }
        case .proven(let id): if let worker = workers[id], worker.state == .ready { endDeathRow(by: worker) }
        case .overrun(let id): if let worker = workers[id] { chargeOverruns(worker, now) }
        }
    }

    /// Refuses what has waited too long. All wait equally long, so the oldest of a version is the first.
    private func expireQueue(_ pool: Pool, _ now: Instant, _ actions: inout [Action]) {
        pool.isQueueArmed = false
        while let head = pool.waiting.first {
            guard !head.isReplied, case .queued(let until) = head.place else {
                pool.waiting.removeFirst()
                continue
            }
            guard until <= now else {
                pool.isQueueArmed = true
                return arm(.queueWait(pool.version), at: until)
            }
            drop(head, .refused(refusal(head.id, pool, head.service, queueFull: false, now)), &actions)
        }
    }

    /// Makes sure that runs which outlast what the fair queue charged for them are charged more.
    func armOverrun(_ worker: Worker, _ now: Instant) {
        guard !worker.isOverrunArmed else { return }
        worker.isOverrunArmed = true
        arm(.overrun(worker.id), at: now + Self.overrunStep)
    }
    static let overrunStep: Nanoseconds = .milliseconds(100)

    private func chargeOverruns(_ worker: Worker, _ now: Instant) {
        worker.isOverrunArmed = false
        guard worker.inFlight > 0 else { return }
        for case let invocation? in worker.slots {
            let ran = now - invocation.startedAt
            guard ran >= invocation.charged else { continue }
            let more = max(ran - invocation.charged + Self.overrunStep, Self.overrunStep)
            invocation.charged += more
            queue.overrun(invocation.ticket, by: more)
        }
        armOverrun(worker, now)
    }

    private func expireInvocations(of worker: Worker, armedFor: Instant, _ now: Instant, _ actions: inout [Action]) {
        guard worker.deadlineArmed == armedFor else { return }
        worker.deadlineArmed = nil
        var next: Instant?
        for (slot, entry) in worker.slots.enumerated() {
            guard let invocation = entry, !invocation.isCancelSent else { continue }
            guard invocation.deadline <= now else {
                next = min(next ?? invocation.deadline, invocation.deadline)
                continue
            }
            actions.append(.note(invocation.id, .deadlinePassed))
            reply(invocation, .failed(.timedOut, reason: "the function ran past its timeout", nil), &actions)
            invocation.isCancelSent = true
            actions.append(.note(invocation.id, .cancelSent(worker.id)))
            actions.append(.cancel(worker.id, slot: UInt16(slot)))
            arm(.cancelGrace(invocation.id, worker.id), at: now + spec.cancelGrace)
        }
        if let next { armDeadline(worker, next) }
    }

    private func expireStart(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        guard worker.state == .starting else { return }
        // A spare that was adopted meanwhile has a timer of its own, armed later.
        if worker.spec != nil, worker.startDeadline > now { return }
        let limit = (worker.spec?.startTimeout ?? Self.spareStartTimeout) / 1_000_000
        let reason = "the worker was not ready within its start timeout of \(limit) ms"
        failStart(worker, .failed(.timedOut, reason: reason, nil), now, &actions)
        end(worker, because: reason, &actions)
    }

    private func expireIdle(_ worker: Worker, _ now: Instant, _ actions: inout [Action]) {
        worker.isIdleArmed = false
        guard worker.state == .ready, worker.inFlight == 0, let function = worker.spec, let pool = worker.pool else { return }
        let due = worker.idleSince + idleTime(worker)
        let isKept = pool.tenant.isOpen && !pool.isRemoved && pool.workers <= pool.spec.minimumWorkers
        guard due <= now, !isKept else {
            worker.isIdleArmed = true
            return arm(.idle(worker.id), at: max(due, now + (isKept ? function.idle : 0)))
        }
        drain(worker, now, &actions)
    }

    /// How long a spare may take until it waits for its function.
    static let spareStartTimeout: Nanoseconds = .seconds(30)
}
