// SPDX-License-Identifier: Apache-2.0

/// A function on a path: 24 bits of its tenant's name and 40 of its own, hashed.
///
/// Two functions that share a key look like one to the loop governor. It does no harm beyond the paths on which both stand, and there (10^2 functions of one
/// tenant in one cycle) the odds are 5 in 10^9.
public struct FunctionKey: Hashable, Sendable {
    public let bits: UInt64
    public init(bits: UInt64) { self.bits = bits }
    public init(_ function: FunctionID) {
        let tenant = Self.hash(function.tenant.text, 0xcbf2_9ce4_8422_2325)
        bits = Self.mix(tenant) << 40 | Self.mix(Self.hash(function.function.text, tenant ^ 0x2f)) >> 24
    }
    /// Equal for all functions of a tenant.
    var tenant: UInt64 { bits >> 40 }

    /// What tells a root's budgets with different tenants apart.
    static func mask(_ tenant: Name) -> UInt64 { mix(hash(tenant.text, 0xcbf2_9ce4_8422_2325)) }

    private static func hash(_ text: String, _ start: UInt64) -> UInt64 { text.utf8.reduce(start) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 } }
    /// The finalizer of SplitMix64: FNV alone leaves its high bits weak.
    static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// Where an event comes from: the root of its causal tree, how many hops away that is, and how often each function was entered on the way.
