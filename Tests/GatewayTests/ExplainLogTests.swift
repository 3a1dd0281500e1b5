// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@testable import Supervision

@Suite struct ExplainLogTests {
    private func version(_ tenant: String) throws -> VersionID {
        VersionID(function: FunctionID(tenant: try #require(Name(tenant)), function: try #require(Name("f"))), number: 1)
    }

    private func bare(_ id: InvocationID, _ version: VersionID) -> ExplainRecord {
        ExplainRecord(id: id, version: version, arrivedAt: 7, entries: [])
    }

    @Test("a call that outlasts the ring is kept when it fails, and what went well takes no failure's room")
    func outlasted() throws {
        var log = ExplainLog()
        let (slow, loud) = (try version("slow"), try version("loud"))
        let first = InvocationID(milliseconds: 1, random: (0, 0))
        log.begin(first, slow, wall: 1, at: Instant(nanoseconds: 0))
        for number in 0..<UInt64(ExplainLog.capacity) {
            let id = InvocationID(milliseconds: 2, random: (0, number))
            log.begin(id, loud, wall: 2, at: Instant(nanoseconds: 0))
            if number < 2 * ExplainLog.endedOfTenant { log.end(id, isFailure: false, bare: bare(id, loud)) }
        }
        #expect(log.record(first) == nil, "else the next line shows nothing")
        log.end(first, isFailure: true, bare: bare(first, slow))
        let last = InvocationID(milliseconds: 3, random: (0, 0))
        log.end(last, isFailure: true, bare: bare(last, loud))
        let kept = log.takeEnded()
        #expect(kept.count == ExplainLog.endedOfTenant + 2)
        #expect(kept.suffix(2).map(\.id) == [first, last] && kept.suffix(2).allSatisfy { $0.arrivedAt == 7 })
    }

    @Test(
        "however much is noted of an invocation, how it ended is; and a second try of an event is not forgotten with the first one's place")
    func ends() throws {
        var log = ExplainLog()
        let id = InvocationID(milliseconds: 1, random: (0, 0))
        log.begin(id, try version("t"), wall: 1, at: Instant(nanoseconds: 0))
        for _ in 0..<2 * ExplainLog.entryLimit { log.note(id, .arrived, at: Instant(nanoseconds: 0)) }
        log.note(id, .replied(.completed(.ok)), at: Instant(nanoseconds: 9))
        let entries = try #require(log.record(id)).entries
        #expect(entries.count == ExplainLog.entryLimit && entries.last?.decision == .replied(.completed(.ok)))
        for number in 1..<UInt64(ExplainLog.capacity) {
            log.begin(InvocationID(milliseconds: 2, random: (0, number)), try version("t"), wall: 2, at: Instant(nanoseconds: 0))
            if number == 5 { log.begin(id, try version("t"), wall: 3, at: Instant(nanoseconds: 0)) }
        }
        #expect(log.record(id)?.arrivedAt == 3)
    }

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
            log.end(id, isFailure: true, bare: bare(id, version))
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
