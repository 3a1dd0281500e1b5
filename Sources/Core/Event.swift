// SPDX-License-Identifier: Apache-2.0

/// What happened. Past tense: the node is told, it is not asked.
public enum Event: Sendable {
    case tenantConfigured(TenantSpec)
    case tenantRemoved(Name)
    /// A version may be invoked from now on.
    case versionRegistered(FunctionSpec)
    /// A version is gone; its workers drain and its queue is refused.
    case versionRemoved(VersionID)
    /// A caller asks for one run.
    case arrived(Arrival)
    /// A window of a tenant's budget with this period is open until `ends`, and this much was spent in it before (0 for a new one).
    case budgetWindow(Name, BudgetPeriod, ordinal: Int64, ends: Instant, spent: UsageSoFar)
    /// The caller no longer waits (it went away, or asked for the end).
    case abandoned(InvocationID)
    /// The spawner is connected and has no worker.
    case spawnerConnected
    /// The spawner could not start or assign the worker; it does not exist any more.
    case startFailed(WorkerID, reason: String)
    /// The worker's processes exist and are being sealed.
    case spawned(WorkerID)
    /// The worker's `hello` came.
    case greeted(WorkerID)
    /// The spawner gave the worker its code.
    case assigned(WorkerID)
    /// The worker's `ready` came.
    case ready(WorkerID)
    /// The user's code could not be loaded.
    case initFailed(WorkerID, type: String, message: String)
    /// The worker ended an invocation by itself: `result` or `error` came.
    case finished(InvocationID, WorkerID, Outcome)
    /// The worker broke the protocol or closed its end; `reason` is a phrase for a person.
    case linkBroken(WorkerID, reason: String)
    /// The worker's last process is gone.
    case exited(WorkerID, DeathCause)
    /// A deadline may have passed.
    case timePassed
    /// Nothing new is admitted; what runs and waits goes on.
    case draining
    /// The opposite: the node admits again.
    case resumed
    /// An idle worker of the daemon before this one is there; told before ``spawnerConnected``.
    case inherited(InheritedWorker)
    /// The machine has so many bytes less available than it should; 0 once it has enough. Told again each second while it is short.
    case memoryShort(bytes: UInt64)
}

/// One call for a run.
public struct Arrival: Hashable, Sendable {
    public var id: InvocationID
    public var version: VersionID
    /// Shortens the function's own.
    public var timeout: Nanoseconds?
    /// Bytes of its body.
    public var bytes: Int
    /// The end user by the tenant's rule and by the function's; nil where there is no rule.
    public var tenantUser: String?
    public var functionUser: String?
    public var service: ServiceClass
    /// The trigger whose rate is asked; nil where there is none, or where it was asked before.
    public var trigger: Name?
    public init(
        _ id: InvocationID, _ version: VersionID, timeout: Nanoseconds? = nil, bytes: Int = 0, tenantUser: String? = nil,
        functionUser: String? = nil, service: ServiceClass = .sync, trigger: Name? = nil
    ) {
        self.id = id
        self.version = version
        self.timeout = timeout
        self.bytes = bytes
        self.tenantUser = tenantUser
        self.functionUser = functionUser
        self.service = service
        self.trigger = trigger
    }
}

/// What the ledger says of a window.
public struct UsageSoFar: Hashable, Sendable {
    public var microGBSeconds: UInt64
    public var invocations: UInt64
    public init(microGBSeconds: UInt64 = 0, invocations: UInt64 = 0) {
        self.microGBSeconds = microGBSeconds
        self.invocations = invocations
    }
}