///
/// The supervisor keeps it, beside the event, and attaches it from what it knows of the worker; user code neither sees nor says it. An event carries the lineage of the invocation that
/// made it; admission to a function turns that into the invocation's own, with this visit counted. Siblings have copies of their own: what belongs to
/// the root as a whole is in ``LoopGovernor``.
///
/// The counts are never too low. They are exact on a path through at most ``pathCapacity`` different functions; beyond, the function with the fewest visits
/// is forgotten and whatever is not in the table counts as visited so often (the space-saving rule of Metwally, Agrawal and El Abbadi, ICDT 2005).
public struct Lineage: Hashable, Sendable {
    /// Different functions that are told apart on one path. With 8, as first planned, the ninth stage of a wide straight pipeline would look like a recurrence.
    public static let pathCapacity = 32

    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// Guessed from place and time (an object event beside a recent write): parks nothing, only arms the test without lineage.
        public static let inferred = Flags(rawValue: 1)
        /// Came in from outside, with a valid signature.
        public static let external = Flags(rawValue: 2)
        /// The last hop was a recurrence that its function's manifest declares.
        public static let declared = Flags(rawValue: 4)
        /// The last hop entered a function that was on the path already.
        public static let recurrent = Flags(rawValue: 8)
        static let all: Flags = [.inferred, .external, .declared, .recurrent]
    }

    /// One function on the path.
    public struct Visit: Hashable, Sendable {
        public let function: FunctionKey
        /// How often it was entered, at least 1.
        public internal(set) var count: UInt32
        /// How many of those hold a seat and wait for this invocation, itself included: those after the last asynchronous hop.
        public internal(set) var waiting: UInt32
        /// Re-entries left.
        public internal(set) var bucket: TokenBucket
        /// The last entry, where the function declares a shortest interval; else the lineage's birth.
        public internal(set) var enteredAt: Instant

        func merged(with other: Visit) -> Visit {
            Visit(
                function: function, count: max(count, other.count), waiting: max(waiting, other.waiting),
                bucket: bucket.emptier(other.bucket), enteredAt: max(enteredAt, other.enteredAt))
        }

        /// Which one a table that is too small keeps: one whose seat is held (forgetting it could hide a deadlock), then the one with more visits.
        func isKept(before other: Visit) -> Bool {
            (waiting > 0 ? 1 : 0, count, other.function.bits) > (other.waiting > 0 ? 1 : 0, other.count, function.bits)
        }
    }

    /// The first invocation or event of the tree.
    public let root: InvocationID
    /// In ``SteadyTime``, as every time here.
    public let born: Instant
    public internal(set) var hops: UInt32 = 0
    public internal(set) var hopBucket: TokenBucket
    public internal(set) var path: [Visit] = []
    /// How often a function that is not in ``path`` may have been entered.
    public internal(set) var floor: UInt32 = 0
    public internal(set) var flags: Flags

    /// The beginning of a tree: nothing was entered yet.
    public init(root: InvocationID, born: Instant, flags: Flags = []) {
        self.root = root
        self.born = born
        self.flags = flags
        hopBucket = TokenBucket(fullAt: born)
    }

    /// For an event that is admitted anew on a person's word (replay, redrive): what it did before is forgiven, under a root of its own.
    public func renewed(root: InvocationID, at now: Instant) -> Lineage { Lineage(root: root, born: now) }

    /// As it goes on where it came in from outside under a valid signature: nobody holds a seat and waits for what is out there.
    public var returned: Lineage {
        var lineage = self
        lineage.flags.insert(.external)
        for index in lineage.path.indices { lineage.path[index].waiting = 0 }
        return lineage
    }

    /// As it goes on with another tenant: its visits count on, so that a loop through both is known for one; what it has used up does not. A root has a budget of its own with each tenant, the
    /// same again whenever it comes back, and hops and what the path has forgotten begin anew: nobody can come with an empty budget and have another's events held back for it.
    public func crossing(from sender: Name, to receiver: Name) -> Lineage {
        let low = root.low ^ FunctionKey.mask(sender) ^ FunctionKey.mask(receiver)
        var lineage = Lineage(
            root: InvocationID(milliseconds: root.high >> 16, random: (UInt16(truncatingIfNeeded: root.high), low)), born: born)
        lineage.flags = flags.subtracting([.recurrent, .declared])
        lineage.hops = hops
        // Half of the table, so that who comes with a full one does not make each function there look like one that was forgotten: the receiver's own, then those with more visits.
        let own = FunctionKey(FunctionID(tenant: receiver, function: .unnamed)).tenant
        let sorted = path.sorted {
            ($0.function.tenant == own) == ($1.function.tenant == own) ? $0.isKept(before: $1) : $0.function.tenant == own
        }
        lineage.path = Array(sorted.prefix(Self.pathCapacity / 2))
        return lineage
    }

    func index(of function: FunctionKey) -> Int? { path.firstIndex { $0.function == function } }

    /// How often the function was entered, never too low.
    public func visits(of function: FunctionKey) -> UInt32 { index(of: function).map { path[$0].count } ?? floor }

    /// The lineage of an invocation of `function` that this one's holder causes. Takes no token; that is admission's matter.
    /// - Parameter isSync: the causing invocation keeps its seat and waits.
    public func child(entering function: FunctionKey, isSync: Bool) -> Lineage {
        var child = self
        _ = child.enter(function, isSync: isSync)
        return child
    }

    /// Counts one visit and says where in the path it stands.
    mutating func enter(_ function: FunctionKey, isSync: Bool) -> Int {
        if hops < .max { hops += 1 }
        if !isSync { for index in path.indices { path[index].waiting = 0 } }
        if let index = index(of: function) {
            if path[index].count < .max { path[index].count += 1 }
            if path[index].waiting < .max { path[index].waiting += 1 }
            return index
        }
        let visit = Visit(
            function: function, count: floor < .max ? floor + 1 : floor, waiting: 1, bucket: TokenBucket(fullAt: born), enteredAt: born)
        if path.count < Self.pathCapacity {
            path.append(visit)
            return path.count - 1
        }
        let place = path.indices.max { path[$0].isKept(before: path[$1]) } ?? 0
        floor = max(floor, path[place].count)
        path[place] = visit
        path[place].count = floor < .max ? floor + 1 : floor
        return place
    }

    /// The lineage of an event with several causes, such as a batch: of each count the largest, of each bucket the emptiest, the root of the deepest.
    /// Guessed lineages do not count beside known ones. Nil without parents.
    public static func merged(_ parents: some Sequence<Lineage>) -> Lineage? {
        let all = Array(parents)
        let known = all.filter { !$0.flags.contains(.inferred) }
        let counted = known.isEmpty ? all : known
        guard var result = counted.max(by: { $0.isShallower(than: $1) }) else { return nil }
        if counted.count == 1 { return result }
        var visits: [FunctionKey: Visit] = [:]
        for parent in counted {
            for visit in parent.path { visits[visit.function] = visits[visit.function]?.merged(with: visit) ?? visit }
            result.floor = max(result.floor, parent.floor)
            result.hopBucket = result.hopBucket.emptier(parent.hopBucket)
            result.flags.formUnion(parent.flags)
        }
        result.path = visits.values.sorted { $0.isKept(before: $1) }
        let most = result.floor
        if visits.count > pathCapacity {
            result.floor = max(most, result.path[pathCapacity...].map(\.count).max() ?? 0)
            result.path.removeSubrange(pathCapacity...)
        }
        for index in result.path.indices {
            // A parent that has forgotten the function may have entered it that often.
            result.path[index].count = max(result.path[index].count, most)
            result.path[index].bucket = result.path[index].bucket.emptier(TokenBucket(fullAt: result.born))
            result.path[index].enteredAt = max(result.path[index].enteredAt, result.born)
        }
        return result
    }

    /// Deeper first, then older, then by root, so that the order of a batch does not matter.
    private func isShallower(than other: Lineage) -> Bool {
        (hops, other.born, other.root.high, other.root.low) < (other.hops, born, root.high, root.low)
    }

    /// Seats that this invocation and the ancestors that wait for it hold: of one function, of one tenant, of the node.
    func seatsHeld(of function: FunctionKey) -> (function: Int, tenant: Int, node: Int) {
        var held = (function: 0, tenant: 0, node: 0)
        for visit in path where visit.waiting > 0 {
            held.node += Int(visit.waiting)
            if visit.function.tenant == function.tenant { held.tenant += Int(visit.waiting) }
            if visit.function == function { held.function = Int(visit.waiting) }
        }
        return held
    }
}
