// SPDX-License-Identifier: Apache-2.0
@testable import Core

/// The judge of ``FairQueue``: the same rules written down with scans, flat lists and no heap.
struct FairQueueModel {
    struct Vertex {
        var parent: Int32?
        var cap: Int
        var weight: Float
        var time = 0.0
        var childTime = 0.0
        var isReady = true
        var running = 0
        var queue: [InvocationID] = []
        var wasEligible = false
        var guess: Float = 100_000_000
    }

    var vertices: [Int32: Vertex]
    /// Leaf and charge of what runs.
    var seats: [InvocationID: (leaf: Int32, charged: Nanoseconds)] = [:]

    init(seats: Int) { vertices = [0: Vertex(parent: nil, cap: seats, weight: 1)] }

    func children(_ vertex: Int32) -> [Int32] { vertices.keys.filter { vertices[$0]?.parent == vertex } }
    func path(_ vertex: Int32) -> [Int32] {
        var result = [vertex]
        while let last = result.last, let parent = vertices[last]?.parent { result.append(parent) }
        return result
    }
    func isEligible(_ vertex: Int32) -> Bool {
        guard let one = vertices[vertex], one.isReady, one.running < one.cap else { return false }
        return !one.queue.isEmpty || children(vertex).contains { isEligible($0) }
    }
    func queued(_ vertex: Int32) -> Int {
        (vertices[vertex]?.queue.count ?? 0) + children(vertex).reduce(0) { $0 + queued($1) }
    }
    func least(_ vertex: Int32) -> Int32? {
        children(vertex).filter { isEligible($0) }.min { ((vertices[$0]?.time ?? 0), $0) < ((vertices[$1]?.time ?? 0), $1) }
    }
    /// A free seat and somebody who could use it, found without asking who is eligible.
    var someoneCouldStart: Bool {
        vertices.contains { id, leaf in
            !leaf.queue.isEmpty
                && path(id).allSatisfy { (vertices[$0]?.isReady ?? false) && (vertices[$0]?.running ?? 0) < (vertices[$0]?.cap ?? 0) }
        }
    }

    mutating func add(_ id: Int32, under parent: Int32, cap: Int, weight: Double) {
        vertices[id] = Vertex(parent: parent, cap: cap, weight: Float(weight), time: vertices[parent]?.childTime ?? 0)
    }
    mutating func remove(_ id: Int32) -> Bool {
        guard let one = vertices[id], one.parent != nil, one.queue.isEmpty, one.running == 0, children(id).isEmpty else { return false }
        vertices[id] = nil
        return true
    }

    /// After a change below: who has become eligible joins at the floor.
    mutating func settle(_ leaf: Int32, running: Int = 0, time: Double = 0) {
        for id in path(leaf) {
            guard var one = vertices[id] else { continue }
            one.running += running
            one.time += time / Double(one.weight)
            vertices[id] = one
            let isNow = isEligible(id)
            if isNow, !one.wasEligible, let parent = one.parent {
                let others = children(parent).filter { $0 != id && vertices[$0]?.wasEligible == true }.compactMap { vertices[$0]?.time }
                let known = vertices[parent]?.childTime ?? 0
                vertices[id]?.time = max(one.time, min(known, others.min() ?? known))
            }
            vertices[id]?.wasEligible = isNow
        }
    }

    mutating func enqueue(_ invocation: InvocationID, at leaf: Int32) {
        vertices[leaf]?.queue.append(invocation)
        settle(leaf)
    }
    mutating func leave(_ invocation: InvocationID) -> Bool {
        guard let leaf = vertices.first(where: { $0.value.queue.contains(invocation) })?.key else { return false }
        vertices[leaf]?.queue.removeAll { $0 == invocation }
        settle(leaf)
        return true
    }
    func next() -> Int32? {
        guard isEligible(0) else { return nil }
        var vertex: Int32 = 0
        while let child = least(vertex) { vertex = child }
        return vertex
    }
    mutating func dispatch(newestFirst: Bool) -> (leaf: Int32, invocation: InvocationID, charged: Nanoseconds)? {
        guard let leaf = next(), let function = vertices[leaf]?.parent else { return nil }
        for id in path(leaf) {
            guard let parent = vertices[id]?.parent, let time = vertices[id]?.time else { continue }
            let known = vertices[parent]?.childTime ?? 0
            vertices[parent]?.childTime = max(known, time)
        }
        guard let invocation = newestFirst ? vertices[leaf]?.queue.popLast() : vertices[leaf]?.queue.removeFirst() else { return nil }
        let charged = min(max(Nanoseconds(vertices[function]?.guess ?? 0), 1_000_000), 10_000_000_000)
        seats[invocation] = (leaf, charged)
        settle(leaf, running: 1, time: Double(charged))
        return (leaf, invocation, charged)
    }
    mutating func overrun(_ invocation: InvocationID, by additional: Nanoseconds) -> Bool {
        guard let seat = seats[invocation] else { return false }
        seats[invocation]?.charged += additional
        settle(seat.leaf, time: Double(additional))
        return true
    }
    mutating func finish(_ invocation: InvocationID, actual: Nanoseconds) -> Bool {
        guard let seat = seats.removeValue(forKey: invocation), let function = vertices[seat.leaf]?.parent else { return false }
        let guess = vertices[function]?.guess ?? 0
        vertices[function]?.guess = guess + (Float(min(actual, 10_000_000_000)) - guess) / 8
        settle(seat.leaf, running: -1, time: Double(actual) - Double(seat.charged))
        return true
    }
}

extension FairQueue {
    /// What is wrong with the heaps: exactly the eligible children are in them, each where it believes to be, with its own time, in order.
    func brokenHeap(_ ids: some Sequence<Int32>) -> String? {
        for id in ids {
            let one = vertices[Int(id)]
            if MemoryLayout<Vertex>.stride != 56 { return "a vertex has \(MemoryLayout<Vertex>.stride) bytes" }
            if one.parent >= 0, one.isEligible != (one.position >= 0) { return "\(id): eligible \(one.isEligible), at \(one.position)" }
            for position in 0..<Int(one.heapCount) {
                let slot = one.heapClass == 0 ? top(of: id) : slots[Int(one.link) + position]
                let child = vertices[Int(slot.child)]
                if child.parent != id || Int(child.position) != position || child.time != slot.key {
                    return "\(slot.child) at \(position) of \(id)"
                }
                if position > 0, slot < slots[Int(one.link) + (position - 1) / 4] {
                    return "heap of \(id) out of order at \(position)"
                }
            }
        }
        return nil
    }
}
