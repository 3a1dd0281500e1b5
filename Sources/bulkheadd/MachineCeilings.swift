// SPDX-License-Identifier: Apache-2.0
import Core
import Wire

/// What the spawner's policy grants at most, as the spawner's environment says it. A quota or a manifest may name more than this machine has (four processors on a
/// machine with two): the machine is then the ceiling. Asked for more, the spawner would take the daemon for hostile and end it.
struct MachineCeilings: Sendable {
    var memoryBytes = UInt64.max
    var temporaryBytes = UInt64.max
    var cpuMilli = UInt32.max
    var processes = UInt32.max

    init(_ environment: [String: String]) {
        memoryBytes = environment["BULKHEAD_MEMORY"].flatMap { UInt64($0) } ?? memoryBytes
        temporaryBytes = environment["BULKHEAD_TEMPORARY"].flatMap { UInt64($0) } ?? temporaryBytes
        cpuMilli = environment["BULKHEAD_CPU"].flatMap { UInt32($0) } ?? cpuMilli
        processes = environment["BULKHEAD_PROCESSES"].flatMap { UInt32($0) } ?? processes
    }

    /// The same request with no limit above the machine's.
    func bounded(_ request: SpawnerRequest) -> SpawnerRequest {
        switch request {
        case .setGroup(let group, var limits):
            limits.memoryBytes = min(limits.memoryBytes, memoryBytes)
            limits.cpuMilli = min(limits.cpuMilli, cpuMilli)
            return .setGroup(group, limits)
        case .spawn(var request):
            request.limits = bounded(request.limits)
            return .spawn(request)
        case .assign(let worker, let runtime, let limits, let code, let command, let buckets, let layers):
            return .assign(
                worker, runtime: runtime, limits: bounded(limits), code: code, command: command, buckets: buckets, layers: layers)
        default: return request
        }
    }

    private func bounded(_ limits: WorkerLimits) -> WorkerLimits {
        var limits = limits
        limits.memoryBytes = min(limits.memoryBytes, memoryBytes)
        limits.temporaryBytes = min(limits.temporaryBytes, temporaryBytes)
        limits.cpuMilli = min(limits.cpuMilli, cpuMilli)
        limits.processes = min(limits.processes, processes)
        return limits
    }
}
