// SPDX-License-Identifier: Apache-2.0
import Core

/// A generator whose run can be repeated from its seed (SplitMix64).
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// The model that judges the node: fake workers, a fake spawner and a fake clock. It obeys the actions, checks each one against what it knows, and makes things happen
/// in an order that the seed decides.
struct World {
    struct Worker {
        var group: GroupID
        var limits: WorkerLimits
        var function: FunctionSpec?
        var isReady = false
        var running: [UInt16: InvocationID] = [:]
        var isKilled = false
        var isDraining = false
    }

    var node: Node
    var now = Instant(nanoseconds: 1_000_000_000)
    var random: Seeded
    var workers: [WorkerID: Worker] = [:]
    var groups: [GroupID: GroupLimits] = [:]
    var verdicts: [InvocationID: Verdict] = [:]
    var arrived: [InvocationID: VersionID] = [:]
    /// Things that will happen, in no particular order.
    var coming: [Event] = []
    var violations: [String] = []
    var tenants: [Name: TenantSpec] = [:]
    var functions: [VersionID: FunctionSpec] = [:]
    var users: [InvocationID: String] = [:]
    /// Invocations that were admitted and not refused later, by tenant: what a budget of invocations counts.
    var ran: [Name: Int] = [:]
    /// Invocations whose start and whose end the ledger was told.
    var charges: Set<InvocationID> = []
    var settled: Set<InvocationID> = []
    var usedWorkers: Set<WorkerID> = []
    var groupOwners: [GroupID: Name] = [:]
    /// Whether caps are lowered and raised and tenants removed and added again in between.
    var reconfigures = false
    var reconfigurations = 0
    /// What a tenant may run while it drains down to a lower cap: what ran then, and less with each that ends.
    private var allowed: [Name: Int] = [:]
    private var first: [Name: TenantSpec] = [:]
    private var removed: Set<Name> = []

    init(seed: UInt64, spec: NodeSpec) {
        node = Node(spec: spec, firstWorker: 1)
        random = Seeded(state: seed)
    }

    mutating func tell(_ event: Event) {
        if case .tenantConfigured(let spec) = event { tenants[spec.tenant] = spec }
        if case .versionRegistered(let spec) = event { functions[spec.version] = spec }
        if case .arrived(let arrival) = event {
            arrived[arrival.id] = arrival.version
            users[arrival.id] = arrival.tenantUser
        }
        if case .exited(let id, _) = event {
            for invocation in workers[id]?.running.values.map({ $0 }) ?? [] where verdicts[invocation] == nil {
                mustAnswer.insert(invocation)
            }
            workers[id] = nil
        }
        var actions: [Action] = []
        node.handle(event, at: now, into: &actions)
        for action in actions { obey(action) }
        for id in mustAnswer where verdicts[id] == nil { violations.append("\(id) was not answered when its worker died") }
        mustAnswer = []
        check()
    }
    private var mustAnswer: Set<InvocationID> = []

    private mutating func obey(_ action: Action) {
        switch action {
        case .setGroup(let group, let limits): groups[group] = limits
        case .removeGroup(let group):
            if workers.values.contains(where: { $0.group == group }) { violations.append("\(group) removed with workers in it") }
            groups[group] = nil
        case .spawn(let order):
            if groups[order.group] == nil { violations.append("\(order.worker) started in unknown \(order.group)") }
            if !usedWorkers.insert(order.worker).inserted { violations.append("\(order.worker) used twice") }
            var worker = Worker(group: order.group, limits: order.limits)
            if case .started(let function) = order.preparation { worker.function = function }
            workers[order.worker] = worker
            own(order.group, worker.function)
            coming.append(.spawned(order.worker))
            if case .sealed = order.preparation { break }
            coming.append(.greeted(order.worker))
        case .assign(let id, let function):
            guard let worker = workers[id], worker.function == nil, !worker.isKilled else {
                return violations.append("\(id) assigned while it is dead or has a function")
            }
            workers[id]?.function = function
            workers[id]?.limits = function.limits
            own(worker.group, function)
            coming.append(.assigned(id))
            coming.append(.greeted(id))
        case .initialize(let id, let function):
            guard workers[id]?.function == function else { return violations.append("\(id) initialized for another function") }
            coming.append(.ready(id))
        case .invoke(let id, let slot, let invocation, _, _):
            guard let worker = workers[id], worker.isReady, !worker.isKilled, !worker.isDraining, worker.running[slot] == nil else {
                return violations.append("\(invocation) sent to \(id), which cannot take it")
            }
            if !charges.contains(invocation) { violations.append("\(invocation) runs before the ledger knows") }
            if verdicts[invocation] != nil { violations.append("\(invocation) runs after its answer") }
            if worker.function?.version != arrived[invocation] { violations.append("\(invocation) runs in a worker of another function") }
            workers[id]?.running[slot] = invocation
        case .cancel: break
        case .drain(let id):
            if workers[id]?.running.isEmpty == false { violations.append("\(id) drained while it runs") }
            workers[id]?.isDraining = true
            coming.append(.exited(id, .exited(code: 0)))
        case .kill(let id):
            if workers[id] != nil, workers[id]?.isKilled == false { coming.append(.exited(id, .killed)) }
            workers[id]?.isKilled = true
        case .reply(let id, let verdict):
            if verdicts[id] != nil { violations.append("\(id) answered twice") }
            verdicts[id] = verdict
        case .note, .budgetMark: break
        case .beginCharge(let id, _, _):
            if !charges.insert(id).inserted { violations.append("\(id) charged twice") }
            if let name = arrived[id]?.function.tenant { ran[name, default: 0] += 1 }
        case .settleCharge(let id, _, _, let charged, _):
            if !charges.contains(id) || !settled.insert(id).inserted { violations.append("\(id) settled without a start, or twice") }
            if charged == 0 { violations.append("\(id) ran for nothing") }
        }
    }

