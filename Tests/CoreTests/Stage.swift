// SPDX-License-Identifier: Apache-2.0
import Core
import HeapModule
import Testing

/// The node in virtual time, with workers that take a while to start, to run and to end. Unlike `World`, in which anything happens in any order, everything here happens when it is
/// due: for what the node decides by time.
struct Stage {
    enum Kind {
        case greeted(WorkerID)
        case finished(InvocationID, WorkerID)
        case dies(WorkerID, DeathCause)
        case call(VersionID)
    }
    struct Due: Comparable {
        let at: Instant
        let number: UInt64
        let kind: Kind
        static func < (a: Due, b: Due) -> Bool { (a.at, a.number) < (b.at, b.number) }
        static func == (a: Due, b: Due) -> Bool { a.number == b.number }
    }
    struct Worker {
        var version: VersionID?
        var memory: UInt64
        var isReady = false
        var running: Set<InvocationID> = []
    }

    var node: Node
    var now = Instant(nanoseconds: 1_000_000_000)
    var due = Heap<Due>()
    var number: UInt64 = 0
    /// From the order to start until the worker can serve.
    var startTime: Nanoseconds = .milliseconds(10)
    var runTime: Nanoseconds = .milliseconds(10)
    /// How long a worker lives once it is ready; nil for ever.
    var lifeTime: Nanoseconds?
    var lifeEnd = DeathCause.exited(code: 1)
    /// Whether a worker dies of the call that it gets; asked once a call.
    var isDeadly: (InvocationID) -> Bool = { _ in false }
    var workers: [WorkerID: Worker] = [:]
    var specs: [VersionID: FunctionSpec] = [:]
    /// When each worker was started, in their order.
    var starts: [(at: Instant, version: VersionID?)] = []
    var ended: [WorkerID] = []
    var arrivals: [InvocationID: Instant] = [:]
    var dispatched: [InvocationID: (at: Instant, kind: StartKind)] = [:]
    var verdicts: [InvocationID: Verdict] = [:]
    var violations: [String] = []
    /// The most workers of one version at a time.
    var mostWorkers = 0

    init(_ spec: NodeSpec = NodeSpec(memoryBytes: 64 << 30, spareGroups: 0)) {
        node = Node(spec: spec, firstWorker: 1)
        tell(.spawnerConnected)
    }

    /// A tenant with one function `f`, whose version is returned.
    mutating func add(
        _ tenant: String, memory: UInt64 = 64 << 30, seats: Int = 100, rate: RateSpec? = nil, users: UserSpec? = nil, queue: Int = 1_000,
        edit: (inout FunctionSpec) -> Void = { _ in }
    ) throws -> VersionID {
        let name = try #require(Name(tenant))
        let limits = GroupLimits(memoryBytes: memory, cpuMilli: 1000, processes: 100_000)
        tell(.tenantConfigured(TenantSpec(tenant: name, concurrency: seats, queue: queue, limits: limits, rate: rate, users: users)))
        return try function("f", of: tenant, edit: edit)
    }

