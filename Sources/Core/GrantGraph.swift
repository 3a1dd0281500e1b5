// SPDX-License-Identifier: Apache-2.0

/// Objects of one bucket, by the ends of their keys.
public struct ObjectPattern: Hashable, Sendable {
    public let bucket: Name
    public let prefix: String
    public let suffix: String
    public init(bucket: Name, prefix: String = "", suffix: String = "") {
        self.bucket = bucket
        self.prefix = prefix
        self.suffix = suffix
    }

    /// Whether some key fits both: exactly when of the two prefixes one begins the other and of the two suffixes one ends the other. Compared as bytes, as keys are.
    public func meets(_ other: ObjectPattern) -> Bool {
        let (a, b) = (Array(prefix.utf8), Array(other.prefix.utf8))
        let (c, d) = (Array(suffix.utf8), Array(other.suffix.utf8))
        return bucket == other.bucket && (a.starts(with: b) || b.starts(with: a))
            && (c.reversed().starts(with: d.reversed()) || d.reversed().starts(with: c.reversed()))
    }
}

/// What a function may cause: a grant, a destination, or free egress.
public enum GrantedWrite: Hashable, Sendable {
    /// Buckets and queues are a tenant's; a grant may be given across tenants.
    case objects(owner: Name, ObjectPattern)
    case queue(owner: Name, Name)
    /// Calls it, sync or async, or sends it outcomes as a destination.
    case function(FunctionID)
    /// May open connections to anywhere, also to this node's own HTTP routes.
    case egress
}

/// What starts a function.
public enum TriggerSource: Hashable, Sendable {
    case objects(owner: Name, ObjectPattern)
    case queue(owner: Name, Name)
    /// Direct calls, emits and destinations.
    case invocation
    /// Ends of another function's invocations.
    case outcome(of: FunctionID)
    case http
    /// Nothing that a function does can make it fire.
    case cron
}

/// The deployed graph, trigger -> function -> what it is granted to write -> the triggers on that: which edges can take part in a loop at all.
///
/// A judgement before anything runs, so that what cannot loop costs nothing and what obviously would is refused. The graph says what is possible, not what is done: only grants
/// count, never the code.
public struct GrantGraph: Sendable {
    public struct Function: Hashable, Sendable {
        public var id: FunctionID
        public var triggers: [Name: TriggerSource]
        public var writes: Set<GrantedWrite>
        /// The manifest states `recursion`.
        public var declaresRecursion: Bool
        public init(
            id: FunctionID, triggers: [Name: TriggerSource] = [:], writes: Set<GrantedWrite> = [], declaresRecursion: Bool = false
        ) {
            self.id = id
            self.triggers = triggers
            self.writes = writes
            self.declaresRecursion = declaresRecursion
        }
    }

    private let functions: [Function]
    /// By trigger of each function: the functions that can make it fire.
    private var causes: [EdgeID: [Int]] = [:]
    /// Of those, the ones that have a grant for it and need nobody outside.
    private var granted: [EdgeID: [Int]] = [:]
    private var next: [[Int]]
    /// Which strongly connected component a function is in.
    private var component: [Int] = []
    private let places: [FunctionID: Int]

    public init(_ functions: [Function]) {
        self.functions = functions.sorted { $0.id < $1.id }
        next = Array(repeating: [], count: functions.count)
        places = Dictionary(self.functions.enumerated().map { ($1.id, $0) }) { first, _ in first }
        let sources = Sources(self.functions)
        for (place, function) in self.functions.enumerated() {
            for (trigger, source) in function.triggers {
                let edge = EdgeID(trigger: trigger, function: function.id)
                granted[edge] = sources.granted(source, function.id)
                let found = sources.causes(of: source, function.id)
                causes[edge] = found
                for cause in found { next[cause].append(place) }
            }
        }
        component = Components(next).of
    }

    /// Whether something that the function does can come back to it through this trigger. True for what the graph does not know.
    public func isOnCycle(_ edge: EdgeID) -> Bool {
        guard let found = causes[edge], let place = places[edge.function] else { return true }
        return found.contains { component[$0] == component[place] }
    }

    /// The functions whose grants let them make it fire, sorted; not those that could only ask as anybody outside may.
    public func grantees(of edge: EdgeID) -> [FunctionID] { Set(granted[edge] ?? []).sorted().map { functions[$0].id } }

    /// All edges that can take part in a loop.
    public var edgesOnCycles: Set<EdgeID> { Set(causes.keys.filter(isOnCycle)) }

    /// A shortest way from the function back to itself through this trigger, the function first; nil where there is none. For drawing.
    public func cycle(through edge: EdgeID) -> [FunctionID]? {
        guard let found = causes[edge], let start = places[edge.function] else { return nil }
        var before: [Int: Int] = [start: start]
        var front = [start]
        while let place = front.first {
            front.removeFirst()
            if found.contains(place) {
                var way = [place]
                while let last = way.last, last != start, let previous = before[last] { way.append(previous) }
                return way.reversed().map { functions[$0].id }
            }
            for one in next[place] where before[one] == nil {
                before[one] = place
                front.append(one)
            }
        }
        return nil
    }