    private mutating func own(_ group: GroupID, _ function: FunctionSpec?) {
        guard let tenant = function?.version.function.tenant else { return }
        if let owner = groupOwners[group], owner != tenant { violations.append("\(group) of \(owner) given to \(tenant)") }
        groupOwners[group] = tenant
    }

    /// The invariants, computed anew from what the world saw, never from what the node says of itself.
    mutating func check() {
        var running: [Name: Int] = [:]
        var runningByFunction: [VersionID: Int] = [:]
        var memory: [Name: UInt64] = [:]
        var processes: [Name: UInt64] = [:]
        var total: UInt64 = 0
        for worker in workers.values {
            total += worker.limits.memoryBytes
            guard let function = worker.function else { continue }
            let tenant = function.version.function.tenant
            running[tenant, default: 0] += worker.running.count
            runningByFunction[function.version, default: 0] += worker.running.count
            memory[tenant, default: 0] += worker.limits.memoryBytes
            processes[tenant, default: 0] += UInt64(worker.limits.processes)
            if worker.running.count > Int(function.instanceConcurrency) { violations.append("a worker runs more than its slots") }
        }
        // A seat is held by exactly what runs in a live worker, so that a death frees each of its seats once; and everybody who asked was answered, runs or waits.
        let held = workers.values.flatMap { $0.running.values }
        if node.totals.running != held.count { violations.append("the node counts \(node.totals.running) seats where \(held.count) run") }
        let waiting = arrived.count - verdicts.count - held.count { verdicts[$0] == nil }
        if node.totals.queued != waiting { violations.append("the node counts \(node.totals.queued) that wait where \(waiting) do") }
        for (name, tenant) in tenants {
            let count = running[name, default: 0]
            if count > max(tenant.concurrency, allowed[name, default: 0]) {
                violations.append("\(name) runs \(count) of \(tenant.concurrency)")
            }
            if let before = allowed[name] { allowed[name] = count > tenant.concurrency ? min(before, count) : nil }
            if memory[name, default: 0] > tenant.limits.memoryBytes { violations.append("\(name) holds more memory than its ceiling") }
            if processes[name, default: 0] > UInt64(tenant.limits.processes) {
                violations.append("\(name) holds more processes than its ceiling")
            }
        }
        for (name, tenant) in tenants {
            if let limit = tenant.budget.invocations?.limit, ran[name, default: 0] > limit {
                violations.append("\(name) ran \(ran[name, default: 0]) of a budget of \(limit)")
            }
            guard let cap = tenant.users?.concurrency else { continue }
            var byUser: [String: Int] = [:]
            for worker in workers.values where worker.function?.version.function.tenant == name {
                for id in worker.running.values { byUser[users[id] ?? "", default: 0] += 1 }
            }
            for (user, count) in byUser where count > cap { violations.append("\(user) of \(name) runs \(count) of \(cap)") }
        }
        for (version, count) in runningByFunction where count > functions[version]?.concurrency ?? 0 {
            violations.append("\(version) runs \(count) of \(functions[version]?.concurrency ?? 0)")
        }
        if total > node.spec.memoryBytes { violations.append("the node holds \(total) of \(node.spec.memoryBytes)") }
        if workers.count > node.spec.maximumWorkers { violations.append("the node runs \(workers.count) workers") }
    }