    mutating func function(_ function: String, of tenant: String, edit: (inout FunctionSpec) -> Void = { _ in }) throws -> VersionID {
        let id = FunctionID(tenant: try #require(Name(tenant)), function: try #require(Name(function)))
        var spec = FunctionSpec(version: VersionID(function: id, number: 1), runtime: "native", code: "")
        edit(&spec)
        specs[spec.version] = spec
        tell(.versionRegistered(spec))
        return spec.version
    }

    mutating func schedule(_ kind: Kind, after: Nanoseconds) {
        number += 1
        due.insert(Due(at: now + after, number: number, kind: kind))
    }

    @discardableResult
    mutating func call(_ version: VersionID, user: String? = nil, service: ServiceClass = .sync) -> InvocationID {
        number += 1
        let id = InvocationID(milliseconds: 0, random: (0, number))
        arrivals[id] = now
        tell(.arrived(Arrival(id, version, tenantUser: user, service: service)))
        return id
    }

    mutating func tell(_ event: Event) {
        var actions: [Action] = []
        node.handle(event, at: now, into: &actions)
        for action in actions { obey(action) }
        check()
    }

    private mutating func obey(_ action: Action) {
        switch action {
        case .spawn(let order):
            var version: VersionID?
            if case .started(let function) = order.preparation { version = function.version }
            workers[order.worker] = Worker(version: version, memory: order.limits.memoryBytes)
            starts.append((now, version))
            schedule(.greeted(order.worker), after: startTime)
        case .assign(let id, let function):
            workers[id]?.version = function.version
            workers[id]?.memory = function.limits.memoryBytes
            tell(.assigned(id))
        case .initialize(let id, _):
            workers[id]?.isReady = true
            tell(.ready(id))
            if let lifeTime { schedule(.dies(id, lifeEnd), after: lifeTime) }
        case .invoke(let worker, _, let id, _, let kind):
            dispatched[id] = (now, kind)
            workers[worker]?.running.insert(id)
            schedule(isDeadly(id) ? .dies(worker, .exited(code: 7)) : .finished(id, worker), after: runTime)
        case .drain(let id): schedule(.dies(id, .exited(code: 0)), after: 1_000_000)
        case .kill(let id): schedule(.dies(id, .killed), after: 1_000_000)
        case .reply(let id, let verdict):
            if verdicts[id] != nil { violations.append("\(id) answered twice") }
            verdicts[id] = verdict
        case .note(let id, .starting(let worker, _)) where workers[worker]?.version == nil:
            violations.append("\(id) is told of \(worker), which is no function's")
        default: break
        }
    }

    private mutating func check() {
        if workers.values.reduce(0, { $0 + $1.memory }) > node.spec.memoryBytes { violations.append("the node holds more than its memory") }
        for (version, spec) in specs {
            let own = workers.values.filter { $0.version == version }
            mostWorkers = max(mostWorkers, own.count)
            if own.count > spec.maximumWorkers { violations.append("\(version) has \(own.count) workers") }
            if own.reduce(0, { $0 + $1.running.count }) > spec.concurrency { violations.append("\(version) runs too much") }
        }
        for name in Set(specs.keys.map(\.function.tenant)) {
            let memory = workers.values.filter { $0.version?.function.tenant == name }.reduce(0) { $0 + $1.memory }
            if let limit = node.tenantView(name)?.spec.limits.memoryBytes, memory > limit { violations.append("\(name) holds \(memory)") }
        }
    }

    /// Lets time pass, as far as something is due.
    mutating func run(_ length: Nanoseconds) {
        let end = now + length
        while true {
            let next = due.min?.at ?? Instant(nanoseconds: .max)
            let timer = node.nextDeadline ?? Instant(nanoseconds: .max)
            guard min(next, timer) <= end else { break }
            now = max(now, min(next, timer))
            if timer <= now { tell(.timePassed) }
            if next <= now, let one = due.popMin() { happen(one.kind) }
        }
        now = end
    }

    private mutating func happen(_ kind: Kind) {
        switch kind {
        case .greeted(let id):
            guard workers[id] != nil else { return }
            tell(.spawned(id))
            tell(.greeted(id))
        case .finished(let id, let worker):
            guard workers[worker]?.running.remove(id) != nil else { return }
            tell(.finished(id, worker, .ok))
        case .dies(let id, let cause):
            guard workers.removeValue(forKey: id) != nil else { return }
            ended.append(id)
            tell(.exited(id, cause))
        case .call(let version): call(version)
        }
    }

    func live(_ version: VersionID) -> [WorkerID] { workers.filter { $0.value.version == version }.keys.sorted() }

    func refusal(_ id: InvocationID) -> Refusal? { if case .refused(let refusal)? = verdicts[id] { refusal } else { nil } }
}
