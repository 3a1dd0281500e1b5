// SPDX-License-Identifier: Apache-2.0

/// The heaps of eligible children: 4-ary, each a block of one shared array, each child knowing its position. A block is as large as the vertex has children, rounded up to a power
/// of two, and is found when a child is added: nothing is allocated while invocations come and go.
extension FairQueue {
    mutating func insert(_ slot: Slot, into parent: Int32) {
        let count = vertices[Int(parent)].heapCount
        vertices[Int(parent)].heapCount = count + 1
        siftUp(slot, Int(count), Int(vertices[Int(parent)].heapStart))
    }

    /// The child that stood there still believes it does.
    mutating func remove(_ position: Int32, from parent: Int32) {
        let start = Int(vertices[Int(parent)].heapStart)
        let count = Int(vertices[Int(parent)].heapCount) - 1
        vertices[Int(parent)].heapCount = Int32(count)
        if Int(position) < count { move(slots[start + count], to: Int(position), start, count) }
    }

    mutating func rekey(_ position: Int32, _ key: Double, in parent: Int32) {
        let start = Int(vertices[Int(parent)].heapStart)
        var slot = slots[start + Int(position)]
        guard slot.key != key else { return }
        slot.key = key
        move(slot, to: Int(position), start, Int(vertices[Int(parent)].heapCount))
    }

    /// Puts a slot at a place that is free, or above or below it, where it belongs.
    private mutating func move(_ slot: Slot, to position: Int, _ start: Int, _ count: Int) {
        if position > 0, slot < slots[start + (position - 1) >> 2] {
            siftUp(slot, position, start)
        } else {
            siftDown(slot, position, start, count)
        }
    }

    private mutating func siftUp(_ slot: Slot, _ position: Int, _ start: Int) {
        var hole = position
        while hole > 0 {
            let above = (hole - 1) >> 2
            let other = slots[start + above]
            guard slot < other else { break }
            slots[start + hole] = other
            vertices[Int(other.child)].position = Int32(truncatingIfNeeded: hole)
            hole = above
        }
        slots[start + hole] = slot
        vertices[Int(slot.child)].position = Int32(truncatingIfNeeded: hole)
    }

    private mutating func siftDown(_ slot: Slot, _ position: Int, _ start: Int, _ count: Int) {
        var hole = position
        while true {
            let first = hole << 2 + 1
            guard first < count else { break }
            var least = first
            var other = slots[start + first]
            var candidate = first + 1
            while candidate < min(first + 4, count) {
                let rival = slots[start + candidate]
                if rival < other {
                    other = rival
                    least = candidate
                }
                candidate += 1
            }
            guard other < slot else { break }
            slots[start + hole] = other
            vertices[Int(other.child)].position = Int32(truncatingIfNeeded: hole)
            hole = least
        }
        slots[start + hole] = slot
        vertices[Int(slot.child)].position = Int32(truncatingIfNeeded: hole)
    }

    // MARK: blocks

    /// Doubles the vertex's block if it has more children than places.
    mutating func makeRoom(_ vertex: Int32) {
        let one = vertices[Int(vertex)]
        if one.heapStart < 0 {
            moveBlock(vertex, toClass: 0)
        } else if Int(one.children) > 1 << Int(one.heapClass) {
            moveBlock(vertex, toClass: one.heapClass + 1)
        }
    }

    /// Halves the vertex's block if three quarters of it cannot be used, and frees it with the last child.
    mutating func giveRoomBack(_ vertex: Int32) {
        let one = vertices[Int(vertex)]
        if one.children == 0 {
            freeBlock(one.heapStart, one.heapClass)
            vertices[Int(vertex)].heapStart = Self.none
        } else if one.heapClass > 2, Int(one.children) << 2 <= 1 << Int(one.heapClass) {
            moveBlock(vertex, toClass: one.heapClass - 1)
        }
    }

    private mutating func moveBlock(_ vertex: Int32, toClass new: UInt8) {
        let one = vertices[Int(vertex)]
        let start = newBlock(new)
        for index in 0..<Int(one.heapCount) { slots[Int(start) + index] = slots[Int(one.heapStart) + index] }
        if one.heapStart >= 0 { freeBlock(one.heapStart, one.heapClass) }
        vertices[Int(vertex)].heapStart = start
        vertices[Int(vertex)].heapClass = new
    }

    private mutating func newBlock(_ size: UInt8) -> Int32 {
        let free = freeBlocks[Int(size)]
        if free >= 0 {
            freeBlocks[Int(size)] = slots[Int(free)].child
            return free
        }
        let start = Int32(slots.count)
        slots.append(contentsOf: repeatElement(Slot(key: 0, child: Self.none), count: 1 << Int(size)))
        return start
    }

    /// Free blocks of a size are a list through their first slot.
    private mutating func freeBlock(_ start: Int32, _ size: UInt8) {
        slots[Int(start)].child = freeBlocks[Int(size)]
        freeBlocks[Int(size)] = start
    }
}
