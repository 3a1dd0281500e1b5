// SPDX-License-Identifier: Apache-2.0

/// The tree: how it is built and changed, and how a change at one vertex reaches its ancestors.
extension FairQueue {
    /// Adds a vertex; below a vertex at which invocations wait none can be added. `weight` is more than 0.
    public mutating func addVertex(under parent: VertexID, cap: Int, weight: Double) -> VertexID {
        let above = vertices[Int(parent.number)]
        precondition(!above.isLeaf || (above.queued == 0 && above.running == 0), "a vertex has either children or invocations")
        let vertex = Vertex(parent: parent.number, cap: cap, weight: weight, time: above.childTime)
        precondition(vertex.weight > 0 && vertex.weight.isFinite, "a weight is more than 0")
        let number: Int32
        if freeVertex >= 0 {
            number = freeVertex
            freeVertex = vertices[Int(number)].parent
            vertices[Int(number)] = vertex
        } else {
            number = Int32(vertices.count)
            vertices.append(vertex)
        }
        makeRoom(parent.number, for: above.children + 1)
        return VertexID(number: number)
    }

    /// False, with nothing changed, where it is the root or has children, a queue or something running.
    @discardableResult
    public mutating func removeVertex(_ vertex: VertexID) -> Bool {
        let one = vertices[Int(vertex.number)]
        guard one.parent >= 0, one.isLeaf, one.queued == 0, one.running == 0 else { return false }
        giveRoomBack(one.parent, leaving: vertices[Int(one.parent)].children - 1)
        vertices[Int(vertex.number)].parent = freeVertex
        vertices[Int(vertex.number)].cap = 0
        freeVertex = vertex.number
        return true
    }

    /// A cap below what is running drains: nothing starts until it fits.
    public mutating func setCap(_ vertex: VertexID, _ cap: Int) {
        vertices[Int(vertex.number)].cap = Int32(clamping: max(0, cap))
        placeUpwards(vertex.number)
    }

    /// Counts for what is charged from now on.
    public mutating func setWeight(_ vertex: VertexID, _ weight: Double) {
        precondition(Float(weight) > 0 && weight.isFinite, "a weight is more than 0")
        vertices[Int(vertex.number)].weight = Float(weight)
    }

    /// A condition from outside the tree: a function without a free worker, a user at a cap over several functions, a rate that is used up.
    /// A vertex that is not ready gets no seat, and nor does anything below it.
    public mutating func setReady(_ vertex: VertexID, _ isReady: Bool) {
        guard vertices[Int(vertex.number)].isReady != isReady else { return }
        vertices[Int(vertex.number)].isReady = isReady
        placeUpwards(vertex.number)
    }

    // MARK: upwards

    /// Where a child that joins the eligible ones starts at least: at the parent's virtual time, that is, where the last seat was given away, for less would be credit for time in
    /// which it asked for nothing. But not behind the child whose turn it is: the virtual time contains guesses, and a refund may have
    /// shown since that the others have had less than was charged.
    func floor(under parent: Int32) -> Double {
        let one = vertices[Int(parent)]
        return one.heapCount > 0 ? min(one.childTime, top(of: parent).key) : one.childTime
    }

    /// Adds to the counts and the virtual time of a leaf and all its ancestors, and puts each where it then belongs.
    mutating func walk(from leaf: Int32, running: Int32, queued: Int32, time: Double) {
        var vertex = leaf
        while vertex >= 0 {
            let parent = vertices[Int(vertex)].add(running: running, queued: queued, time: time)
            if parent >= 0 { _ = place(vertex, under: parent) }
            vertex = parent
        }
    }

    /// Puts a vertex where it belongs, and its ancestors as far as that changes anything.
    private mutating func placeUpwards(_ vertex: Int32) {
        var vertex = vertex
        while vertices[Int(vertex)].parent >= 0 {
            let parent = vertices[Int(vertex)].parent
            guard place(vertex, under: parent) else { return }
            vertex = parent
        }
    }

    /// Into the heap, out of it, or to another place in it. True where it joined or left.
    private mutating func place(_ vertex: Int32, under parent: Int32) -> Bool {
        let one = vertices[Int(vertex)]
        if one.isEligible {
            guard one.position < 0 else {
                rekey(one.position, one.time, in: parent)
                return false
            }
            let time = max(one.time, floor(under: parent))
            vertices[Int(vertex)].time = time
            insert(Slot(key: time, child: vertex), into: parent)
            return true
        }
        guard one.position >= 0 else { return false }
        remove(one.position, from: parent)
        vertices[Int(vertex)].position = Self.none
        return true
    }

    // MARK: entries

    /// The rest of a start: the entry is out of the queue, the path has been lifted.
    mutating func seat(_ number: Int32, at leaf: Int32, queued: Int32) -> Start {
        let charged = guess(VertexID(number: leaf))
        entries[Int(number)].charged = charged
        walk(from: leaf, running: 1, queued: queued, time: Double(charged))
        let entry = entries[Int(number)]
        let ticket = Ticket(number: number, generation: entry.generation)
        return Start(invocation: entry.invocation, leaf: VertexID(number: leaf), ticket: ticket, charged: charged)
    }

    func entry(_ ticket: Ticket) -> Entry? {
        let entry = entries[Int(ticket.number)]
        return entry.generation == ticket.generation ? entry : nil
    }

    mutating func newEntry(_ invocation: InvocationID, _ leaf: Int32) -> Int32 {
        guard freeEntry >= 0 else {
            entries.append(Entry(invocation: invocation, leaf: leaf))
            return Int32(entries.count - 1)
        }
        let number = freeEntry
        freeEntry = entries[Int(number)].next
        entries[Int(number)] = Entry(invocation: invocation, leaf: leaf, generation: entries[Int(number)].generation)
        return number
    }

    /// The next generation begins here, so that the ticket is of no effect from now on.
    mutating func free(_ number: Int32) {
        entries[Int(number)].generation &+= 1
        entries[Int(number)].next = freeEntry
        freeEntry = number
    }

    mutating func unlink(_ number: Int32, _ leaf: Int32) {
        let entry = entries[Int(number)]
        if entry.next == number {
            vertices[Int(leaf)].link = Self.none
        } else {
            entries[Int(entry.previous)].next = entry.next
            entries[Int(entry.next)].previous = entry.previous
            if vertices[Int(leaf)].link == number { vertices[Int(leaf)].link = entry.previous }
        }
    }
}

extension FairQueue.Vertex {
    /// Returns the parent.
    fileprivate mutating func add(running: Int32, queued: Int32, time: Double) -> Int32 {
        self.running += running
        self.queued += queued
        self.time += time / Double(weight)
        return parent
    }
}
