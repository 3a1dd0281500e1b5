// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@testable import Supervision

@Suite struct ExplainLogTests {
    @Test("a tenant whose every call fails pushes out no other's explanation, also where the ring has come round meanwhile")
    func flood() throws {
        var log = ExplainLog()
        let versions = try ["loud", "quiet"].map {
            VersionID(function: FunctionID(tenant: try #require(Name($0)), function: try #require(Name("f"))), number: 1)
        }
        func fail(_ version: VersionID, _ number: UInt64) -> InvocationID {
            let id = InvocationID(milliseconds: number, random: (0, number))
            log.begin(id, version, wall: number, at: Instant(nanoseconds: 0))
            log.note(id, .arrived, at: Instant(nanoseconds: number))
            log.end(id)
            return id
        }
        let quiet = fail(versions[1], 1)
        for number in 0..<UInt64(ExplainLog.capacity + ExplainLog.endedLimit) { _ = fail(versions[0], number + 2) }
        let late = fail(versions[1], 100_000)
        let kept = log.takeEnded()
        #expect(kept.count == ExplainLog.endedOfTenant + 2)
        #expect(kept.filter { $0.version == versions[1] }.map(\.id) == [quiet, late])
        #expect(kept.allSatisfy { $0.entries.map(\.after) == [$0.arrivedAt] })
        #expect(log.takeEnded().isEmpty)
        #expect(log.record(quiet) == nil && log.record(late) != nil)
    }

    @Test("a long record takes more memory only until its place is used again")
    func places() throws {
        let version = VersionID(function: FunctionID(tenant: try #require(Name("t")), function: try #require(Name("f"))), number: 1)
        var (log, number) = (ExplainLog(), UInt64(0))
        func round(decisions: Int) {
            for _ in 0..<ExplainLog.capacity {
                number += 1
                let id = InvocationID(milliseconds: number, random: (0, number))
                log.begin(id, version, wall: number, at: Instant(nanoseconds: 0))
                for _ in 0..<decisions { log.note(id, .arrived, at: Instant(nanoseconds: 0)) }
            }
        }
        round(decisions: 5)
        let usual = log.roomForEntries
        round(decisions: ExplainLog.entryLimit)
        #expect(log.roomForEntries > 2 * usual, "else the next line shows nothing")
        round(decisions: 5)
        #expect(log.roomForEntries <= 2 * usual)
    }
}
