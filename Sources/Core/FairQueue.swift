// SPDX-License-Identifier: Apache-2.0

/// Who runs next: exact hierarchical virtual time over seats.
///
/// A tree of vertices (node, class, tenant, function, user or trigger; any depth). Invocations wait at leaves. Every vertex has a cap of seats and a weight; a running
/// invocation holds one seat at its leaf and at every ancestor, and its seat time, divided by the weight, is charged to their virtual times. The seat goes down
/// the tree to the eligible child with the smallest virtual time, so that siblings which all have work get seat time in proportion to their weights, and what one does not
/// use the others borrow.
///
/// The run time is not known beforehand: a guess is charged at the start, more when the run outlasts it, and the end settles the difference. Virtual time is
/// remembered while a vertex has nothing to do and is lifted when it joins again (see ``floor(under:)``): neither draining and coming back nor being
/// at a cap for an hour earns anything.
///
/// Holds after every step: `running <= cap` at every vertex unless the cap was lowered below it, then nothing starts until it fits; a parent runs
/// what its children run; a vertex is in its parent's heap exactly while it is eligible. Each step costs O(depth * log n), scans nothing, looks up nothing, and allocates only
/// where a queue outgrows its largest size so far.
public struct FairQueue: Sendable {
    /// A vertex of one queue. Numbers of removed vertices are used again: who removes a vertex forgets its id.
    public struct VertexID: Hashable, Sendable {
        let number: Int32
    }

    /// One invocation, from the moment it waits or starts until it has left or finished; of no effect after that.
    public struct Ticket: Hashable, Sendable {
        let number: Int32
        let generation: UInt32
    }

    /// An invocation that has been given a seat.
    public struct Start: Hashable, Sendable {
        public let invocation: InvocationID
        public let leaf: VertexID
        public let ticket: Ticket
        /// What was charged; when it has run so long, ``overrun(_:by:)`` is due.
        public let charged: Nanoseconds
    }

    struct Vertex {
        /// Service received over weight, in ns; the order among siblings.
        var time: Double = 0
        /// Virtual time among the children: the largest `time` at which one of them was given a seat. Never falls.
        var childTime: Double = 0
        var weight: Float
        /// Smoothed run time of the leaves' invocations, in ns; kept at the parent of the leaf.
        var guess: Float = 100_000_000
        var parent: Int32
        /// Where it stands in the parent's heap; `none` while it is not eligible.
        var position = none
        /// Of a leaf the newest waiting entry (a ring, so that its `next` is the oldest) or `none`; else where the heap of eligible children is.
        var link = none
        var heapCount: Int32 = 0
        var running: Int32 = 0
        var cap: Int32
        /// Waiting at this vertex or below, eligible or not.
        var queued: Int32 = 0
        /// Whether it is ready (1 bit), the size of the heap (5 bits) and the number of children (26 bits), together so that a vertex has 56 bytes.
        private var shape: UInt32 = 1

        init(parent: Int32, cap: Int, weight: Double, time: Double = 0) {
            self.parent = parent
            self.cap = Int32(clamping: max(0, cap))
            self.weight = Float(weight)
            self.time = time
        }

        var isReady: Bool {
            get { shape & 1 != 0 }
            set { shape = shape & ~1 | (newValue ? 1 : 0) }
        }
        /// The heap has room for `1 << heapClass` children.
        var heapClass: Int {
            get { Int(shape >> 1 & 31) }
            set { shape = shape & ~62 | UInt32(newValue) << 1 }
        }
        var children: Int {
            get { Int(shape >> 6) }
            set { shape = shape & 63 | UInt32(newValue) << 6 }
        }
        var isLeaf: Bool { shape < 64 }
        var isEligible: Bool { isReady && running < cap && (isLeaf ? link >= 0 : heapCount > 0) }
    }

    /// A waiting or running invocation, or a free place.
    struct Entry {
        var invocation: InvocationID
        /// 0 while it waits.
        var charged: Nanoseconds = 0
        var leaf: Int32
        var next: Int32 = none
        var previous: Int32 = none
        var generation: UInt32 = 0
    }

    /// One place in a heap. The key is kept beside the child, so that a comparison does not fetch the child.
    struct Slot {
        var key: Double
        var child: Int32
        static func < (a: Slot, b: Slot) -> Bool { a.key < b.key || (a.key == b.key && a.child < b.child) }
    }

