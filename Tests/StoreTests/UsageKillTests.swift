// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Kernel
import Store
import Testing

@testable import ledger_driver

/// What a ledger has to say after so many steps of a script and a crash.
private struct Expected: Hashable {
    struct Sum: Hashable {
        var invocations: UInt64 = 0
        var errors: UInt64 = 0
        var compute: UInt64 = 0
        var cpuUs: UInt64 = 0
        var durationUs: UInt64 = 0
    }
    var sums: [Name: Sum] = [:]

    init(seed: UInt64, run: UInt64, steps: UInt64) {
        var script = LedgerScript(seed: seed, run: run)
        var open: [InvocationID: LedgerScript.Step] = [:]
        var last: UInt64 = 0
        for _ in 0..<steps {
            let step = script.next()
            last = step.wallMs
            switch step.kind {
            case .begin: open[step.id] = step
            case .void: open[step.id] = nil
            case .settle:
                open[step.id] = nil
                add(step, charged: min(step.charged, step.reserved), durationUs: step.durationUs, isError: step.outcome != .ok)
            }
        }
        for step in open.values {
            let time = last - step.wallMs
            let used = Compute.microGBSeconds(memoryBytes: step.memoryBytes, duration: .milliseconds(time))
            add(step, charged: min(step.reserved, used), durationUs: time * 1000, isError: true)
        }
    }

    init(_ rows: [UsageRow]) {
        for row in rows {
            sums[row.function ?? .unnamed] = Sum(
                invocations: row.invocations, errors: row.errors, compute: row.microGBSeconds, cpuUs: row.cpuUs, durationUs: row.durationUs)
        }
    }

    private mutating func add(_ step: LedgerScript.Step, charged: UInt64, durationUs: UInt64, isError: Bool) {
        var sum = sums[step.function.function] ?? Sum()
        sum.invocations += 1
        sum.errors += isError ? 1 : 0
        sum.compute += charged
        sum.cpuUs += step.cpuUs
        sum.durationUs += durationUs
        sums[step.function.function] = sum
    }
}

private enum LedgerDriver {
    static var path: String? {
        let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
        let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path
        return [folder, Bundle.main.bundlePath, top + "/.build/debug"].map { $0 + "/ledger-driver" }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// Starts a driver and kills it: a while after its ledger opened, or a while after its start, wherever it is then.
    /// Returns the steps that it had acknowledged.
    static func runAndKill(_ folder: LedgerFolder, seed: UInt64, run: UInt64) throws -> UInt64 {
        let progress = folder.path + "/progress-\(run)"
        let words = [try #require(path, "build ledger-driver"), folder.path, progress, "\(seed)", "\(run)"]
        var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
        defer { for index in unsafe arguments.indices { unsafe free(arguments[index]) } }
        var pid: pid_t = 0
        let spawned = unsafe posix_spawn(&pid, words[0], nil, nil, &arguments, environ)
        try #require(spawned == 0)
        if Bool.random() && Bool.random() {
            usleep(UInt32.random(in: 5000..<60_000))
        } else {
            let limit = ContinuousClock.now + .seconds(30)
            while read(progress)?.first != 1, ContinuousClock.now < limit { usleep(100) }
            usleep(UInt32.random(in: 0..<8000))
        }
        var status: Int32 = 0
        let ended = unsafe waitpid(pid, &status, WNOHANG)
        #expect(ended == 0, "the driver ended by itself: \(status)")
        kill(pid, SIGKILL)
        unsafe waitpid(pid, &status, 0)
        return read(progress)?.last ?? 0
    }

    private static func read(_ path: String) -> [UInt64]? {
        guard let words = try? MappedFile.words(of: path, limit: 2), words.count == 2 else { return nil }
        return words
    }
}

@Suite struct UsageKillTests {
    /// 4 x 55 kills. Now and then two lives follow each other before anyone looks, so that a recovery is killed as well.
    @Test("killed at any instruction, no charge is lost and none is doubled", arguments: 0..<4 as Range<UInt64>)
    func kills(seed: UInt64) throws {
        let folder = try LedgerFolder()
        var steps: [UInt64] = []
        var checked = 0
        for run in 0..<55 as Range<UInt64> {
            steps.append(try LedgerDriver.runAndKill(folder, seed: seed, run: run))
            guard run % 3 != 1 else { continue }
            let ledger = try UsageLedger(directory: folder.path, now: 1_700_000_000_000)
            #expect(ledger.warnings.isEmpty, "run \(run): \(ledger.warnings)")
            while checked < steps.count {
                let count = steps[checked]
                let found = Expected(try ledger.usage(UsageQuery(tenant: Name("t\(checked)"), by: .function)))
                // The step after the last acknowledged one may have been taken.
                let allowed = (count...count + 1).map { Expected(seed: seed, run: UInt64(checked), steps: $0) }
                #expect(allowed.contains(found), "seed \(seed), run \(checked), \(count) steps: \(found)")
                checked += 1
            }
        }
        // And at the end once more, all of them: what was right stays right.
        let ledger = try UsageLedger(directory: folder.path, now: 1_700_000_000_000)
        var total: UInt64 = 0
        for (run, count) in steps.enumerated() {
            let found = Expected(try ledger.usage(UsageQuery(tenant: Name("t\(run)"), by: .function)))
            #expect((count...count + 1).contains { Expected(seed: seed, run: UInt64(run), steps: $0) == found })
            total += count
        }
        print("usage ledger: \(steps.count) kills, \(total) acknowledged records, seed \(seed)")
        #expect(total > 1000)
    }
}
