// SPDX-License-Identifier: Apache-2.0
public import Core
import DequeModule
import Dispatch
import Synchronization

/// Where tokens are verified: beside the loop that serves everybody, on a few threads, whose turns the tenants take one after the other. So a flood of one tenant's tokens,
/// each of which costs a signature's time, keeps its own callers waiting, and not the others'.
public final class TokenDesk: Sendable {
    public static let threads = 2
    /// The most tokens under way: of one tenant, and of all.
    public static let share = 64
    public static let limit = 1024

    private struct State {
        var waiting: [Name: Deque<@Sendable () -> Void>] = [:]
        /// Tenants with something that waits, the next first.
        var turns: Deque<Name> = []
        /// What waits or is being verified.
        var counts: [Name: Int] = [:]
        var count = 0
        var running = 0
    }

    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "bulkhead.tokens", attributes: .concurrent)

    public init() {}

    /// How much is under way; for looking.
    public var count: Int { state.withLock { $0.count } }

    /// Does `work` on a thread of the desk, soon. False, and nothing is done, where the tenant or all together have as much there as they may.
    public func take(_ tenant: Name, _ work: @escaping @Sendable () -> Void) -> Bool {
        let (isTaken, needsThread) = state.withLock { state -> (Bool, Bool) in
            let own = state.counts[tenant] ?? 0
            // Whoever has nothing here is let in: the others' share is theirs, not its.
            guard own < Self.share, state.count < Self.limit || own == 0 else { return (false, false) }
            state.counts[tenant] = own + 1
            state.count += 1
            if state.waiting[tenant] == nil { state.turns.append(tenant) }
            state.waiting[tenant, default: []].append(work)
            guard state.running < Self.threads else { return (true, false) }
            state.running += 1
            return (true, true)
        }
        if needsThread { queue.async { self.run() } }
        return isTaken
    }

    private func run() {
        while let (tenant, work) = next() {
            work()
            state.withLock { state in
                state.count -= 1
                let own = (state.counts[tenant] ?? 0) - 1
                state.counts[tenant] = own > 0 ? own : nil
            }
        }
    }

    /// Nil where nothing waits, and the thread goes.
    private func next() -> (Name, @Sendable () -> Void)? {
        state.withLock { state in
            guard let tenant = state.turns.popFirst(), var own = state.waiting.removeValue(forKey: tenant), let work = own.popFirst() else {
                state.running -= 1
                return nil
            }
            if !own.isEmpty {
                state.waiting[tenant] = own
                state.turns.append(tenant)
            }
            return (tenant, work)
        }
    }
}
