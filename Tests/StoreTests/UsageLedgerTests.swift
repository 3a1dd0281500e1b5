// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Testing

/// A directory of its own, removed at the end.
final class LedgerFolder {
    let path = NSTemporaryDirectory() + "ledger-\(UUID().uuidString)"
    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    func names(_ part: String) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { $0.contains(part) }.sorted()
    }
}

private let hour: UInt64 = 3_600_000
/// The first second of an hour, a day and a quarter.
private let base: UInt64 = 1_700_006_400_000

private func invocation(_ number: UInt64) -> InvocationID { InvocationID(milliseconds: base, random: (0, number)) }
private func named(_ text: String) -> Name { Name(text) ?? .unnamed }
private func function(_ tenant: String, _ name: String) -> FunctionID { FunctionID(tenant: named(tenant), function: named(name)) }
private let hello = function("acme", "hello")

extension UsageLedger {
    fileprivate func run(
        _ number: UInt64, _ function: FunctionID = hello, _ outcome: Outcome = .ok, charged: UInt64 = 100, at: UInt64 = base
    ) throws {
        try begin(invocation(number), function, reserved: 1000, memoryBytes: 1 << 30, wallMs: at)
        settle(invocation(number), outcome, charged: charged, durationUs: 7, cpuUs: 3, wallMs: at)
    }
    fileprivate func total(_ tenant: String = "acme") throws -> UsageRow? { try usage(UsageQuery(tenant: named(tenant))).first }
}