    static let none: Int32 = -1
    /// What one start may be charged, whatever was learnt.
    public static let guesses: ClosedRange<Nanoseconds> = .milliseconds(1)...(.seconds(10))

    var vertices: [Vertex] = []
    var freeVertex = none
    var entries: [Entry] = []
    var freeEntry = none
    var slots: [Slot] = []
    var freeBlocks = [Int32](repeating: none, count: 32)

    /// A queue for so many seats, with room for so many vertices and invocations before it has to grow.
    public init(seats: Int, vertices expected: Int = 0, invocations: Int = 0) {
        vertices.reserveCapacity(expected + 1)
        slots.reserveCapacity(expected)
        entries.reserveCapacity(invocations)
        vertices.append(Vertex(parent: Self.none, cap: seats, weight: 1))
    }

    /// The node; its cap is the number of seats.
    public var root: VertexID { VertexID(number: 0) }

    // MARK: an invocation's way

    /// Lets an invocation wait at a leaf (a vertex without children, not the root).
    public mutating func enqueue(_ invocation: InvocationID, at leaf: VertexID) -> Ticket {
        precondition(leaf != root && vertices[Int(leaf.number)].isLeaf, "invocations wait at leaves")
        let number = newEntry(invocation, leaf.number)
        let newest = vertices[Int(leaf.number)].link
        if newest >= 0 {
            let oldest = entries[Int(newest)].next
            entries[Int(number)].next = oldest
            entries[Int(number)].previous = newest
            entries[Int(newest)].next = number
            entries[Int(oldest)].previous = number
        } else {
            entries[Int(number)].next = number
            entries[Int(number)].previous = number
        }
        vertices[Int(leaf.number)].link = number
        walk(from: leaf.number, running: 0, queued: 1, time: 0)
        return Ticket(number: number, generation: entries[Int(number)].generation)
    }

    /// Takes a waiting invocation out of its queue, because its caller left or it has waited too long. False where it does not wait (any more).
    @discardableResult
    public mutating func leave(_ ticket: Ticket) -> Bool {
        guard let entry = entry(ticket), entry.charged == 0 else { return false }
        unlink(ticket.number, entry.leaf)
        free(ticket.number)
        walk(from: entry.leaf, running: 0, queued: -1, time: 0)
        return true
    }

    /// The leaf that is to be served next and what waits there longest; nil while no seat is free or nobody can use one.
    public func next() -> (leaf: VertexID, invocation: InvocationID)? {
        guard vertices[0].isEligible else { return nil }
        var vertex: Int32 = 0
        while !vertices[Int(vertex)].isLeaf { vertex = top(of: vertex).child }
        let oldest = entries[Int(vertices[Int(vertex)].link)].next
        return (VertexID(number: vertex), entries[Int(oldest)].invocation)
    }

    /// Gives a seat to the leaf of ``next()``. Which of its invocations is taken does not change whose turn it is: the oldest, or in overload the newest, whose caller
    /// is the likeliest to be still there.
    public mutating func dispatch(newestFirst: Bool = false) -> Start? {
        guard vertices[0].isEligible else { return nil }
        var leaf: Int32 = 0
        while !vertices[Int(leaf)].isLeaf {
            let top = top(of: leaf)
            vertices[Int(leaf)].childTime = max(vertices[Int(leaf)].childTime, top.key)
            leaf = top.child
        }
        let newest = vertices[Int(leaf)].link
        let number = newestFirst ? newest : entries[Int(newest)].next
        unlink(number, leaf)
        return seat(number, at: leaf, queued: -1)
    }

