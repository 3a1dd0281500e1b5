// SPDX-License-Identifier: Apache-2.0
import Core
import Testing
import Wire

@testable import bulkheadd

@Suite struct MachineCeilingsTests {
    let machine = MachineCeilings([
        "BULKHEAD_MEMORY": "1000", "BULKHEAD_TEMPORARY": "500", "BULKHEAD_CPU": "2000", "BULKHEAD_PROCESSES": "64",
    ])
    let large = WorkerLimits(memoryBytes: 2000, cpuMilli: 4000, processes: 100, temporaryBytes: 600, openFiles: 9)
    let bounded = WorkerLimits(memoryBytes: 1000, cpuMilli: 2000, processes: 64, temporaryBytes: 500, openFiles: 9)

    @Test("what a quota or a manifest names above the machine is asked for as the machine has it")
    func above() {
        // A group's processes have no ceiling in the policy.
        #expect(
            machine.bounded(.setGroup(GroupID(1), GroupLimits(memoryBytes: 2000, cpuMilli: 4000, processes: 100)))
                == .setGroup(GroupID(1), GroupLimits(memoryBytes: 1000, cpuMilli: 2000, processes: 100)))
        #expect(
            machine.bounded(.assign(WorkerID(1), runtime: "r", limits: large, code: "c", command: ["x"], buckets: nil, layers: []))
                == .assign(WorkerID(1), runtime: "r", limits: bounded, code: "c", command: ["x"], buckets: nil, layers: []))
        let order = SpawnRequest(worker: WorkerID(1), group: GroupID(1), runtime: "r", preparation: .started, limits: large)
        var expected = order
        expected.limits = bounded
        #expect(machine.bounded(.spawn(order)) == .spawn(expected))
    }

    @Test("what is below stays, and nothing is bounded where nothing is said")
    func below() {
        let small = SpawnerRequest.setGroup(GroupID(1), GroupLimits(memoryBytes: 10, cpuMilli: 20, processes: 30))
        #expect(machine.bounded(small) == small)
        let request = SpawnerRequest.assign(WorkerID(1), runtime: "r", limits: large, code: "c", command: [], buckets: nil, layers: [])
        #expect(MachineCeilings([:]).bounded(request) == request)
        #expect(machine.bounded(.kill(WorkerID(4))) == .kill(WorkerID(4)))
    }
}
