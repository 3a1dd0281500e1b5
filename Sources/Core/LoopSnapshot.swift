// SPDX-License-Identifier: Apache-2.0

/// What the governor has to know again after a restart. Lineages are stored with their events.
public struct LoopSnapshot: Hashable, Codable, Sendable {
    /// One root's budget, or of a function that declares its recursion the one of that function under the root.
    public struct Root: Hashable, Codable, Sendable {
        public var root: InvocationID
        /// ``FunctionKey/bits``, 0 without a declaration.
        public var function: UInt64
        public var countFullAt: Instant
        public var costFullAt: Instant
        public var isSuspect: Bool
    }
    public var time: Instant
    public var edges: [EdgeID: LoopEdgeState]
    public var roots: [Root]
    /// Seconds at which evicted roots are whole again, by cell; empty where none was evicted.
    public var evictedCounts: [UInt32]
    public var evictedCosts: [UInt32]
    /// What decides which roots share a cell.
    public var seed: UInt64
}

extension LoopGovernor {
    /// Budgets that are whole are left out: nobody misses them.
    public var snapshot: LoopSnapshot {
        var kept: [LoopSnapshot.Root] = []
        roots.forEach { budget in
            guard !budget.count.isFull(at: latest) || !budget.cost.isFull(at: latest) else { return }
            kept.append(LoopSnapshot.Root(budget))
        }
        let sketch = roots.sketch
        return LoopSnapshot(
            time: latest, edges: edges.mapValues(\.state), roots: kept, evictedCounts: sketch.counts, evictedCosts: sketch.costs,
            seed: roots.seed)
    }

    /// The budget that an admission or the end of a run changed, to be stored in the same transaction as its event; nil where it took from none.
    public func budget(of lineage: Lineage, through edge: EdgeID) -> LoopSnapshot.Root? {
        lineage.flags.contains(.recurrent) ? roots.peek(budgetKey(lineage, edge)).map { LoopSnapshot.Root($0) } : nil
    }

    /// Edges wait for ``configure(_:_:at:)`` with the defaults.
    public init(limits: LoopLimits = LoopLimits(), restoring snapshot: LoopSnapshot) {
        self.init(limits: limits, seed: snapshot.seed)
        latest = snapshot.time
        roots.sketch = (snapshot.evictedCounts, snapshot.evictedCosts)
        for root in snapshot.roots { roots.restore(root, at: latest) }
        for (edge, state) in snapshot.edges {
            edges[edge] = LoopEdge(spec: EdgeSpec(), function: FunctionKey(edge.function), state: state)
            count(bytes: state.parkedBytes, of: edge.function.tenant)
            attended.insert(edge)
        }
    }
}

extension LoopSnapshot.Root {
    init(_ budget: RootBudget) {
        root = budget.key.root
        function = budget.key.function
        countFullAt = budget.count.fullAt
        costFullAt = budget.cost.fullAt
        isSuspect = budget.isSuspect
    }
}
