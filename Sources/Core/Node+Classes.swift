// SPDX-License-Identifier: Apache-2.0

/// Classes of service: tree node -> class -> tenant -> function -> version -> end user. A tenant and a function have a vertex in each class that they use; their ceilings hold
/// over all of them together, which no single vertex can see: at the ceiling none of them is ready.
extension Node {
    /// Makes the vertices of a version in a class, and those of its function and tenant where they have none there yet.
    func openLane(_ service: ServiceClass, _ pool: Pool) {
        let (tenant, function) = (pool.tenant, pool.function)
        guard let top = classes[service] else { return }
        let unlimited = Int(Int32.max)
        let above = tenant.lanes[service] ?? queue.addVertex(under: top, cap: tenant.spec.concurrency, weight: tenant.spec.weight)
        tenant.lanes[service] = above
        let middle = function.lanes[service] ?? queue.addVertex(under: above, cap: queue.cap(function.lanes.sync), weight: 1)
        function.lanes[service] = middle
        let lane = queue.addVertex(under: middle, cap: unlimited, weight: 1)
        queue.setReady(lane, !pool.available.isEmpty)
        pool.lanes[service] = lane
        pool.leaves[service] = queue.addVertex(under: lane, cap: unlimited, weight: 1)
        countLanes(pool)
    }

    /// After a start or an end: a tenant or function at its ceiling gets no seat in any class.
    func countLanes(_ pool: Pool) {
        countLanes(pool.tenant.lanes)
        countLanes(pool.function.lanes)
    }

    func countLanes(_ lanes: Lanes) {
        guard !lanes.isSingle else { return }
        queue.setReady(lanes, queue.running(lanes) < queue.cap(lanes.sync))
    }

    /// Forgets a function without versions.
    func removeFunction(_ id: FunctionID) {
        if let function = functions[id], queue.remove(&function.lanes) { functions[id] = nil }
    }

    func removeLanes(of pool: Pool) -> Bool { queue.remove(&pool.leaves) && queue.remove(&pool.lanes) }

    // MARK: whose turn it is where seats are not what is short

    /// What a tenant has had in a class, to compare with others: the smaller comes first.
    struct Turn {
        var service: ServiceClass
        var classTime: Double
        var tenantTime: Double

        /// Whether this one comes before the other, by more than so much virtual time (ns).
        func isBefore(_ other: Turn, by margin: Double = 0) -> Bool {
            if service == other.service { return tenantTime + margin < other.tenantTime }
            return classTime + margin < other.classTime
                || (classTime == other.classTime && margin == 0 && service.rawValue < other.service.rawValue)
        }
    }

    func turn(_ tenant: Tenant, in service: ServiceClass) -> Turn? {
        guard let lane = tenant.lanes[service], let top = classes[service] else { return nil }
        return Turn(service: service, classTime: queue.virtualTime(top), tenantTime: queue.virtualTime(lane))
    }

    /// The first turn of what waits for a tenant.
    func turn(_ tenant: Tenant) -> Turn? {
        let waiting = ServiceClass.allCases.filter { service in tenant.lanes[service].map { queue.queued($0) > 0 } ?? false }
        return waiting.compactMap { turn(tenant, in: $0) }.min { $0.isBefore($1) }
    }

    /// How much virtual time a tenant with a warm idle worker is served before one for which that worker would have to end.
    static let warmPreference = 200_000_000.0
}
