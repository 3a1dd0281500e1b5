// SPDX-License-Identifier: Apache-2.0
import DequeModule

/// One step of an event's way, for a person who looks at a loop.
public struct LoopStep: Hashable, Codable, Sendable {
    /// What the event told of, like `photos/in/a.jpg`, shortened in its middle; nil where it told of no object.
    public let object: String?
    /// Whom it started; nil for one or more functions of other tenants, of which nothing is said.
    public let function: Name?
    public init(object: String?, function: Name?) {
        (self.object, self.function) = (object, function)
    }

    /// Names a person can copy: the object, then the function.
    public var words: [String] { [object, function?.text ?? "(another tenant)"].compactMap { $0 } }
}

/// Where the latest events went, so that a loop is shown with the objects and functions that it goes through.
///
/// A lineage counts visits and knows no names. This remembers beside it, of a bounded number of admissions, what each was about and which one it followed from; the words are the
/// supervisor's own, of the object's event and of the edge. It is lost with the process; what it said of a path that tripped is kept with the edge.
///
/// Events of one run that nothing tells apart (same functions, same counts, same budgets) share a place, and the last of them stands for all.
public struct LoopTrail: Sendable {
    /// Steps of a way, the last ones.
    public static let longestWay = 8
    /// Bytes of an object's name in it.
    public static let longestObject = 128
    /// Admissions of a tenant that are remembered; fewer where so many tenants are active that all of them together would be more than ``most``. One that comes when all places
    /// are taken waits for the next round of ``forget(at:)``, which gives everybody the same share.
    static let mostOfTenant = 512
    static let most = 32_768
    /// A loop that is slower than this in one round is none: see ``LoopLimits``.
    static let lifetime: Nanoseconds = .seconds(900)

    private struct Entry {
        var object: String?
        var function: FunctionID
        /// The admission that it followed from; 0 where nobody knows.
        var before: UInt64
    }
    private struct Owned {
        /// The oldest first.
        var marks: Deque<UInt64> = []
        var latest: Instant
    }
    private var entries: [UInt64: Entry] = [:]
    private var owned: [Name: Owned] = [:]
    /// When tenants are looked through for what is old.
    private var nextLook = Instant(nanoseconds: 0)

    public init() {}

    /// So many are remembered.
    public var count: Int { entries.count }

    /// An event was admitted.
    /// - Parameters:
    ///   - cause: the lineage of the invocation that made it.
    ///   - lineage: its own, as admission gave it.
    public mutating func note(_ cause: Lineage?, _ lineage: Lineage, _ object: String?, _ function: FunctionID, at now: Instant) {
        let mark = Self.mark(lineage)
        let entry = Entry(object: object.map(Self.shortened), function: function, before: cause.map(Self.mark) ?? 0)
        guard entries.count < Self.most || owned[function.tenant] != nil else { return }
        let isNew = entries.updateValue(entry, forKey: mark) == nil
        owned[function.tenant, default: Owned(latest: now)].latest = now
        guard isNew else { return }
        owned[function.tenant]?.marks.append(mark)
        trim(function.tenant)
    }

    /// The last steps to an event that follows from `cause` and is about to start `function`, the oldest first: at least that one. Of other tenants' steps it says only that there are some.
    public func way(_ cause: Lineage, _ object: String?, _ function: FunctionID) -> [LoopStep] {
        var steps = [LoopStep(object: object.map(Self.shortened), function: function.function)]
        var mark = Self.mark(cause)
        // Bounded also where foreign steps, which are told as one, follow each other without end.
        for _ in 0..<4 * Self.longestWay {
            guard steps.count < Self.longestWay, let entry = entries[mark] else { break }
            mark = entry.before
            if entry.function.tenant == function.tenant {
                steps.append(LoopStep(object: entry.object, function: entry.function.function))
            } else if steps.last?.function != nil {
                steps.append(LoopStep(object: nil, function: nil))
            }
        }
        // A way that begins with nobody's step says nothing by it.
        if steps.last?.function == nil { steps.removeLast() }
        return steps.reversed()
    }

    /// Forgets what is old and what is too much; called once a second.
    public mutating func forget(at now: Instant) {
        if now >= nextLook {
            nextLook = now + Self.lifetime / 15
            for (tenant, one) in owned where now - one.latest >= Self.lifetime {
                for mark in one.marks { entries[mark] = nil }
                owned[tenant] = nil
            }
        }
        // As many places are left free as newcomers need to be known by then.
        guard entries.count >= Self.most, owned.count < Self.most / 2 else { return }
        for tenant in Array(owned.keys) { trim(tenant) }
    }

    /// No tenant pushes out what is remembered of another.
    private mutating func trim(_ tenant: Name) {
        let share = max(1, min(Self.mostOfTenant, Self.most / (owned.count + 1)))
        while let one = owned[tenant], one.marks.count > share {
            if let oldest = owned[tenant]?.marks.popFirst() { entries[oldest] = nil }
        }
    }

    /// Of all that tells one admission from another and that its run's events have, too, wherever they come in again.
    private static func mark(_ lineage: Lineage) -> UInt64 {
        var mark = FunctionKey.mix(lineage.root.high ^ FunctionKey.mix(lineage.root.low))
        func add(_ value: UInt64) { mark = FunctionKey.mix(mark ^ value) }
        add(UInt64(lineage.hops))
        add(lineage.hopBucket.fullAt.nanoseconds)
        for visit in lineage.path {
            add(visit.function.bits)
            add(UInt64(visit.count))
            add(visit.bucket.fullAt.nanoseconds)
        }
        // 0 is nobody's.
        return max(1, mark)
    }

    /// Both ends of a long name: what a loop adds to a key is at one of them.
    static func shortened(_ text: String) -> String {
        guard text.utf8.count > longestObject else { return text }
        let mark = "\u{2026}"
        let head = fitting(text.unicodeScalars, longestObject / 3)
        let tail = fitting(text.unicodeScalars.reversed(), longestObject - longestObject / 3 - mark.utf8.count)
        return String(String.UnicodeScalarView(head)) + mark + String(String.UnicodeScalarView(tail.reversed()))
    }

    private static func fitting(_ scalars: some Sequence<Unicode.Scalar>, _ most: Int) -> [Unicode.Scalar] {
        var left = most
        return scalars.prefix {
            left -= UTF8.width($0)
            return left >= 0
        }
    }
}