    /// Gives a seat without waiting: exactly ``enqueue(_:at:)`` and ``dispatch(newestFirst:)`` where nobody else waits for a seat, at no heap's cost. Nil, with nothing changed,
    /// where somebody does, or where the leaf or an ancestor is not ready or at its cap; then the invocation has to wait.
    public mutating func start(_ invocation: InvocationID, at leaf: VertexID) -> Start? {
        // An eligible vertex anywhere would be the root's next; so all heaps along the path are empty.
        guard leaf != root, vertices[Int(leaf.number)].isLeaf, vertices[0].heapCount == 0 else { return nil }
        var vertex = leaf.number
        while vertex >= 0 {
            let one = vertices[Int(vertex)]
            guard one.isReady, one.running < one.cap else { return nil }
            vertex = one.parent
        }
        vertex = leaf.number
        while vertex > 0 {
            let parent = Int(vertices[Int(vertex)].parent)
            let time = max(vertices[Int(vertex)].time, vertices[parent].childTime)
            vertices[Int(vertex)].time = time
            vertices[parent].childTime = time
            vertex = Int32(parent)
        }
        return seat(newEntry(invocation, leaf.number), at: leaf.number, queued: 0)
    }

    /// Charges more for an invocation that runs longer than it was charged for. False where it does not run.
    @discardableResult
    public mutating func overrun(_ ticket: Ticket, by additional: Nanoseconds) -> Bool {
        guard let entry = entry(ticket), entry.charged > 0 else { return false }
        entries[Int(ticket.number)].charged = entry.charged &+ additional
        walk(from: entry.leaf, running: 0, queued: 0, time: Double(additional))
        return true
    }

    /// Frees the seat, once, and settles what was charged with what it took. False, with nothing changed, where the invocation does not run.
    @discardableResult
    public mutating func finish(_ ticket: Ticket, actual: Nanoseconds) -> Bool {
        guard let entry = entry(ticket), entry.charged > 0 else { return false }
        free(ticket.number)
        let function = Int(vertices[Int(entry.leaf)].parent)
        let sample = Float(min(actual, Self.guesses.upperBound))
        vertices[function].guess += (sample - vertices[function].guess) / 8
        walk(from: entry.leaf, running: -1, queued: 0, time: Double(actual) - Double(entry.charged))
        return true
    }

    // MARK: what can be asked

    public func running(_ vertex: VertexID) -> Int { Int(vertices[Int(vertex.number)].running) }
    /// Waiting at the vertex or below, whether they could start or not.
    public func queued(_ vertex: VertexID) -> Int { Int(vertices[Int(vertex.number)].queued) }
    public func cap(_ vertex: VertexID) -> Int { Int(vertices[Int(vertex.number)].cap) }
    public func weight(_ vertex: VertexID) -> Double { Double(vertices[Int(vertex.number)].weight) }
    public func isReady(_ vertex: VertexID) -> Bool { vertices[Int(vertex.number)].isReady }
    /// Ready, below its cap, and with something below that could start if the ancestors agreed.
    public func isEligible(_ vertex: VertexID) -> Bool { vertices[Int(vertex.number)].isEligible }
    /// How many children could give a start if this vertex and its ancestors agreed.
    public func eligibleChildren(_ vertex: VertexID) -> Int { Int(vertices[Int(vertex.number)].heapCount) }
    /// Seat time over weight, in ns; only comparable among siblings, where the smallest comes first.
    public func virtualTime(_ vertex: VertexID) -> Double { vertices[Int(vertex.number)].time }
    /// The virtual time among the children of a vertex; never falls.
    public func childTime(_ vertex: VertexID) -> Double { vertices[Int(vertex.number)].childTime }
    /// What the next start at this leaf will be charged.
    public func guess(_ leaf: VertexID) -> Nanoseconds {
        let learnt = Nanoseconds(vertices[Int(max(0, vertices[Int(leaf.number)].parent))].guess)
        return min(max(learnt, Self.guesses.lowerBound), Self.guesses.upperBound)
    }
    /// What waits longest at a leaf.
    public func oldest(_ leaf: VertexID) -> InvocationID? {
        let one = vertices[Int(leaf.number)]
        guard one.isLeaf, one.link >= 0 else { return nil }
        return entries[Int(entries[Int(one.link)].next)].invocation
    }
    /// The invocation of a ticket, while it waits or runs.
    public func invocation(_ ticket: Ticket) -> InvocationID? { entry(ticket)?.invocation }
    /// True where removing an idle vertex and adding it again would earn it nothing.
    public func isForgettable(_ vertex: VertexID) -> Bool {
        let one = vertices[Int(vertex.number)]
        guard one.parent >= 0, one.isLeaf, one.queued == 0, one.running == 0 else { return false }
        return one.time <= vertices[Int(one.parent)].childTime
    }
}
