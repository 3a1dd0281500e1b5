// SPDX-License-Identifier: Apache-2.0

/// The end users of one invocation: by the tenant's rule and by the function's.
struct UserPair: Hashable, Sendable {
    var tenant: String?
    var function: String?
}

/// Where invocations of an end user wait: one place a class.
struct UserLeaf: Hashable, Sendable {
    var users: UserPair
    var service: ServiceClass
}

/// End users of one tenant or function that run, wait or have used up some of their rate. Bounded: beyond ``capacity`` users share one entry, and with it its
/// ceilings, so that a flood of invented names gains nothing and costs no memory.
struct UserTable: Sendable {
    static let capacity = 65_536
    /// The entry of those for whom there was no room.
    static let others = "\u{0}others"

    struct Entry: Sendable {
        var running = 0
        var meter = RateMeter()
        /// Leaves of the fair queue that hold invocations of this user.
        var leaves: [FairQueue.VertexID] = []
    }

    private(set) var entries: [String: Entry] = [:]
    /// Names in the order of their first call, to look for those that can be forgotten.
    private var order: [String] = []
    private var hand = 0

    subscript(_ user: String) -> Entry {
        get { entries[user] ?? Entry() }
        set { entries[user] = newValue }
    }

    /// The name under which `user` is counted. Looks at a few old entries each time, so that forgetting needs no sweep.
    mutating func admit(_ user: String, rate: RateSpec?, now: Instant) -> String {
        if entries[user] != nil { return user }
        for _ in 0..<4 where !order.isEmpty {
            if hand >= order.count { hand = 0 }
            let name = order[hand]
            guard let entry = entries[name],
                entry.running > 0 || !entry.leaves.isEmpty || rate.map({ !entry.meter.isWhole($0, at: now) }) ?? false
            else {
                entries[name] = nil
                order[hand] = order[order.count - 1]
                order.removeLast()
                continue
            }
            hand += 1
        }
        guard entries.count < Self.capacity else {
            if entries[Self.others] == nil { entries[Self.others] = Entry() }
            return Self.others
        }
        entries[user] = Entry()
        order.append(user)
        return user
    }

    var count: Int { entries.count }
}

extension Node {
    /// The users of an arrival as they are counted; nil where neither the tenant nor the function has a rule for users.
    func admitUsers(_ arrival: Arrival, _ pool: Pool, _ now: Instant) -> UserPair? {
        guard arrival.tenantUser != nil || arrival.functionUser != nil else { return nil }
        var pair = UserPair()
        if let user = arrival.tenantUser, let rule = pool.tenant.spec.users {
            pair.tenant = pool.tenant.users.admit(user, rate: rule.rate, now: now)
        }
        if let user = arrival.functionUser, let rule = pool.spec.users {
            pair.function = pool.function.users.admit(user, rate: rule.rate, now: now)
        }
        return pair.tenant == nil && pair.function == nil ? nil : pair
    }

    /// The leaf of these users in this version's queue, made where there is none.
    func leaf(of users: UserPair?, _ service: ServiceClass, _ pool: Pool) -> FairQueue.VertexID? {
        if pool.lanes[service] == nil { openLane(service, pool) }
        guard let lane = pool.lanes[service] else { return nil }
        guard let users else { return pool.leaves[service] }
        let key = UserLeaf(users: users, service: service)
        if let known = pool.userLeaves[key] { return known }
        let leaf = queue.addVertex(under: lane, cap: Int(Int32.max), weight: 1)
        pool.userLeaves[key] = leaf
        leafUsers[leaf] = (pool, users)
        if let user = users.tenant { pool.tenant.users[user].leaves.append(leaf) }
        if let user = users.function { pool.function.users[user].leaves.append(leaf) }
        queue.setReady(leaf, !isBlocked(users, pool))
        return leaf
    }

    /// Forgets the leaf of users who neither run nor wait, unless that would let them come back with more than their share.
    func forgetLeaf(of users: UserPair?, _ service: ServiceClass, _ pool: Pool) {
        guard let users else { return }
        let key = UserLeaf(users: users, service: service)
        guard let leaf = pool.userLeaves[key], queue.running(leaf) == 0, queue.queued(leaf) == 0 else { return }
        guard queue.isForgettable(leaf) || pool.userLeaves.count > 1024, queue.removeVertex(leaf) else { return }
        pool.userLeaves[key] = nil
        forget(leaf, of: users, pool)
    }

    /// A leaf that the queue has no more.
    func forget(_ leaf: FairQueue.VertexID, of users: UserPair, _ pool: Pool) {
        leafUsers[leaf] = nil
        if let user = users.tenant { pool.tenant.users[user].leaves.removeAll { $0 == leaf } }
        if let user = users.function { pool.function.users[user].leaves.removeAll { $0 == leaf } }
    }

    /// Counts a run of its users (`+1`, `-1`) and lets their leaves take part in the queue or not.
    func countUsers(_ invocation: Invocation, _ change: Int) {
        guard let users = invocation.users else { return }
        func count(_ user: String, in table: inout UserTable) -> [FairQueue.VertexID] {
            table[user].running += change
            return table[user].leaves
        }
        var touched: [FairQueue.VertexID] = []
        if let user = users.tenant { touched = count(user, in: &invocation.pool.tenant.users) }
        if let user = users.function { touched += count(user, in: &invocation.pool.function.users) }
        for leaf in touched { refreshLeaf(leaf) }
    }

    func isBlocked(_ users: UserPair, _ pool: Pool) -> Bool { userRefusal(users, pool) != nil }

    /// The user's ceiling on concurrency that is reached, if one is.
    func userRefusal(_ users: UserPair, _ pool: Pool) -> (limit: Int, running: Int)? {
        func full(_ user: String?, _ rule: UserSpec?, _ table: UserTable) -> (limit: Int, running: Int)? {
            guard let user, let cap = rule?.concurrency else { return nil }
            let running = table[user].running
            return running >= cap ? (cap, running) : nil
        }
        return full(users.tenant, pool.tenant.spec.users, pool.tenant.users) ?? full(users.function, pool.spec.users, pool.function.users)
    }

    /// After a change of the rules every user's leaf is judged anew.
    func refreshLeaves(of tenant: Tenant) {
        for (leaf, place) in leafUsers where place.pool.tenant === tenant { refreshLeaf(leaf) }
    }

    private func refreshLeaf(_ leaf: FairQueue.VertexID) {
        guard let place = leafUsers[leaf] else { return }
        queue.setReady(leaf, !isBlocked(place.users, place.pool))
    }
}
