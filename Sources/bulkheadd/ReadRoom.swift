// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Gateway
import Synchronization

/// Room for looks at a tenant's own files that may take long (searches of its log, listings of its buckets): few at a time, the tenants in turn, and each with
/// a bounded number waiting. Whoever asks for much waits behind itself; others, and the node's own work, go on.
final class ReadRoom: Sendable {
    /// At a time, each of another tenant.
    private let width: Int
    /// Of one tenant, behind the one that runs.
    private let places: Int
    private let queue = DispatchQueue(label: "bulkhead.reads", attributes: .concurrent)
    private let state = Mutex(State())

    fileprivate struct State {
        var running: Set<Name> = []
        var waiting: [Name: [@Sendable () -> Void]] = [:]
        /// Tenants with something waiting and nothing running, the next first.
        var turns: [Name] = []
    }

    init(width: Int = 2, places: Int = 16) {
        self.width = width
        self.places = places
    }

    /// Runs a look when it is the tenant's turn.
    ///
    /// - Throws: ``Problem`` with status 429 where too many of the tenant wait; what `body` throws.
    func run<T: Sendable>(_ tenant: Name, _ body: @escaping @Sendable () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            let job: @Sendable () -> Void = { continuation.resume(with: Result { try body() }) }
            guard add(job, tenant) else { return continuation.resume(throwing: Self.full(places)) }
            start()
        }
    }

    private func add(_ job: @escaping @Sendable () -> Void, _ tenant: Name) -> Bool {
        state.withLock { state in
            guard state.waiting[tenant]?.count ?? 0 < places else { return false }
            state.waiting[tenant, default: []].append(job)
            if state.waiting[tenant]?.count == 1, !state.running.contains(tenant) { state.turns.append(tenant) }
            return true
        }
    }

    private func start() {
        while let (tenant, job) = state.withLock({ $0.next(width) }) {
            queue.async {
                job()
                self.state.withLock { $0.ended(tenant) }
                self.start()
            }
        }
    }

    /// How many looks of the tenant wait for their turn.
    func waiting(_ tenant: Name) -> Int { state.withLock { $0.waiting[tenant]?.count ?? 0 } }

    private static func full(_ places: Int) -> Problem {
        var problem = Problem(
            code: Outcome.throttled.rawValue, title: "A ceiling is reached", status: 429,
            detail: "as many searches and listings of this tenant wait as may at once (\(places)): send it again in a second")
        problem.retryAfter = 1
        return problem
    }
}

extension ReadRoom.State {
    fileprivate mutating func next(_ width: Int) -> (Name, @Sendable () -> Void)? {
        guard running.count < width, let tenant = turns.first, let job = waiting[tenant]?.first else { return nil }
        turns.removeFirst()
        waiting[tenant]?.removeFirst()
        if waiting[tenant]?.isEmpty == true { waiting[tenant] = nil }
        running.insert(tenant)
        return (tenant, job)
    }

    fileprivate mutating func ended(_ tenant: Name) {
        running.remove(tenant)
        if waiting[tenant] != nil { turns.append(tenant) }
    }
}
