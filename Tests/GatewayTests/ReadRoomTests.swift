// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Gateway
import Testing

@testable import bulkheadd

@Suite struct ReadRoomTests {
    /// Many searches of one tenant must hold up neither another tenant's nor the threads that everything else runs on.
    @Test("one tenant's searches wait behind each other, up to a number; another tenant's does not wait for them", .timeLimit(.minutes(1)))
    func turns() async throws {
        let room = ReadRoom(width: 2, places: 3)
        let (first, second) = (try #require(Name("acme")), try #require(Name("beta")))
        let (began, gate) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        try await withThrowingTaskGroup(of: Int.self) { group in
            group.addTask {
                try await room.run(first) {
                    began.signal()
                    gate.wait()
                    return 0
                }
            }
            // On a thread of its own: a wait must hold no thread of the pool.
            await withCheckedContinuation { continuation in
                DispatchQueue(label: "wait").async {
                    began.wait()
                    continuation.resume()
                }
            }
            for number in 1...3 { group.addTask { try await room.run(first) { number } } }
            while room.waiting(first) < 3 { await Task.yield() }
            let refused = await #expect(throws: Problem.self) { try await room.run(first) { 4 } }
            #expect(refused?.status == 429 && refused?.retryAfter == 1)
            #expect(try await room.run(second) { 5 } == 5, "beside the one that still runs")
            gate.signal()
            let answers = try await group.reduce(into: Set<Int>()) { $0.insert($1) }
            #expect(answers == [0, 1, 2, 3])
        }
        #expect(try await room.run(first) { 8 } == 8)
    }
}
