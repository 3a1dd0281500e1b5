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
    mutating func admitUsers(_ arrival: Arrival, _ now: Instant) -> UserPair? {
        guard arrival.tenantUser != nil || arrival.functionUser != nil else { return nil }
        let name = arrival.version.function.tenant
        var pair = UserPair()
        if let user = arrival.tenantUser, let rule = tenants[name]?.spec.users {
            pair.tenant = tenants[name]?.users.admit(user, rate: rule.rate, now: now)
        }
        if let user = arrival.functionUser, let rule = pools[arrival.version]?.spec.users {
            pair.function = functions[arrival.version.function]?.users.admit(user, rate: rule.rate, now: now)
        }
        return pair.tenant == nil && pair.function == nil ? nil : pair
    }

    /// The leaf of these users in this version's queue, made where there is none.
    mutating func leaf(of users: UserPair?, _ service: ServiceClass, _ version: VersionID) -> FairQueue.VertexID? {
        if pools[version]?.lanes[service] == nil { openLane(service, version) }
        guard let pool = pools[version], let lane = pool.lanes[service] else { return nil }
        guard let users else { return pool.leaves[service] }
        let key = UserLeaf(users: users, service: service)
        if let known = pool.userLeaves[key] { return known }
        let leaf = queue.addVertex(under: lane, cap: Int(Int32.max), weight: 1)
        pools[version]?.userLeaves[key] = leaf
        leafUsers[leaf] = (version, users)
        if let user = users.tenant { tenants[version.function.tenant]?.users[user].leaves.append(leaf) }
        if let user = users.function { functions[version.function]?.users[user].leaves.append(leaf) }
        queue.setReady(leaf, !isBlocked(users, version))
        return leaf
    }

    /// Forgets the leaf of users who neither run nor wait, unless that would let them come back with more than their share.
    mutating func forgetLeaf(of users: UserPair?, _ service: ServiceClass, _ version: VersionID) {
        guard let users else { return }
        let key = UserLeaf(users: users, service: service)
        guard let leaf = pools[version]?.userLeaves[key], queue.running(leaf) == 0, queue.queued(leaf) == 0 else { return }
        guard queue.isForgettable(leaf) || (pools[version]?.userLeaves.count ?? 0) > 1024, queue.removeVertex(leaf) else { return }
        pools[version]?.userLeaves[key] = nil
        leafUsers[leaf] = nil
        if let user = users.tenant { tenants[version.function.tenant]?.users[user].leaves.removeAll { $0 == leaf } }
        if let user = users.function { functions[version.function]?.users[user].leaves.removeAll { $0 == leaf } }
    }

    /// Counts a run of the users (`+1`, `-1`) and lets their leaves take part in the queue or not.
    mutating func countUsers(_ users: UserPair?, _ version: VersionID, _ change: Int) {
        guard let users else { return }
        var touched: [FairQueue.VertexID] = []
        if let user = users.tenant {
            tenants[version.function.tenant]?.users[user].running += change
            touched = tenants[version.function.tenant]?.users[user].leaves ?? []
        }
        if let user = users.function {
            functions[version.function]?.users[user].running += change
            touched += functions[version.function]?.users[user].leaves ?? []
        }
        for leaf in touched { refreshLeaf(leaf) }
    }

    func isBlocked(_ users: UserPair, _ version: VersionID) -> Bool { userRefusal(users, version) != nil }

    /// The user's ceiling on concurrency that is reached, if one is.
    func userRefusal(_ users: UserPair, _ version: VersionID) -> (limit: Int, running: Int)? {
        if let user = users.tenant, let tenant = tenants[version.function.tenant], let cap = tenant.spec.users?.concurrency {
            let running = tenant.users[user].running
            if running >= cap { return (cap, running) }
        }
        if let user = users.function, let cap = pools[version]?.spec.users?.concurrency, let function = functions[version.function] {
            let running = function.users[user].running
            if running >= cap { return (cap, running) }
        }
        return nil
    }

    /// After a change of the rules every user's leaf is judged anew.
    mutating func refreshLeaves(of name: Name) {
        for (leaf, place) in leafUsers where place.version.function.tenant == name { refreshLeaf(leaf) }
    }

    private mutating func refreshLeaf(_ leaf: FairQueue.VertexID) {
        guard let place = leafUsers[leaf] else { return }
        queue.setReady(leaf, !isBlocked(place.users, place.version))
    }
}
