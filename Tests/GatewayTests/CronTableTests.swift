// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import bulkheadd

/// When cron triggers are due, in a world whose clock the test sets.
@Suite final class CronTableTests {
    private let path = NSTemporaryDirectory() + "cron-\(UUID().uuidString).json"
    /// A midnight of UTC.
    private let midnight: Int64 = 1_700_006_400
    deinit { try? FileManager.default.removeItem(atPath: path) }

    private func edge(_ trigger: String = "nightly") throws -> EdgeID {
        let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("report")))
        return EdgeID(trigger: try #require(Name(trigger)), function: function)
    }

    private func table(_ schedule: String, overlap: CronOverlap = .allow, now: Int64) throws -> CronTable {
        let table = CronTable(path: path)
        try set(table, schedule, overlap, now)
        return table
    }

    private func set(_ table: CronTable, _ schedule: String, _ overlap: CronOverlap = .allow, _ now: Int64) throws {
        let edge = try edge()
        let kind = TriggerSpec.Kind.cron(schedule: schedule, timeZone: "UTC", payload: "", overlap: overlap)
        table.set(edge.function.tenant, [(function: edge.function, trigger: TriggerSpec(name: edge.trigger, kind: kind))], now: now)
    }

    private func id(_ number: Int) -> InvocationID { InvocationID(milliseconds: 1, random: (0, UInt64(number))) }

    /// Lets a second after the other pass, and fires what is due.
    private func fire(_ table: CronTable, _ times: some Sequence<Int64>) -> [(at: Int64, key: String)] {
        var found: [(at: Int64, key: String)] = []
        for now in times {
            for firing in table.due(now) {
                found.append((firing.time, firing.key))
                table.fired(firing, id(found.count))
            }
        }
        return found
    }

    @Test("a schedule fires at its times, each once")
    func plain() throws {
        let table = try table("*/10 * * * *", now: midnight + 1)
        #expect(fire(table, midnight...midnight + 1800).map(\.at) == [600, 1200, 1800].map { midnight + $0 })
        #expect(table.counts.fired == 3 && table.counts.skipped == 0)
    }

    @Test("a clock that goes back a day, or an hour behind what has run: the next run comes at its time by the new clock, as a new event")
    func back() throws {
        let table = try table("*/10 * * * *", now: midnight + 1)
        let first = fire(table, midnight...midnight + 3600)
        #expect(first.count == 6)
        for step in [Int64(86_400), 3600] {
            let start = midnight + 3600 - step
            let again = fire(table, start...start + 1200)
            #expect(again.map(\.at) == [start + 600, start + 1200], "\(step) s back")
            #expect(Set(first.map(\.key)).isDisjoint(with: again.map(\.key)), "the store would take it for what has run")
            _ = fire(table, [midnight + 3600])
        }
    }

    @Test("a clock that is put right by some seconds: what has run is not run again, and the next run comes")
    func corrected() throws {
        let table = try table("* * * * *", now: midnight + 1)
        #expect(fire(table, [midnight + 59, midnight + 60]).map(\.at) == [midnight + 60])
        #expect(fire(table, midnight + 30...midnight + 119).isEmpty)
        #expect(fire(table, [midnight + 120]).map(\.at) == [midnight + 120])
    }

    @Test("a clock that goes forward, and a node that was away: one run, the last that was missed")
    func forward() throws {
        var table = try table("*/10 * * * *", now: midnight + 1)
        #expect(fire(table, [midnight + 600]).count == 1)
        #expect(fire(table, [midnight + 86_430, midnight + 86_431]).map(\.at) == [midnight + 86_400])
        try table.save()
        table = try self.table("*/10 * * * *", now: midnight + 90_030)
        #expect(fire(table, [midnight + 90_030, midnight + 90_031]).map(\.at) == [midnight + 90_000])
    }

    @Test("a trigger that has not fired yet when the node goes away: one run for what it missed, and none for what was before it came")
    func awayBeforeTheFirst() throws {
        var table = try table("*/10 * * * *", now: midnight + 605)
        try table.save()
        table = try self.table("*/10 * * * *", now: midnight + 3_700)
        #expect(fire(table, [midnight + 3_700, midnight + 3_701]).map(\.at) == [midnight + 3_600])
    }

    @Test("a node that starts with its clock a day back: the next run comes at its time, as a new event")
    func restartedBack() throws {
        var table = try table("*/10 * * * *", now: midnight + 1)
        let first = fire(table, midnight...midnight + 1200)
        try table.save()
        table = try self.table("*/10 * * * *", now: midnight - 86_400 + 1)
        #expect(fire(table, [midnight - 86_400 + 600]).map(\.at) == [midnight - 86_400 + 600])
        try table.save()
        // And again by the new clock, over the times that had been.
        table = try self.table("*/10 * * * *", now: midnight + 1)
        let again = fire(table, midnight + 1...midnight + 1200)
        #expect(again.suffix(2).map(\.at) == [midnight + 600, midnight + 1200])
        #expect(Set(first.map(\.key)).isDisjoint(with: again.map(\.key)))
    }

    @Test("what was not dealt with stays due, of several times the last; it knows the event before, also after one was left out")
    func overlaps() throws {
        for overlap in [CronOverlap.queue, .skip, .allow] {
            try? FileManager.default.removeItem(atPath: path)
            let table = try table("*/10 * * * *", overlap: overlap, now: midnight + 1)
            let first = try #require(table.due(midnight + 600).first)
            #expect(first.previous == nil && first.overlap == overlap)
            table.fired(first, id(1))
            // Not dealt with: the run before is still under way.
            #expect(table.due(midnight + 1200).map(\.previous) == [id(1)])
            let waiting = try #require(table.due(midnight + 2405).first)
            #expect(waiting.time == midnight + 2400 && waiting.previous == id(1))
            // Left out: the next one still has to wait for the same event.
            table.fired(waiting, nil)
            #expect(table.due(midnight + 2406).isEmpty)
            #expect(table.due(midnight + 3000).map(\.previous) == [id(1)])
            #expect(table.counts.fired == 1 && table.counts.skipped == 1)
        }
    }

    @Test("a trigger that is gone is forgotten, and one that comes anew makes up for nothing")
    func gone() throws {
        let table = try table("*/10 * * * *", now: midnight + 1)
        table.set(try edge().function.tenant, [], now: midnight + 2)
        let next = table.next(try edge())
        #expect(table.due(midnight + 6000).isEmpty && next == nil)
        try set(table, "*/10 * * * *", .allow, midnight + 6001)
        #expect(fire(table, [midnight + 6002, midnight + 6600]).map(\.at) == [midnight + 6600])
    }
}
