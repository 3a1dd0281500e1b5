// SPDX-License-Identifier: Apache-2.0
public import Core
import DequeModule
import Dispatch
import Synchronization

/// Where tenants have work done that takes its time (a token's signature, a search of a log), beside the loop that serves everybody: on a few threads, whose turns the tenants take one
/// after the other. So one tenant's flood keeps its own callers waiting, and not the others'.
public final class TenantDesk: Sendable {
    public static let threads = 2
    /// The most that is under way, unless stated otherwise: of one tenant, and of all.
    public static let share = 64
    public static let limit = 1024
    /// The most that is under way of one tenant.
    public let share: Int
    /// How many threads one tenant may have at a time.
    private let width: Int

    private struct State {
        var waiting: [Name: Deque<@Sendable () -> Void>] = [:]
        /// Tenants with something that waits, the next first.
        var turns: Deque<Name> = []
        /// What waits or is being verified.
        var counts: [Name: Int] = [:]
        var count = 0
        var running = 0
        /// Of those, whose.
        var busy: [Name: Int] = [:]
    }

    private let state = Mutex(State())
    private let queue: DispatchQueue

    public init(_ label: String = "bulkhead.tokens", share: Int = TenantDesk.share, width: Int = TenantDesk.threads) {
        queue = DispatchQueue(label: label, attributes: .concurrent)
        (self.share, self.width) = (share, width)
    }

    /// How much is under way; for looking.
    public var count: Int { state.withLock { $0.count } }

    /// Does `work` on a thread of the desk, soon. False, and nothing is done, where the tenant or all together have as much there as they may.
    public func take(_ tenant: Name, _ work: @escaping @Sendable () -> Void) -> Bool {
        let (isTaken, needsThread) = state.withLock { state -> (Bool, Bool) in
            let own = state.counts[tenant] ?? 0
            // Whoever has nothing here is let in: the others' share is theirs, not its.
            guard own < share, state.count < Self.limit || own == 0 else { return (false, false) }
            state.counts[tenant] = own + 1
            state.count += 1
            let isFirst = state.waiting[tenant] == nil
            state.waiting[tenant, default: []].append(work)
            if isFirst, state.busy[tenant] ?? 0 < width { state.turns.append(tenant) }
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
                let busy = state.busy[tenant] ?? 0
                state.busy[tenant] = busy > 1 ? busy - 1 : nil
                // It had as many threads as it may, and took no turn meanwhile.
                if busy == width, state.waiting[tenant] != nil { state.turns.append(tenant) }
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
            let busy = (state.busy[tenant] ?? 0) + 1
            state.busy[tenant] = busy
            if !own.isEmpty {
                state.waiting[tenant] = own
                if busy < width { state.turns.append(tenant) }
            }
            return (tenant, work)
        }
    }
}
