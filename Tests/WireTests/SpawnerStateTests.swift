// SPDX-License-Identifier: Apache-2.0
import Core
import Testing
import Wire

/// What a spawner's program leaves to the next, which may be of another release.
@Suite struct SpawnerStateTests {
    static func worker(_ number: UInt64, uid: UInt32, descriptors: (Int32, Int32, Int32)) -> SpawnerState.Worker {
        SpawnerState.Worker(
            id: WorkerID(number), group: GroupID(3), uid: uid, path: "g3/w\(number)", pid: 4000 + Int32(number),
            descriptors: (descriptors.0, descriptors.1, descriptors.2), runtime: "python3", limits: WorkerLimits(),
            cgroup: (memory: 1 << 27, cpu: 1000, processes: 65), preparation: .sealed)
    }

    /// Of six user ids two are taken by workers, one by a worker that is leaving.
    static let state: SpawnerState = {
        var pending = worker(7, uid: 2001, descriptors: (20, 21, 22))
        pending.order = SpawnerState.Order(runtime: "native", command: ["./a", "b"], code: "c")
        pending.isAssigned = true
        var doomed = worker(8, uid: 2003, descriptors: (23, 24, -1))
        (doomed.isSealed, doomed.isSuspect, doomed.isTemporaryResized) = (true, true, true)
        doomed.buckets = SpawnerMessageTests.access
        doomed.layers = SpawnerMessageTests.layers
        doomed.cause = .syscall(number: 101, name: "ptrace", native: true)
        var gone = worker(5, uid: 2005, descriptors: (-1, -1, -1))
        (gone.isKilled, gone.cause, gone.usage) = (true, .killed, Usage(cpuMicroseconds: 9))
        (gone.isOrphan, gone.account, gone.toldCPU) = (true, 77, 4)
        var state = SpawnerState(
            policy: "version 1\n", program: "/usr/lib/bulkhead/bulkhead-spawner", policyPath: "/p", cgroupParent: "/system.slice/x",
            lock: 10, address: "127.0.0.1:80",
            listeners: [SpawnerState.Listener(name: "http", descriptor: 11), SpawnerState.Listener(name: "control", descriptor: 12)],
            daemon: SpawnerState.Daemon(
                pid: 99, socket: 13, startedAt: 1, restartDelay: 2, question: 3, askedAt: 4, nextAt: nil),
            nextHandOver: 5, lastReload: "read", workers: [pending, doomed], leaving: [gone], groups: [GroupID(3), GroupID(9)],
            usedIDs: NumberSet([1, 2, 3, 5, 7, 8]), freeUIDs: [2004, 2000, 2002], nextLeaf: 44)
        state.untold = [AccountUse(account: 7, cpuMicroseconds: 8)]
        return state
    }()

    @Test("a state survives the way, and nothing is wrong with it")
    func way() throws {
        #expect(try SpawnerState(decoding: Self.state.encoded()[...]) == Self.state)
        #expect(Self.state.objection(firstUID: 2000, uidCount: 6) == nil)
        #expect(Set(Self.state.descriptors) == [10, 11, 12, 13, 20, 21, 22, 23, 24])
    }

    @Test("a state that ends early or goes on is refused at every length")
    func truncated() {
        let bytes = Self.state.encoded()
        for count in 0..<bytes.count { #expect(throws: WireError.self) { try SpawnerState(decoding: bytes[..<count]) } }
        #expect(throws: WireError.self) { try SpawnerState(decoding: (bytes + [0])[...]) }
    }

    @Test("another format is refused by its name, older and newer, before anything of it is read")
    func formats() {
        for number in ["0", "2", "10"] {
            let line = "bulkhead-spawner state \(number)\n"
            let error = #expect(throws: WireError.self) { try SpawnerState(decoding: Array(line.utf8)[...]) }
            #expect(
                error?.description.contains("state \(number)\"") == true
                    && error?.description.contains("reads \"bulkhead-spawner state 3") == true)
        }
        let error = #expect(throws: WireError.self) { try SpawnerState(decoding: [1, 2, 3]) }
        #expect(error?.description.contains("unknown format") == true)
    }

    @Test("a user id is free or one worker's, and all of the policy's are there")
    func userIDs() {
        func wrong(_ change: (inout SpawnerState) -> Void) -> Bool {
            var state = Self.state
            change(&state)
            return state.objection(firstUID: 2000, uidCount: 6) != nil
        }
        #expect(wrong { $0.freeUIDs.append(2001) }, "given to a worker and free")
        #expect(wrong { $0.freeUIDs[0] = 2001 }, "the same, and another is lost")
        #expect(wrong { $0.freeUIDs[0] = 2005 }, "of one that is leaving")
        #expect(wrong { $0.freeUIDs.removeLast() }, "lost")
        #expect(wrong { $0.freeUIDs[0] = 1999 } && wrong { $0.freeUIDs[0] = 2006 }, "of somebody else")
        #expect(wrong { $0.workers[0].uid = 2003 })
        #expect(wrong { $0.leaving[0].id = $0.workers[0].id })
        #expect(wrong { $0.usedIDs = NumberSet([1, 8]) })
        #expect(wrong { $0.workers[0].report = $0.daemon.socket } && wrong { $0.lock = 2 } && wrong { $0.workers[0].pidfd = -1 })
        #expect(wrong { $0.protocolVersion += 1 })
        #expect(wrong { $0.daemon.pid = 0 })
    }

    @Test("numbers are kept as ranges, whatever their order")
    func numbers() {
        var random: UInt64 = 7
        var set = NumberSet(), model: Set<UInt64> = []
        for _ in 0..<4000 {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let number = random >> 33 % 300
            #expect(set.insert(number) == model.insert(number).inserted)
            #expect(set.contains(number) && NumberSet(ranges: set.ranges) == set)
        }
        for number in 0..<310 as Range<UInt64> { #expect(set.contains(number) == model.contains(number)) }
        var rising = NumberSet()
        for number in 1...100_000 as ClosedRange<UInt64> { rising.insert(number) }
        #expect(rising.ranges == [1...100_000] && NumberSet(ranges: [3...4, 4...5]) == nil)
        #expect(NumberSet([UInt64.max, 0, 1]).ranges == [0...1, UInt64.max...UInt64.max])
    }
}