    /// One thing happens.
    mutating func step() {
        now = now + UInt64.random(in: 0...20_000_000, using: &random)
        if let deadline = node.nextDeadline, deadline <= now { tell(.timePassed) }
        if reconfigures, Int.random(in: 0..<100, using: &random) == 0 { reconfigure() }
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<45: happen()
        case 45..<75: finishSomething()
        case 75..<78: killSomething()
        case 78..<80: if let id = arrived.keys.filter({ verdicts[$0] == nil }).min(by: { $0.low < $1.low }) { tell(.abandoned(id)) }
        default:
            guard let version = functions.keys.sorted(by: { $0.description < $1.description }).randomElement(using: &random) else { return }
            let user = tenants[version.function.tenant]?.users == nil ? nil : ["joe", "ann", ""].randomElement(using: &random)
            let service: ServiceClass = [.sync, .sync, .asynchronous, .background].randomElement(using: &random) ?? .sync
            tell(.arrived(Arrival(InvocationID(milliseconds: 0, random: (0, random.next())), version, tenantUser: user, service: service)))
        }
    }

    /// A lower or higher cap, or a tenant that goes or comes back.
    mutating func reconfigure() {
        if first.isEmpty { first = tenants }
        guard let name = first.keys.sorted().randomElement(using: &random), var spec = first[name] else { return }
        reconfigurations += 1
        if removed.remove(name) == nil, spec.budget == BudgetSpec(), Int.random(in: 0..<3, using: &random) == 0 {
            removed.insert(name)
            return tell(.tenantRemoved(name))
        }
        spec.concurrency = Int.random(in: 1...spec.concurrency, using: &random)
        allowed[name] = workers.values.reduce(0) { $0 + ($1.function?.version.function.tenant == name ? $1.running.count : 0) }
        tell(.tenantConfigured(spec))
        let own = functions.values.filter { $0.version.function.tenant == name }.sorted { $0.version.description < $1.version.description }
        for function in own { tell(.versionRegistered(function)) }
    }

    mutating func happen() {
        guard !coming.isEmpty else { return }
        let event = coming.remove(at: Int.random(in: 0..<coming.count, using: &random))
        switch event {
        case .greeted(let id), .assigned(let id), .spawned(let id):
            guard workers[id] != nil else { return }
        case .ready(let id):
            guard workers[id] != nil else { return }
            if Int.random(in: 0..<12, using: &random) == 0 { return tell(.initFailed(id, type: "SyntaxError", message: "line 1")) }
            workers[id]?.isReady = true
        case .exited(let id, _): guard workers[id] != nil else { return }
        default: break
        }
        tell(event)
    }

    mutating func finishSomething() {
        let busy = workers.filter { !$0.value.running.isEmpty }.keys.sorted()
        guard let id = busy.randomElement(using: &random), let slot = workers[id]?.running.keys.sorted().randomElement(using: &random),
            let invocation = workers[id]?.running.removeValue(forKey: slot)
        else { return }
        tell(.finished(invocation, id, Bool.random(using: &random) ? .ok : .functionError))
    }

    mutating func killSomething() {
        guard let id = workers.keys.sorted().randomElement(using: &random) else { return }
        let causes: [DeathCause] = [
            .exited(code: 1), .signalled(11), .outOfMemory(limit: 1, peak: 1), .syscall(number: 101, name: "ptrace", native: true),
        ]
        if Bool.random(using: &random) { tell(.linkBroken(id, reason: "closed")) }
        tell(.exited(id, causes[Int.random(in: 0..<causes.count, using: &random)]))
    }

    /// Faults stop; everything that arrived must be answered.
    mutating func drainAll() {
        for _ in 0..<100_000 {
            if verdicts.count >= arrived.count, coming.isEmpty, workers.values.allSatisfy({ $0.running.isEmpty }) { return }
            if !coming.isEmpty {
                happen()
            } else if workers.values.contains(where: { !$0.running.isEmpty }) {
                finishSomething()
            } else if let deadline = node.nextDeadline {
                now = max(now, deadline)
                tell(.timePassed)
            } else {
                return
            }
        }
    }
}