@Suite struct UsageLedgerTests {
    @Test("what ended is summed by hour, day, function and tenant; what never ran is not; more than was reserved is not charged")
    func sums() throws {
        let folder = try LedgerFolder()
        let ledger = try UsageLedger(directory: folder.path, now: base)
        try ledger.run(1)
        try ledger.run(2, function("acme", "other"), .timedOut, charged: 5000, at: base + hour)
        try ledger.run(3, function("beta", "hello"), at: base + 24 * hour)
        try ledger.run(4, at: base + 25 * hour)
        try ledger.begin(invocation(5), hello, reserved: 9, memoryBytes: 1, wallMs: base + 25 * hour)
        #expect(ledger.void(invocation(5), wallMs: base + 25 * hour))
        try ledger.begin(invocation(6), hello, reserved: 9, memoryBytes: 1, wallMs: base + 25 * hour)
        #expect(ledger.settle(invocation(7), .ok, charged: 1, durationUs: 1, cpuUs: 1, wallMs: base) == nil, "nobody began it")
        #expect(!ledger.void(invocation(1), wallMs: base), "it has ended")
        #expect(throws: StoreError.self) { try ledger.begin(invocation(6), hello, reserved: 1, memoryBytes: 1, wallMs: base) }

        let total = try #require(try ledger.total())
        #expect(total.invocations == 3 && total.errors == 1 && total.microGBSeconds == 1200 && total.cpuUs == 9 && total.durationUs == 21)
        #expect(total.gbSeconds == 0.0012)
        let functions = try ledger.usage(UsageQuery(by: .function))
        #expect(
            functions.map { "\($0.tenant)/\($0.function?.text ?? "-") \($0.invocations)" } == [
                "acme/hello 2", "acme/other 1", "beta/hello 1",
            ])
        let second = Int64(base / 1000)
        #expect(try ledger.usage(UsageQuery(tenant: named("acme"), by: .hour)).map(\.start) == [second, second + 3600, second + 90_000])
        #expect(try ledger.usage(UsageQuery(tenant: named("acme"), by: .day)).map(\.invocations) == [2, 1])
        #expect(try ledger.usage(UsageQuery(seconds: second + 3600..<second + 86_400)).map(\.microGBSeconds) == [1000])
        // The middle of an hour: the whole hour counts.
        #expect(try ledger.usage(UsageQuery(seconds: second + 3601..<second + 3602)).map(\.microGBSeconds) == [1000])
        #expect(try ledger.usage(UsageQuery(seconds: second + 7200..<second + 7201)).isEmpty)
        #expect(try ledger.total("nobody") == nil)
    }

    @Test("processor time is kept like a charge: of no invocation and no budget, over a kill, and never in the room of an end")
    func processors() throws {
        let folder = try LedgerFolder()
        func cpu(_ ledger: UsageLedger) throws -> UInt64? { try ledger.total()?.cpuUs }
        do {
            let ledger = try UsageLedger(directory: folder.path, now: base)
            try ledger.run(1)
            #expect(ledger.used(hello, cpuUs: 40, wallMs: base))
            #expect(ledger.used(hello, cpuUs: 7, wallMs: base + hour))
            #expect(try cpu(ledger) == 50)
            #expect(ledger.used(hello, cpuUs: 100, wallMs: base))
        }
        do {
            // The last one was not counted yet when the process was gone.
            let ledger = try UsageLedger(directory: folder.path, now: base + hour, segmentRecords: 2)
            #expect(try cpu(ledger) == 150)
            let total = try #require(try ledger.total())
            #expect(total.invocations == 1 && total.errors == 0 && total.microGBSeconds == 100)
            #expect(try ledger.spent(named("acme"), 0..<Int64.max / 1000).invocations == 1)
            for number in 2..<6 { try ledger.begin(invocation(UInt64(number)), hello, reserved: 9, memoryBytes: 1, wallMs: base) }
            for _ in 0..<50 { #expect(ledger.used(hello, cpuUs: 1, wallMs: base)) }
            for number in 2..<6 {
                #expect(ledger.settle(invocation(UInt64(number)), .ok, charged: 1, durationUs: 1, cpuUs: 0, wallMs: base) == 1)
            }
            #expect(try cpu(ledger) == 200)
        }
        #expect(try cpu(try UsageLedger(directory: folder.path, now: base + hour)) == 200)
    }

    @Test("what a tenant spent is exact between quarters of an hour, by the time of the end")
    func quarters() throws {
        let folder = try LedgerFolder()
        let ledger = try UsageLedger(directory: folder.path, now: base)
        let second = Int64(base / 1000)
        for quarter in 0..<8 {
            try ledger.run(UInt64(quarter), charged: 1 << UInt64(quarter), at: base + UInt64(quarter) * 900_000 + 899_999)
        }
        for first in 0..<8 {
            for last in first..<8 {
                let spent = try ledger.spent(named("acme"), second + Int64(first) * 900..<second + Int64(last + 1) * 900)
                #expect(
                    spent.microGBSeconds == (first...last).reduce(0) { $0 + 1 << UInt64($1) }
                        && spent.invocations == UInt64(last - first + 1))
            }
        }
        #expect(try ledger.spent(named("acme"), second + 1..<second + 2).microGBSeconds == 1, "a begun quarter counts as a whole")
        #expect(try ledger.spent(named("beta"), 0..<Int64.max / 1000).invocations == 0)
    }

    @Test(
        "after a crash a running invocation is charged once, for the time until then and at most what was reserved",
        arguments: [false, true])
    func crash(isFolded: Bool) throws {
        let folder = try LedgerFolder()
        do {
            let ledger = try UsageLedger(directory: folder.path, now: base, segmentRecords: 4)
            try ledger.begin(invocation(1), hello, reserved: 10_000_000, memoryBytes: 1 << 30, wallMs: base)
            try ledger.begin(invocation(2), hello, reserved: 500_000, memoryBytes: 1 << 30, wallMs: base)
            try ledger.begin(invocation(3), hello, reserved: 1, memoryBytes: 1, wallMs: base)
            ledger.void(invocation(3), wallMs: base)
            if isFolded {
                // The segment of the beginnings goes, what runs does not.
                for number in 10..<20 { try ledger.run(UInt64(number), function("beta", "hello")) }
                try ledger.checkpoint()
                #expect(folder.names(".segment").count == 2)
            }
            #expect(ledger.now(base + 2000) == base + 2000)
        }
        for _ in 0..<3 {
            let ledger = try UsageLedger(directory: folder.path, now: base + hour)
            #expect(ledger.warnings.isEmpty)
            let total = try #require(try ledger.total())
            #expect(total.invocations == 2 && total.errors == 2 && total.microGBSeconds == 2_000_000 + 500_000)
            #expect(total.durationUs == 4_000_000)
        }
    }

    @Test("a time of life that has not come yet is not believed")
    func future() throws {
        let folder = try LedgerFolder()
        do {
            let ledger = try UsageLedger(directory: folder.path, now: base)
            try ledger.begin(invocation(1), hello, reserved: 10_000_000, memoryBytes: 1 << 30, wallMs: base)
        }
        try folder.edit("usage-0.segment") { $0[5 * 8 + 7] = 0x7F }
        let ledger = try UsageLedger(directory: folder.path, now: base + 3000)
        #expect(try ledger.total()?.microGBSeconds == 3_000_000)
        #expect(ledger.now(base + 4000) == base + 4000)
    }

    @Test("a clock that steps back charges to the latest time seen, also after a new start")
    func stepBack() throws {
        let folder = try LedgerFolder()
        let second = Int64(base / 1000)
        for number in 1...2 {
            let ledger = try UsageLedger(directory: folder.path, now: base - hour)
            try ledger.run(UInt64(number), at: number == 1 ? base + hour : base)
            #expect(ledger.now(base) == base + hour)
        }
        let ledger = try UsageLedger(directory: folder.path, now: base)
        #expect(try ledger.spent(named("acme"), second + 3600..<second + 7200).invocations == 2)
        #expect(ledger.now(0) == base + hour)
    }

    @Test("a hundred segments without a checkpoint, then one: all is counted and the files are gone")
    func rotation() throws {
        let folder = try LedgerFolder()
        do {
            let ledger = try UsageLedger(directory: folder.path, now: base, segmentRecords: 8)
            #expect(!ledger.needsCheckpoint)
            for number in 0..<400 { try ledger.run(UInt64(number), charged: 1) }
            #expect(ledger.needsCheckpoint)
            #expect(folder.names(".segment").count >= 100)
            try ledger.checkpoint()
            #expect(folder.names(".segment").count == 2)
            #expect(!ledger.needsCheckpoint)
            for number in 0..<400 { try ledger.run(UInt64(number), charged: 1) }
        }
        let ledger = try UsageLedger(directory: folder.path, now: base)
        #expect(folder.names(".segment").count == 2)
        #expect(try ledger.total()?.microGBSeconds == 800)
    }

    @Test("two threads begin and end while a third counts")
    func threads() async throws {
        let folder = try LedgerFolder()
        let ledger = try UsageLedger(directory: folder.path, now: base, segmentRecords: 64)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for thread in 0..<2 {
                group.addTask { for number in 0..<3000 { try ledger.run(UInt64(thread << 32 | number), charged: 1) } }
            }
            group.addTask { for _ in 0..<50 { try ledger.checkpoint() } }
            try await group.waitForAll()
        }
        #expect(try ledger.total()?.invocations == 6000)
    }

    @Test("hours become days, days are forgotten, nothing is counted twice by it")
    func retention() throws {
        let folder = try LedgerFolder()
        let retention = UsageRetention(hoursForDays: 2, daysForDays: 10)
        let day = 24 * hour
        let ledger = try UsageLedger(directory: folder.path, now: base, retention: retention)
        var at = base
        for number in 0..<48 {
            try ledger.run(UInt64(number), at: at)
            at += hour
        }
        #expect(try ledger.usage(UsageQuery(by: .hour)).count == 48)
        try ledger.run(100, at: base + 4 * day)
        try ledger.checkpoint()
        #expect(try ledger.usage(UsageQuery(by: .hour)).map(\.invocations) == [24, 24, 1])
        #expect(try ledger.usage(UsageQuery(by: .day)).map(\.invocations) == [24, 24, 1])
        try ledger.run(101, at: base + 11 * day)
        try ledger.checkpoint()
        #expect(try ledger.usage(UsageQuery(by: .day)).map(\.invocations) == [24, 1, 1])
    }

    @Test("a directory has one ledger")
    func twice() throws {
        let folder = try LedgerFolder()
        let ledger = try UsageLedger(directory: folder.path, now: base)
        let error = #expect(throws: StoreError.self) { try UsageLedger(directory: folder.path, now: base) }
        #expect(error?.description.contains("in use") == true)
        try ledger.run(1)
    }

    @Test("the cost of a beginning and an end, printed")
    func cost() throws {
        let folder = try LedgerFolder()
        let ledger = try UsageLedger(directory: folder.path, now: base)
        let ids = (0..<7000).map { invocation(UInt64($0)) }
        let start = ContinuousClock.now
        for id in ids {
            try ledger.begin(id, hello, reserved: 1000, memoryBytes: 1 << 30, wallMs: base)
            ledger.settle(id, .ok, charged: 10, durationUs: 1, cpuUs: 1, wallMs: base)
        }
        let spent = ContinuousClock.now - start
        print("usage ledger: \(spent / ids.count) for a beginning and an end in this build")
        #expect(try ledger.total()?.invocations == 7000)
    }
}

extension LedgerFolder {
    func edit(_ name: String, _ change: (inout [UInt8]) -> Void) throws {
        let url = URL(fileURLWithPath: path + "/" + name)
        var bytes = [UInt8](try Data(contentsOf: url))
        change(&bytes)
        try Data(bytes).write(to: url)
    }
}
