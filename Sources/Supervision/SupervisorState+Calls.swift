// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore
import Store
import Wire

/// Function to function: calls that wait, calls that do not, and topics.
extension SupervisorState {
    /// The version that a worker names, `[TENANT/]FUNCTION[:ALIAS]`, where its own function may call it, and the alias that chose it.
    private func target(_ text: String, _ caller: Pending) -> (name: Name, alias: Name, version: VersionID, chosenBy: Name?)? {
        let own = caller.order.version.function.tenant
        let words = text.split(separator: "/", omittingEmptySubsequences: false)
        let parts = (words.last ?? "").split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let user = caller.order.functionUser ?? caller.order.tenantUser
        guard let name = parts.first.flatMap({ Name($0) }), words.count <= 2, words.count == 1 || Name(words[0]) == own,
            deployments[caller.order.version]?.calls?.contains(name) ?? true,
            let alias = parts.count == 1 ? Name.latest : Name(parts[1]),
            let (version, chosenBy) = route(FunctionID(tenant: own, function: name), alias, key: { user })
        else { return nil }
        return (name, alias, version, chosenBy)
    }

    /// The invocation that asks; nil, and the worker is told so, where none runs in the slot: while the worker starts or stops, and after a caller has been answered.
    private func asker(_ frame: Frame, _ worker: WorkerID, _ kind: FrameKind) -> (id: InvocationID, caller: Pending)? {
        let slots = processes[worker]?.slots ?? []
        guard Int(frame.slot) < slots.count, let id = slots[Int(frame.slot)], let caller = pending[id] else {
            refuse(frame, worker, kind, "only a running invocation may ask: nothing was sent")
            return nil
        }
        return (id, caller)
    }

    func call(_ frame: Frame, _ worker: WorkerID) {
        guard let (id, caller) = asker(frame, worker, .callResult) else { return }
        guard let (name, alias, version, chosenBy) = target(frame.text(.target) ?? "", caller) else {
            return refuse(frame, worker, .callResult, "there is no such function that this one may call")
        }
        guard frame.integer(.mode, as: UInt8.self) ?? 0 == 0 else {
            var order = EventOrder(
                function: FunctionID(tenant: version.function.tenant, function: name), payload: Array(frame.bytes(.body) ?? []))
            order.target = alias.text
            order.contentType = frame.text(.contentType) ?? ""
            return send([order], id, frame, worker, .callResult)
        }
        guard caller.openCalls < Self.mostOpenCalls else {
            return refuse(
                frame, worker, .callResult,
                "one invocation may wait for \(Self.mostOpenCalls) calls at a time, which it does: nothing was sent", outcome: .throttled)
        }
        caller.openCalls += 1
        var order = InvocationOrder(
            version: version, body: ByteBuffer(bytes: frame.bytes(.body) ?? []), contentType: frame.text(.contentType) ?? "",
            trigger: "call", traceparent: caller.order.traceparent, depth: caller.order.depth + 1, tenantUser: caller.order.tenantUser,
            functionUser: deployments[version]?.spec.users == nil ? nil : caller.order.functionUser ?? caller.order.tenantUser ?? "")
        order.cause = caller.lineage
        order.alias = chosenBy
        let slot = frame.slot
        let request: UInt32 = frame.integer(.request) ?? 0
        let back = NIOLoopBound(self, eventLoop: loop)
        _ = submit(
            order,
            InvocationObserver(ended: { report in
                back.value.pending[id]?.openCalls -= 1
                back.value.returnCall(report, worker, slot, request)
            }))
    }

    /// Calls of one invocation that have no answer yet.
    static let mostOpenCalls = 64

    /// A topic is the name of queue triggers: every function of the tenant that has one of this name gets the event.
    func emit(_ frame: Frame, _ worker: WorkerID) {
        guard let (id, caller) = asker(frame, worker, .emitResult) else { return }
        let topic = frame.text(.topic).flatMap { Name($0) }
        let orders = latest.values.filter { version in
            guard version.function.tenant == caller.order.version.function.tenant, let topic, let deployment = deployments[version],
                deployments[caller.order.version]?.calls?.contains(version.function.function) ?? true
            else { return false }
            return deployment.triggers.contains { if case .queue = $0.kind { $0.name == topic } else { false } }
        }.sorted { $0.function < $1.function }.map { version in
            var order = EventOrder(function: version.function, payload: Array(frame.bytes(.body) ?? []))
            order.contentType = frame.text(.contentType) ?? ""
            order.trigger = topic ?? TriggerSpec.direct
            return order
        }
        guard !orders.isEmpty else {
            return refuse(
                frame, worker, .emitResult, "no function that this one may send to has a queue trigger of this name: nothing was sent")
        }
        send(orders, id, frame, worker, .emitResult)
    }

    /// Accepts events of an invocation, and tells its worker when the disk has them all; the first refusal is told where there is one.
    private func send(_ orders: [EventOrder], _ id: InvocationID, _ frame: Frame, _ worker: WorkerID, _ kind: FrameKind) {
        guard let events, let caller = pending[id] else {
            return refuse(frame, worker, kind, "this node stores no events: nothing was sent")
        }
        guard caller.emitted + orders.count <= LoopLimits.emitsPerInvocation else {
            return refuse(
                frame, worker, kind, "one invocation may send \(LoopLimits.emitsPerInvocation) events, which it has: nothing was sent",
                outcome: .throttled)
        }
        pending[id]?.emitted += orders.count
        let slot = frame.slot
        let request: UInt32 = frame.integer(.request) ?? 0
        var left = orders.count
        var first: EventAcceptance?
        for var order in orders {
            order.cause = caller.lineage
            order.traceparent = caller.order.traceparent
            events.accept(order) { [weak self] acceptance in
                left -= 1
                if first == nil || acceptance.refusal != nil { first = acceptance }
                guard left == 0, let first else { return }
                var reply = Frame(kind, slot: slot)
                reply.add(.request, request)
                switch first {
                case .accepted(let receipt):
                    reply.add(.outcome, Outcome.ok.rawValue)
                    reply.add(.event, receipt.id.description)
                case .refused(let outcome, let sentence, _):
                    reply.add(.outcome, outcome.rawValue)
                    reply.add(.errorType, "Refused")
                    reply.add(.errorMessage, sentence)
                }
                self?.processes[worker]?.link?.reply(reply)
            }
        }
    }

    private func returnCall(_ report: InvocationReport, _ worker: WorkerID, _ slot: UInt16, _ request: UInt32) {
        var reply = Frame(.callResult, slot: slot)
        reply.add(.request, request)
        reply.add(.outcome, report.outcome.rawValue)
        if let fault = report.fault {
            reply.add(.errorType, fault.type)
            reply.add(.errorMessage, fault.message)
        }
        if let answer = report.answer {
            reply.add(.contentType, answer.contentType)
            reply.add(.body, Array(answer.body.readableBytesView))
        }
        processes[worker]?.link?.reply(reply)
    }

    private func refuse(_ frame: Frame, _ worker: WorkerID, _ kind: FrameKind, _ message: String, outcome: Outcome = .functionError) {
        var reply = Frame(kind, slot: frame.slot)
        reply.add(.request, frame.integer(.request) ?? UInt32(0))
        reply.add(.outcome, outcome.rawValue)
        reply.add(.errorType, "Refused")
        reply.add(.errorMessage, message)
        processes[worker]?.link?.reply(reply)
    }
}
