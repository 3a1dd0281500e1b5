// SPDX-License-Identifier: Apache-2.0

/// What the recurrent events of one root have used. A root has one only from its first recurrence on, so that acyclic work costs no memory.
struct RootBudget: Sendable {
    /// Declared recursion has a budget of its own for each function; all else of a root shares the one of function 0.
    struct Key: Hashable, Sendable {
        let root: InvocationID
        let function: UInt64
    }
    let key: Key
    var count: TokenBucket
    var cost: TokenBucket
    /// Log likelihood ratio of "each recurrent event makes one more" against "one in ten does".
    var suspicion: Float = 0
    var isSuspect = false
    /// Running recurrent invocations that were not called synchronously.
    var running: Int32 = 0
    var older: Int32 = -1
    var newer: Int32 = -1

}

/// The budgets of the roots that recur: a bounded table, least recently used out first, and a sketch for those that went.
///
/// The sketch is a count-min sketch (Cormode and Muthukrishnan 2005) of times instead of counts: each cell keeps the latest "full again at" of the roots that hash to it, and the smallest
/// of a root's four cells is never before its own. So a root that comes back has at most what it had, and the sketch forgets by itself as time passes.
struct RootBudgets: Sendable {
    static let rows = 4
    static let columns = 16_384

    private let capacity: Int
    /// Secret, so that nobody can choose roots that share a cell with another's.
    let seed: UInt64
    private var places: [RootBudget.Key: Int32] = [:]
    private var entries: [RootBudget] = []
    private var newest: Int32 = -1
    private var oldest: Int32 = -1
    /// Whole seconds, rounded up. Empty until the first eviction.
    private var counts: [UInt32] = []
    private var costs: [UInt32] = []

    init(capacity: Int, seed: UInt64) {
        self.capacity = max(1, capacity)
        self.seed = seed
    }

    var count: Int { entries.count }

    subscript(place: Int) -> RootBudget {
        get { entries[place] }
        _modify { yield &entries[place] }
    }

    /// Where the budget stands, if the table knows it; it counts as used now.
    mutating func find(_ key: RootBudget.Key) -> Int? {
        guard let place = places[key] else { return nil }
        touch(place)
        return Int(place)
    }

    /// Where the budget stands; a new one where there was none, with what the sketch knows of it.
    mutating func findOrAdd(_ key: RootBudget.Key, at now: Instant) -> Int {
        if let place = find(key) {
            // All that it did is paid back: a chain as slow as a schedule is never suspected.
            if entries[place].running == 0, entries[place].count.isFull(at: now) {
                entries[place].suspicion = 0
                entries[place].isSuspect = false
            }
            return place
        }
        let budget = RootBudget(
            key: key, count: TokenBucket(fullAt: estimate(counts, key)), cost: TokenBucket(fullAt: estimate(costs, key)))
        return add(budget, at: now)
    }

    mutating func restore(_ root: LoopSnapshot.Root, at now: Instant) {
        let key = RootBudget.Key(root: root.root, function: root.function)
        guard places[key] == nil else { return }
        var budget = RootBudget(key: key, count: TokenBucket(fullAt: root.countFullAt), cost: TokenBucket(fullAt: root.costFullAt))
        budget.isSuspect = root.isSuspect
        _ = add(budget, at: now)
    }

    /// The budget, if the table knows it; does not count as a use.
    func peek(_ key: RootBudget.Key) -> RootBudget? { places[key].map { entries[Int($0)] } }

    /// From the least to the most recently used.
    func forEach(_ body: (RootBudget) -> Void) {
        var place = oldest
        while place >= 0 {
            body(entries[Int(place)])
            place = entries[Int(place)].newer
        }
    }

    private mutating func add(_ budget: RootBudget, at now: Instant) -> Int {
        var place = Int32(entries.count)
        if entries.count < capacity {
            entries.append(budget)
        } else {
            place = evict(at: now)
            entries[Int(place)] = budget
        }
        places[budget.key] = place
        link(place)
        return Int(place)
    }

    /// Takes out the least recently used, one that runs nothing if there is one among the first eight.
    private mutating func evict(at now: Instant) -> Int32 {
        var victim = oldest
        for _ in 0..<8 where victim >= 0 && entries[Int(victim)].running > 0 { victim = entries[Int(victim)].newer }
        if victim < 0 || entries[Int(victim)].running > 0 { victim = oldest }
        let entry = entries[Int(victim)]
        unlink(victim)
        places[entry.key] = nil
        if !entry.count.isFull(at: now) { Self.note(entry.count, cells(entry.key), in: &counts) }
        if !entry.cost.isFull(at: now) { Self.note(entry.cost, cells(entry.key), in: &costs) }
        return victim
    }

    // MARK: order of use

    private mutating func touch(_ place: Int32) {
        guard place != newest else { return }
        unlink(place)
        link(place)
    }

    private mutating func link(_ place: Int32) {
        entries[Int(place)].older = newest
        entries[Int(place)].newer = -1
        if newest >= 0 { entries[Int(newest)].newer = place } else { oldest = place }
        newest = place
    }

    private mutating func unlink(_ place: Int32) {
        let (older, newer) = (entries[Int(place)].older, entries[Int(place)].newer)
        if older >= 0 { entries[Int(older)].newer = newer } else { oldest = newer }
        if newer >= 0 { entries[Int(newer)].older = older } else { newest = older }
    }

    // MARK: sketch

    private func cells(_ key: RootBudget.Key) -> UInt64 {
        FunctionKey.mix(FunctionKey.mix(key.root.high ^ seed) ^ FunctionKey.mix(key.root.low &+ seed) &+ key.function)
    }

    private static func cell(_ row: Int, _ hash: UInt64) -> Int { row * columns + Int(hash >> (14 * UInt64(row)) & 16_383) }

    private func estimate(_ sketch: [UInt32], _ key: RootBudget.Key) -> Instant {
        if sketch.isEmpty { return Instant(nanoseconds: 0) }
        let hash = cells(key)
        let seconds = (0..<Self.rows).map { sketch[Self.cell($0, hash)] }.min() ?? 0
        return Instant(nanoseconds: .seconds(UInt64(seconds)))
    }

    private static func note(_ bucket: TokenBucket, _ hash: UInt64, in sketch: inout [UInt32]) {
        if sketch.isEmpty { sketch = [UInt32](repeating: 0, count: rows * columns) }
        let seconds = UInt32(clamping: (bucket.fullAt.nanoseconds - 1) / 1_000_000_000 + 1)
        for row in 0..<rows { sketch[cell(row, hash)] = max(sketch[cell(row, hash)], seconds) }
    }

    /// The sketch, to be stored with the rest; empty before the first eviction.
    var sketch: (counts: [UInt32], costs: [UInt32]) {
        get { (counts, costs) }
        set {
            let size = Self.rows * Self.columns
            counts = newValue.counts.count == size ? newValue.counts : []
            costs = newValue.costs.count == size ? newValue.costs : []
        }
    }
}
