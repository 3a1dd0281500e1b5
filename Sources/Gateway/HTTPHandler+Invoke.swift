// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOCore
import NIOHTTP1
import Store
import Supervision

/// Direct calls of functions: those that wait for the answer, and those that leave an event.
extension HTTPHandler {
    func invoke(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: InvokeTarget) {
        choose(head, target) { me, chosen in
            guard let chosen else { return me.answer(.notFound(me.missing(target))) }
            me.invoke(head, body, target, chosen)
        }
    }

    /// What is not there: the function, or what was asked of it. The caller may call the tenant's functions, so this tells nothing that is not its own.
    private func missing(_ target: InvokeTarget) -> String {
        guard target.version != nil || target.alias != nil, service.resolve(target.function, version: nil, alias: nil) != nil else {
            return "function \(target.function)"
        }
        if let version = target.version { return "version \(version) of function \(target.function)" }
        return "alias \(target.alias ?? "") of function \(target.function)"
    }

    /// Finds the version that is meant, and then goes on, unless the caller is refused or has gone meanwhile.
    func choose(
        _ head: HTTPRequestHead, _ target: InvokeTarget, users: Result<EndUsers, Problem>? = nil,
        then: @escaping (HTTPHandler, ChosenVersion?) -> Void
    ) {
        switch service.choose(
            target.function, version: target.version, alias: target.alias, caller: caller, users: users,
            header: { head.headers.first(name: $0) })
        {
        case .found(let found): then(self, found)
        case .refused(let problem): answer(problem)
        case .pending(let verified): wait(verified) { me, users in me.choose(head, target, users: users, then: then) }
        }
    }

    private func wait(
        _ verified: EventLoopFuture<Result<EndUsers, Problem>>, then: @escaping (HTTPHandler, Result<EndUsers, Problem>) -> Void
    ) {
        verified.assumeIsolated().whenSuccess { [weak self] users in
            if let self, self.context != nil { then(self, users) }
        }
    }

    private func invoke(_ head: HTTPRequestHead, _ body: ByteBuffer, _ target: InvokeTarget, _ chosen: ChosenVersion) {
        let version = chosen.version
        if InvokeRoute.isAsynchronous(head.headers) { return accept(head, body, target, version) }
        var order: InvocationOrder
        switch InvokeRoute.order(head.headers, body, version) {
        case .success(let parsed): order = parsed
        case .failure(let problem): return answer(problem)
        }
        order.alias = chosen.alias
        order.cause = cause(head, version.function.tenant)
        let plain = order
        identify(head, version) { me, users in
            if head.headers.first(name: "bulkhead-invocation-type")?.lowercased() == "dry-run" {
                return me.write(status: 204, headers: [("Bulkhead-Version", "\(version.number)")], body: ByteBuffer())
            }
            var order = plain
            (order.tenantUser, order.functionUser) = (users.tenant, users.function)
            me.run(order)
        }
    }

    /// Finds out who the end user is, and then goes on, unless it is refused or the caller has gone meanwhile.
    func identify(_ head: HTTPRequestHead, _ version: VersionID, then: @escaping (HTTPHandler, EndUsers) -> Void) {
        switch service.users(version, caller, { head.headers.first(name: $0) }) {
        case .known(let users): then(self, users)
        case .refused(let problem): answer(problem)
        case .pending(let verified):
            wait(verified) { me, users in
                switch users {
                case .success(let users): then(me, users)
                case .failure(let problem): me.answer(problem)
                }
            }
        }
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
        identify(head, version) { me, users in
            var order = event
            (order.tenantUser, order.functionUser) = (users.tenant, users.function)
            events.accept(order) { [weak me] acceptance in
                switch acceptance {
                case .accepted(let receipt) where receipt.isOfOtherPayload: me?.answer(OutcomeMapping.keyReused(receipt.id))
                case .accepted(let receipt):
                    let answer = InvokeRoute.accepted(receipt)
                    me?.write(status: answer.status, headers: answer.headers, body: answer.body)
                case .refused(let outcome, let sentence, let refusal):
                    me?.answer(OutcomeMapping.problem(outcome, sentence, refusal))
                }
            }
        }
    }
}
