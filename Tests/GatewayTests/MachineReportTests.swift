// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Kernel
import Logging
import Supervision
import Testing

@testable import bulkheadd

/// What is told of the machine: how full its disk is, and the node's own log in its journal.
@Suite struct MachineReportTests {
    private func space(_ percent: Double) -> DiskSpace { DiskSpace(freeBytes: UInt64(percent * 10), totalBytes: 1000) }

    @Test("a disk below a tenth is told once, and once more when an eighth is free")
    func rule() {
        var rule = DiskRule()
        let seen = [50, 10, 9.9, 5, 10, 12.4, 12.5, 50, 12, 9.9].map { rule.judge(space($0)) }
        #expect(seen == [nil, nil, true, nil, nil, nil, false, nil, nil, true])
    }

    @Test("what is left of a disk is what df says, without what is root's alone")
    func asked() throws {
        let space = try #require(DiskSpace.of("/var/tmp"))
        let df = Process()
        let out = Pipe()
        df.executableURL = URL(fileURLWithPath: "/usr/bin/df")
        df.arguments = ["--output=used,avail", "-B1", "/var/tmp"]
        df.standardOutput = out
        try df.run()
        let words = String(decoding: out.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self).split(whereSeparator: \.isWhitespace)
        df.waitUntilExit()
        let numbers = words.compactMap { Double($0) }
        try #require(numbers.count == 2)
        // Others write to this disk meanwhile.
        let near = Double(space.totalBytes) * 0.05
        #expect(abs(Double(space.freeBytes) - numbers[1]) < near && abs(Double(space.totalBytes) - (numbers[0] + numbers[1])) < near)
        #expect(DiskSpace.of("/nowhere/at/all") == nil)
        #expect(DiskSpace(freeBytes: 0, totalBytes: 0).freeRatio == 0)
    }

    @Test("its alarm is the node's, with the share, and has an end")
    func alarm() {
        let raised = Daemon.diskAlarm(DiskSpace(freeBytes: 9 << 20, totalBytes: 100 << 20), "/state", isRaised: true)
        let over = Daemon.diskAlarm(DiskSpace(freeBytes: 50 << 20, totalBytes: 100 << 20), "/state", isRaised: false)
        #expect(
            raised.kind == .disk && raised.tenant == nil && !raised.isRecovery && raised.text.contains("9 % (9 MiB) of the disk of /state"))
        #expect(over.isRecovery && over.subject == raised.subject)
    }

    @Test("the scrape has both figures, and none before the disk was looked at")
    func metrics() {
        var snapshot = MetricsSnapshot()
        #expect(!Metrics.text(snapshot, detailed: false).contains("bulkhead_disk"))
        snapshot.disk = DiskSpace(freeBytes: 250, totalBytes: 1000)
        let text = Metrics.text(snapshot, detailed: false)
        #expect(text.contains("\nbulkhead_disk_free_bytes 250\n") && text.contains("\nbulkhead_disk_free_ratio 0.25\n"))
    }

    @Test("a line of the log has a priority, its metadata in the message, and fields for who asks the journal")
    func journal() {
        let entry = JournalLog.entry(.error, "it was not started", ["invocation": "i-1", "function": "acme/f", "reason": "full"])
        #expect(entry.priority == 3 && entry.message == "it was not started: function=acme/f invocation=i-1 reason=full")
        #expect(
            entry.fields == [
                .init("SYSLOG_IDENTIFIER", "bulkheadd"), .init("FUNCTION", "acme/f"), .init("INVOCATION", "i-1"), .init("TENANT", "acme"),
            ])
        #expect(JournalLog.entry(.notice, "said", ["tenant": "acme", "function": "other/f"]).fields.contains(.init("TENANT", "acme")))
        let levels: [Logger.Level] = [.trace, .debug, .info, .notice, .warning, .error, .critical]
        #expect(levels.map { JournalLog.entry($0, "m", [:]).priority } == [7, 7, 6, 5, 4, 3, 2])
        #expect(JournalLog.entry(.info, "m", [:]).message == "m")
    }
}
