// SPDX-License-Identifier: Apache-2.0

/// The heaps of eligible children: 4-ary, each a block of one shared array, each child knowing its position. A block is as large as the vertex has children, rounded up to a power
/// of two, and is found when a child is added: nothing is allocated while invocations come and go. An only child needs no block: the link is the child.
extension FairQueue {
    /// The child whose turn it is. Only right where one is eligible.
    func top(of parent: Int32) -> Slot {
        let one = vertices[Int(parent)]
        return one.heapClass == 0 ? Slot(key: vertices[Int(one.link)].time, child: one.link) : slots[Int(one.link)]
    }

    mutating func insert(_ slot: Slot, into parent: Int32) {
        let one = vertices[Int(parent)]
        vertices[Int(parent)].heapCount = one.heapCount + 1
        if one.heapClass == 0 {
            vertices[Int(parent)].link = slot.child
            vertices[Int(slot.child)].position = 0
        } else {
            siftUp(slot, Int(one.heapCount), Int(one.link))
        }
    }

    /// The child that stood there still believes it does.
    mutating func remove(_ position: Int32, from parent: Int32) {
        let one = vertices[Int(parent)]
        let (start, count) = (Int(one.link), Int(one.heapCount) - 1)
        vertices[Int(parent)].heapCount = Int32(count)
        if Int(position) < count { move(slots[start + count], to: Int(position), start, count) }
    }

    mutating func rekey(_ position: Int32, _ key: Double, in parent: Int32) {
        let one = vertices[Int(parent)]
        guard one.heapClass > 0 else { return }
        var slot = slots[Int(one.link) + Int(position)]
        guard slot.key != key else { return }
        slot.key = key
        move(slot, to: Int(position), Int(one.link), Int(one.heapCount))
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

    /// Doubles the vertex's block if it gets more children than places.
    mutating func makeRoom(_ vertex: Int32, for children: Int) {
        let size = vertices[Int(vertex)].heapClass
        if children > 1 << size { moveBlock(vertex, toClass: size + 1) }
        vertices[Int(vertex)].children = children
    }

    /// Halves the vertex's block if three quarters of it cannot be used; with the last child the vertex is a leaf again.
    mutating func giveRoomBack(_ vertex: Int32, leaving children: Int) {
        let one = vertices[Int(vertex)]
        if children == 0 {
            if one.heapClass > 0 { freeBlock(one.link, one.heapClass) }
            vertices[Int(vertex)].heapClass = 0
            vertices[Int(vertex)].link = Self.none
        } else if one.heapClass > 2, children << 2 <= 1 << one.heapClass {
            moveBlock(vertex, toClass: one.heapClass - 1)
        }
        vertices[Int(vertex)].children = children
    }

    private mutating func moveBlock(_ vertex: Int32, toClass new: Int) {
        let one = vertices[Int(vertex)]
        if one.heapClass > 0, new > one.heapClass, freeBlocks[new] < 0, Int(one.link) + 1 << one.heapClass == slots.count {
            // The last block grows where it is.
            slots.append(contentsOf: repeatElement(Slot(key: 0, child: Self.none), count: 1 << one.heapClass))
        } else {
            let start = newBlock(new)
            if one.heapClass > 0 {
                for index in 0..<Int(one.heapCount) { slots[Int(start) + index] = slots[Int(one.link) + index] }
                freeBlock(one.link, one.heapClass)
            } else if one.heapCount > 0 {
                slots[Int(start)] = top(of: vertex)
            }
            vertices[Int(vertex)].link = start
        }
        vertices[Int(vertex)].heapClass = new
    }

    private mutating func newBlock(_ size: Int) -> Int32 {
        let free = freeBlocks[size]
        if free >= 0 {
            freeBlocks[size] = slots[Int(free)].child
            return free
        }
        let start = Int32(slots.count)
        slots.append(contentsOf: repeatElement(Slot(key: 0, child: Self.none), count: 1 << size))
        return start
    }

    /// Free blocks of a size are a list through their first slot.
    private mutating func freeBlock(_ start: Int32, _ size: Int) {
        slots[Int(start)].child = freeBlocks[size]
        freeBlocks[size] = start
    }
}
