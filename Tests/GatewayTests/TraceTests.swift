// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Logging
import Testing

@testable import Supervision
@testable import bulkheadd

/// Places in traces, and what becomes of traces that nobody takes.
@Suite struct TraceTests {
    private static let trace = "4bf92f3577b34da6a3ce929d0e0e4736", parent = "00f067aa0ba902b7"

    private func ended(_ outcome: Outcome = .ok, start: StartKind? = .cold, parent: UInt64 = 7) throws -> InvocationTrace {
        var context = TraceContext(high: 0xab, low: 0xcd, span: 0xef)
        context.parent = parent
        let version = VersionID(
            function: FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("f"))), number: 3)
        return InvocationTrace(
            context: context, id: InvocationID(milliseconds: 1, random: (1, 2)), version: version, trigger: "http", outcome: outcome,
            start: start, worker: nil, attempt: 1, startingAfter: start == .cold ? 2_000 : nil, dispatchedAfter: start == nil ? nil : 5_000,
            endedAfter: 9_000)
    }

    @Test("a traceparent is read as the standard writes it, and handed on with the invocation's own span")
    func context() throws {
        let read = try #require(TraceContext(traceparent: "00-\(Self.trace)-\(Self.parent)-01", span: 0x1234))
        #expect(read.isSampled && read.parent == 0x00f0_67aa_0ba9_02b7)
        #expect(read.traceparent == "00-\(Self.trace)-0000000000001234-01")
        #expect(TraceContext(traceparent: "00-\(Self.trace)-\(Self.parent)-00", span: 1)?.isSampled == false)
        #expect(TraceContext(traceparent: "00-\(Self.trace)-\(Self.parent)-03", span: 1)?.traceparent.hasSuffix("-01") == true)
        // A later version may say more.
        #expect(TraceContext(traceparent: "cc-\(Self.trace)-\(Self.parent)-01-more", span: 1) != nil)
    }

    @Test(
        "what is no traceparent is none",
        arguments: [
            "", "00", "00-\(trace)-\(parent)", "00-\(trace)-\(parent)-01-more", "00-\(trace)-\(parent)-01x", "ff-\(trace)-\(parent)-01",
            "00-00000000000000000000000000000000-\(parent)-01", "00-\(trace)-0000000000000000-01", "00-\(trace.uppercased())-\(parent)-01",
            "00-\(trace)_\(parent)-01", "0x-\(trace)-\(parent)-01", "00-\(trace)-\(parent)-0g", "cc-\(trace)-\(parent)-01more",
        ])
    func none(text: String) { #expect(TraceContext(traceparent: text, span: 1) == nil) }

    @Test("an invocation is a span with its parts, which fill it without a gap")
    func spans() throws {
        let spans = OTLP.spans(TraceExporter.Item(trace: try ended(), endedAt: 1_000_000_000_000_000_000))
        #expect(spans.map(\.name) == ["acme/f", "queue", "start", "run"])
        #expect(Set(spans.map(\.traceId)) == ["00000000000000ab00000000000000cd"])
        #expect(spans[0].spanId == "00000000000000ef" && spans[0].parentSpanId == "0000000000000007")
        #expect(spans.dropFirst().allSatisfy { $0.parentSpanId == spans[0].spanId })
        #expect(spans[0].startTimeUnixNano == "999999999999991000" && spans[0].endTimeUnixNano == "1000000000000000000")
        #expect(spans[1].startTimeUnixNano == spans[0].startTimeUnixNano && spans[3].endTimeUnixNano == spans[0].endTimeUnixNano)
        #expect(zip(spans[1...], spans[2...]).allSatisfy { $0.endTimeUnixNano == $1.startTimeUnixNano })
        let warm = OTLP.spans(TraceExporter.Item(trace: try ended(start: .warm, parent: 0), endedAt: 1 << 60))
        #expect(warm.map(\.name) == ["acme/f", "queue", "run"] && warm[0].parentSpanId == nil && warm[0].status.code == 0)
        let refused = OTLP.spans(TraceExporter.Item(trace: try ended(.throttled, start: nil), endedAt: 1 << 60))
        #expect(refused.map(\.name) == ["acme/f"] && refused[0].status.code == 2 && refused[0].status.message == "throttled")
    }

    @Test("what is more than the queue holds is dropped and counted, and so is what a collector that is not there does not take")
    func bounded() async throws {
        // Port 9 (discard) is closed on any machine that runs tests.
        let exporter = TraceExporter(endpoint: "http://127.0.0.1:9", logger: TestNode.quiet)
        let one = try ended()
        for _ in 0..<(TraceExporter.capacity + 10) { exporter.add(one) }
        #expect(exporter.counts == (0, 40))
        await exporter.flush()
        // One batch was tried, and after its failure the rest was left.
        #expect(exporter.counts == (0, 40 + UInt64(TraceExporter.batch) * 4))
    }
}
