// SPDX-License-Identifier: Apache-2.0

/// What happened. Past tense: the node is told, it is not asked.
public enum Event: Sendable {
    case tenantConfigured(TenantSpec)
    case tenantRemoved(Name)
    /// A version may be invoked from now on.
    case versionRegistered(FunctionSpec)
    /// A version is gone; its workers drain and its queue is refused.
    case versionRemoved(VersionID)
    /// A caller asks for one run. `timeout` shortens the function's own.
    case arrived(InvocationID, VersionID, timeout: Nanoseconds?)
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
    /// The node shuts down: nothing new is admitted.
    case draining
}
