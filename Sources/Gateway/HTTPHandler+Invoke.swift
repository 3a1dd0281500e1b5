// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOCore
import NIOHTTP1
import Supervision

/// Direct calls of functions: those that wait for the answer, and those that leave an event.
extension HTTPHandler {
    func invoke(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: InvokeTarget) {
        let chosen: ChosenVersion
        switch service.choose(
            target.function, version: target.version, alias: target.alias, caller: caller, header: { head.headers.first(name: $0) })
        {
        case .success(let found?): chosen = found
        case .success(nil): return answer(.notFound("function \(target.reference)"))
        case .failure(let problem): return answer(problem)
        }
        let version = chosen.version
        if InvokeRoute.isAsynchronous(head.headers) { return accept(head, body, target, version) }
        var order: InvocationOrder
        switch InvokeRoute.order(head.headers, body, version) {
        case .success(let parsed): order = parsed
        case .failure(let problem): return answer(problem)
        }
        switch service.users(version, caller, { head.headers.first(name: $0) }) {
        case .success(let users): (order.tenantUser, order.functionUser) = (users.tenant, users.function)
        case .failure(let problem): return answer(problem)
        }
        order.alias = chosen.alias
        order.cause = cause(head, version.function.tenant)
        if head.headers.first(name: "bulkhead-invocation-type")?.lowercased() == "dry-run" {
            return write(status: 204, headers: [("Bulkhead-Version", "\(version.number)")], body: ByteBuffer())
        }
        run(order)
    }

    func run(_ order: InvocationOrder) {
        let id = supervisor.submit(order, observer: observer ?? makeObserver())
        // Where it has ended already, what runs may be the connection's next.
        if supervisor.state.isPending(id) { running = id }
    }

    /// What hears of this connection's invocations, one after the other; kept until the connection ends.
    private func makeObserver() -> InvocationObserver {
        let me = NIOLoopBound(self, eventLoop: supervisor.loop)
        let made = InvocationObserver(
            began: { answer in me.value.startStream(answer) },
            chunk: { part in me.value.stream(part) },
            ended: { report in me.value.ended(report) })
        if context != nil { observer = made }
        return made
    }

    /// Takes an event in; the answer leaves when the disk has it.
    private func accept(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: InvokeTarget, _ version: VersionID) {
        guard let events = supervisor.state.events else { return answer(.storage("this node stores no events")) }
        guard !supervisor.state.node.isDraining else { return answer(.draining) }
        var order: EventOrder
        switch InvokeRoute.event(head.headers, body, target.function, target: target.eventTarget) {
        case .success(let parsed): order = parsed
        case .failure(let problem): return answer(problem)
        }
        order.cause = cause(head, version.function.tenant)
        accept(order, for: version, head, events)
    }

    /// Stores an event whose end user is told apart by the rules of `version`.
    func accept(_ event: EventOrder, for version: VersionID, _ head: HTTPRequestHead, _ events: EventEngine) {
        var order = event
        switch service.users(version, caller, { head.headers.first(name: $0) }) {
        case .success(let users): (order.tenantUser, order.functionUser) = (users.tenant, users.function)
        case .failure(let problem): return answer(problem)
        }
        events.accept(order) { [weak self] acceptance in
            switch acceptance {
            case .accepted(let receipt):
                let answer = InvokeRoute.accepted(receipt)
                self?.write(status: answer.status, headers: answer.headers, body: answer.body)
            case .refused(let outcome, let sentence, let refusal):
                self?.answer(OutcomeMapping.problem(outcome, sentence, refusal))
            }
        }
    }
}
