// SPDX-License-Identifier: Apache-2.0
import Core
import Kernel
import SandboxKit
import Wire

/// Leaf cgroups made ahead: directories in every hierarchy, limits, open descriptors. Each serves one worker once, as a cgroup that was ever killed must not be
/// used again with CLONE_INTO_CGROUP.
struct LeafReserve {
    /// How many are kept in all, and a group.
    static let total = 64
    static let perGroup = 2

    private(set) var ready: [GroupID: [CgroupLeaf]] = [:]
    private(set) var count = 0
    /// Groups that started a worker, with its limits, and have less than their share ready. The next worker of a group mostly has the limits of the one before.
    private(set) var wanting: [(group: GroupID, limits: CgroupLimits)] = []
    private(set) var nextNumber: UInt64 = 1

    init() {}
    /// Nothing is ready, and names begin with this one.
    init(nextNumber: UInt64) { self.nextNumber = nextNumber }

    /// A name that no cgroup of this run has had.
    mutating func nextName() -> String {
        defer { nextNumber += 1 }
        return "w\(nextNumber)"
    }

    mutating func take(_ group: GroupID) -> CgroupLeaf? {
        guard let leaf = ready[group]?.popLast() else { return nil }
        count -= 1
        return leaf
    }
    mutating func put(_ leaf: CgroupLeaf, for group: GroupID) {
        ready[group, default: []].append(leaf)
        count += 1
    }
    mutating func want(_ group: GroupID, _ limits: CgroupLimits) {
        guard (ready[group]?.count ?? 0) < Self.perGroup, count < Self.total else { return }
        wanting.removeAll { $0.group == group }
        wanting.append((group, limits))
    }
    /// Whether a group that started a worker lately has nothing ready.
    var isLow: Bool { wanting.contains { ready[$0.group]?.isEmpty ?? true } }
    mutating func nextWanted() -> (group: GroupID, limits: CgroupLimits)? { wanting.popLast() }
    mutating func remove(_ group: GroupID) -> [CgroupLeaf] {
        wanting.removeAll { $0.group == group }
        let list = ready.removeValue(forKey: group) ?? []
        count -= list.count
        return list
    }
}

extension Spawner {
    static func cgroupLimits(_ limits: WorkerLimits) -> CgroupLimits {
        // One more for the reaper, which the manifest does not count.
        CgroupLimits(memoryBytes: limits.memoryBytes, cpuMilli: limits.cpuMilli, processes: limits.processes + 1)
    }

    /// A leaf of the group with these limits: a ready one where there is one.
    func takeLeaf(_ group: GroupID, _ limits: CgroupLimits) throws(KernelError) -> CgroupLeaf {
        defer { leaves.want(group, limits) }
        guard var leaf = leaves.take(group) else { return try cgroups.makeLeaf("\(group)/\(leaves.nextName())", limits: limits) }
        do throws(KernelError) { try cgroups.setLimits(leaf.path, limits, isLeaf: true, present: leaf.limits) } catch {
            leaf.close()
            cgroups.remove(leaf.path)
            throw error
        }
        leaf.limits = limits
        return leaf
    }

    func dropAllLeaves() { for group in leaves.ready.keys { dropLeaves(of: group) } }

    func dropLeaves(of group: GroupID) {
        for var leaf in leaves.remove(group) {
            leaf.close()
            cgroups.remove(leaf.path)
        }
    }

    /// Nil where nothing is missing, else how many milliseconds of quiet to wait for before it is made: a start that is under way should have the processors and
    /// the kernel's locks to itself, but the next one should not find nothing ready.
    var reserveDelay: Int32? {
        guard !isStopping, !leaves.wanting.isEmpty || (!host.isReserveFull && !usedIDs.isEmpty) else { return nil }
        return host.isReserveLow || leaves.isLow ? 0 : 3
    }

    /// One thing made ahead; a failure is no failure of anybody's start, which then makes its own and says what is wrong.
    func fillReserve() {
        if let (group, limits) = leaves.nextWanted() {
            guard groups.contains(group), let leaf = try? cgroups.makeLeaf("\(group)/\(leaves.nextName())", limits: limits) else { return }
            leaves.put(leaf, for: group)
            leaves.want(group, limits)
        } else {
            host.fillReserve()
        }
    }
}