    /// Why a deploy is refused: sentences for the person who deploys, empty where nothing is wrong. Only what a function grants itself is refused; a cycle through others is
    /// theirs too and is left to the loop governor.
    public func refusals(of id: FunctionID) -> [String] {
        guard let place = places[id], !functions[place].declaresRecursion else { return [] }
        let function = functions[place]
        return function.triggers.keys.sorted().compactMap { trigger in
            guard let source = function.triggers[trigger], source != .http,
                let write = Sources.direct(function.writes, source, id)
            else { return nil }
            return "\(id) would trigger itself: it may \(write) and its trigger \(trigger) starts it for that; "
                + "write elsewhere, narrow the trigger, or state `recursion: {maxDepth, maxDescendants, minInterval}` in the manifest"
        }
    }
}

/// Who can make which trigger fire.
private struct Sources {
    let functions: [GrantGraph.Function]
    var byQueue: [[Name]: [Int]] = [:]
    var byFunction: [FunctionID: [Int]] = [:]
    var objects: [[Name]: [(place: Int, pattern: ObjectPattern)]] = [:]
    var egress: [Int] = []
    var places: [FunctionID: Int] = [:]

    init(_ functions: [GrantGraph.Function]) {
        self.functions = functions
        for (place, function) in functions.enumerated() {
            places[function.id] = place
            for write in function.writes {
                switch write {
                case .objects(let owner, let pattern): objects[[owner, pattern.bucket], default: []].append((place, pattern))
                case .queue(let owner, let name): byQueue[[owner, name], default: []].append(place)
                case .function(let id): byFunction[id, default: []].append(place)
                case .egress: egress.append(place)
                }
            }
        }
    }

    func causes(of source: TriggerSource, _ function: FunctionID) -> [Int] {
        switch source {
        // Anybody who may open connections can ask for a route and push to a queue's endpoint.
        case .http, .queue: granted(source, function) + egress
        default: granted(source, function)
        }
    }

    func granted(_ source: TriggerSource, _ function: FunctionID) -> [Int] {
        switch source {
        case .objects(let owner, let pattern):
            objects[[owner, pattern.bucket], default: []].filter { $0.pattern.meets(pattern) }.map(\.place)
        // An emit goes to the functions that the emitter may call.
        case .queue(let owner, let name): (byQueue[[owner, name]] ?? []) + (byFunction[function] ?? [])
        case .invocation: byFunction[function] ?? []
        case .outcome(let other): places[other].map { [$0] } ?? []
        case .http, .cron: []
        }
    }

    /// How the function itself makes its own trigger fire, in words; nil where it does not.
    static func direct(_ writes: Set<GrantedWrite>, _ source: TriggerSource, _ id: FunctionID) -> String? {
        switch source {
        case .objects(let owner, let pattern):
            let met = writes.compactMap { write -> ObjectPattern? in
                guard case .objects(owner, let other) = write, other.meets(pattern) else { return nil }
                return other
            }
            let first = met.min { ($0.prefix, $0.suffix) < ($1.prefix, $1.suffix) }
            return first.map { "write \(owner)/\($0.bucket)/\($0.prefix)*\($0.suffix)" }
        case .queue(let owner, let name): return writes.contains(.queue(owner: owner, name)) ? "push to the queue \(owner)/\(name)" : nil
        case .invocation: return writes.contains(.function(id)) ? "invoke itself" : nil
        case .outcome(let other): return other == id ? "end" : nil
        case .http, .cron: return nil
        }
    }
}

/// Strongly connected components, after Tarjan (1972), without recursion: the graph is the users'.
private struct Components {
    private(set) var of: [Int]
    private var order: [Int]
    private var low: [Int]
    private var stack: [Int] = []
    private var reached = 0
    private var found = 0

    init(_ next: [[Int]]) {
        of = Array(repeating: -1, count: next.count)
        order = of
        low = of
        for start in next.indices where order[start] < 0 { visit(start, next) }
    }

    private mutating func visit(_ start: Int, _ next: [[Int]]) {
        var way: [(vertex: Int, branch: Int)] = [(start, 0)]
        enter(start)
        while let (vertex, branch) = way.last {
            if branch < next[vertex].count {
                way[way.count - 1].branch += 1
                let child = next[vertex][branch]
                if order[child] < 0 {
                    enter(child)
                    way.append((child, 0))
                } else if of[child] < 0 {
                    low[vertex] = min(low[vertex], order[child])
                }
                continue
            }
            way.removeLast()
            if let parent = way.last?.vertex { low[parent] = min(low[parent], low[vertex]) }
            if low[vertex] == order[vertex] { close(vertex) }
        }
    }

    private mutating func enter(_ vertex: Int) {
        order[vertex] = reached
        low[vertex] = reached
        reached += 1
        stack.append(vertex)
    }

    private mutating func close(_ vertex: Int) {
        while let member = stack.popLast() {
            of[member] = found
            if member == vertex { break }
        }
        found += 1
    }
}
