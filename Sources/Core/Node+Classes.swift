// SPDX-License-Identifier: Apache-2.0

/// Classes of service: tree node -> class -> tenant -> function -> version -> end user. A tenant and a function have a vertex in each class that they use; their ceilings hold
/// over all of them together, which no single vertex can see: at the ceiling none of them is ready.
extension Node {
    /// Makes the vertices of a version in a class, and those of its function and tenant where they have none there yet.
    mutating func openLane(_ service: ServiceClass, _ version: VersionID) {
        let name = version.function.tenant
        guard let tenant = tenants[name], let function = functions[version.function], let pool = pools[version], let top = classes[service]
        else { return }
        let unlimited = Int(Int32.max)
        let above = tenant.lanes[service] ?? queue.addVertex(under: top, cap: tenant.spec.concurrency, weight: tenant.spec.weight)
        tenants[name]?.lanes[service] = above
        let middle = function.lanes[service] ?? queue.addVertex(under: above, cap: queue.cap(function.lanes.sync), weight: 1)
        functions[version.function]?.lanes[service] = middle
        let lane = queue.addVertex(under: middle, cap: unlimited, weight: 1)
        queue.setReady(lane, !pool.available.isEmpty)
        pools[version]?.lanes[service] = lane
        pools[version]?.leaves[service] = queue.addVertex(under: lane, cap: unlimited, weight: 1)
        countLanes(version)
    }

    /// After a start or an end: a tenant or function at its ceiling gets no seat in any class.
    mutating func countLanes(_ version: VersionID) {
        countTenantLanes(version.function.tenant)
        countFunctionLanes(version.function)
    }

    mutating func countTenantLanes(_ name: Name) {
        guard let lanes = tenants[name]?.lanes, !lanes.isSingle else { return }
        queue.setReady(lanes, queue.running(lanes) < queue.cap(lanes.sync))
    }

    mutating func countFunctionLanes(_ function: FunctionID) {
        guard let lanes = functions[function]?.lanes, !lanes.isSingle else { return }
        queue.setReady(lanes, queue.running(lanes) < queue.cap(lanes.sync))
    }

    mutating func removeLanes(ofTenant name: Name) -> Bool {
        guard var lanes = tenants[name]?.lanes else { return true }
        let isGone = queue.remove(&lanes)
        tenants[name]?.lanes = lanes
        return isGone
    }

    /// Forgets a function without versions.
    mutating func removeLanes(ofFunction id: FunctionID) {
        guard var lanes = functions[id]?.lanes else { return }
        let isGone = queue.remove(&lanes)
        functions[id]?.lanes = lanes
        if isGone { functions[id] = nil }
    }

    mutating func removeLanes(ofPool version: VersionID) -> Bool {
        guard var leaves = pools[version]?.leaves, var lanes = pools[version]?.lanes else { return true }
        guard queue.remove(&leaves) else { return false }
        return queue.remove(&lanes)
    }

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

    func turn(_ name: Name, in service: ServiceClass) -> Turn? {
        guard let lane = tenants[name]?.lanes[service], let top = classes[service] else { return nil }
        return Turn(service: service, classTime: queue.virtualTime(top), tenantTime: queue.virtualTime(lane))
    }

    /// The first turn of what waits for a tenant.
    func turn(_ name: Name) -> Turn? {
        let waiting = ServiceClass.allCases.filter { service in
            tenants[name]?.lanes[service].map { queue.queued($0) > 0 } ?? false
        }
        return waiting.compactMap { turn(name, in: $0) }.min { $0.isBefore($1) }
    }

    /// How much virtual time a tenant with a warm idle worker is served before one for which that worker would have to end.
    static let warmPreference = 200_000_000.0
}
