// SPDX-License-Identifier: Apache-2.0
import AsyncHTTPClient
import Core
import Foundation
import Logging
import NIOCore
import NIOHTTP1
import Supervision
import Synchronization

/// Sends ended invocations to a collector as spans: OTLP/HTTP with JSON (opentelemetry-proto, docs/specification.md, "JSON Protobuf Encoding").
///
/// The supervisor's loop only appends to a bounded queue; what does not fit is dropped and counted. Everything else happens in a task of its own.
final class TraceExporter: Sendable {
    /// Ended invocations that wait at most; up to four spans each.
    static let capacity = 4096
    /// The most of them in one request.
    static let batch = 512
    static let interval = Duration.milliseconds(500)
    /// Tries of one batch, and what is waited before the second; twice as long before each further one.
    static let tries = 4
    static let pause = Duration.seconds(1)
    static let timeout = TimeAmount.seconds(5)

    struct Item: Sendable {
        var trace: InvocationTrace
        /// Nanoseconds since 1970.
        var endedAt: UInt64
    }
    private struct State {
        var waiting: [Item] = []
        var sent: UInt64 = 0
        var dropped: UInt64 = 0
        var isFailing = false
    }
    private let state = Mutex(State())
    private let url: String
    private let logger: Logger
    private let client = HTTPClient(
        eventLoopGroupProvider: .singleton, configuration: HTTPClient.Configuration(redirectConfiguration: .disallow))

    /// - Parameter endpoint: the collector's address; without a path, `/v1/traces` is added.
    init(endpoint: String, logger: Logger) {
        let path = URL(string: endpoint)?.path ?? ""
        url = path.isEmpty || path == "/" ? (endpoint.hasSuffix("/") ? String(endpoint.dropLast()) : endpoint) + "/v1/traces" : endpoint
        self.logger = logger
    }

    /// Spans that were sent, and those that were dropped because the queue was full or the collector did not take them.
    var counts: (sent: UInt64, dropped: UInt64) { state.withLock { ($0.sent, $0.dropped) } }

    /// Takes a trace in; never waits. On the supervisor's loop.
    func add(_ trace: InvocationTrace) {
        let now = Self.now()
        state.withLock { state in
            guard state.waiting.count < Self.capacity else {
                state.dropped += UInt64(Self.spanCount(trace))
                return
            }
            state.waiting.append(Item(trace: trace, endedAt: now))
        }
    }

    private static func now() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec)) * 1_000_000_000 + UInt64(max(0, time.tv_nsec))
    }

    /// Until it is cancelled.
    func run() async {
        while !Task.isCancelled {
            let items = take()
            if items.isEmpty { try? await Task.sleep(for: Self.interval) } else { await send(items, tries: Self.tries) }
        }
    }

    /// Tries once to send what waits: at the end.
    func flush() async {
        while true {
            let items = take()
            guard !items.isEmpty, await send(items, tries: 1) else { break }
        }
        try? await client.shutdown()
    }

    private func take() -> [Item] {
        state.withLock { state in
            let items = Array(state.waiting.prefix(Self.batch))
            state.waiting.removeFirst(items.count)
            return items
        }
    }

    @discardableResult private func send(_ items: [Item], tries: Int) async -> Bool {
        let count = UInt64(items.reduce(0) { $0 + Self.spanCount($1.trace) })
        var pause = Self.pause
        var reason = ""
        for number in 1...tries {
            if number > 1 {
                try? await Task.sleep(for: pause)
                pause *= 2
            }
            let answer = await post(items)
            if answer.isDone {
                state.withLock { state in
                    state.sent += count
                    state.isFailing = false
                }
                return true
            }
            reason = answer.reason
            if !answer.isWorthAnotherTry || Task.isCancelled { break }
        }
        let isNews = state.withLock { state in
            state.dropped += count
            defer { state.isFailing = true }
            return !state.isFailing
        }
        // Once, until it works again.
        if isNews { logger.warning("the collector does not take traces", metadata: ["endpoint": "\(url)", "reason": "\(reason)"]) }
        return false
    }

    private func post(_ items: [Item]) async -> (isDone: Bool, isWorthAnotherTry: Bool, reason: String) {
        var request = HTTPClientRequest(url: url)
        request.method = .POST
        request.headers = HTTPHeaders([("Content-Type", "application/json"), ("User-Agent", "bulkhead/\(Daemon.version)")])
        do {
            request.body = .bytes(ByteBuffer(bytes: try OTLP.encode(items)))
            let response = try await client.execute(request, timeout: Self.timeout)
            _ = try? await response.body.collect(upTo: 64 << 10)
            let status = Int(response.status.code)
            // opentelemetry-proto, docs/specification.md, "OTLP/HTTP Response": these are tried again, others are not.
            return ((200..<300).contains(status), [429, 502, 503, 504].contains(status), "HTTP status \(status)")
        } catch { return (false, true, "\(error)") }
    }

    private static func spanCount(_ trace: InvocationTrace) -> Int {
        (trace.startingAfter != nil && trace.dispatchedAfter != nil ? 2 : 1) + (trace.dispatchedAfter == nil ? 0 : 2)
    }
}

/// Spans as OTLP's JSON: ids in hexadecimal, 64-bit numbers as texts, enumerations as numbers.
enum OTLP {
    struct Value: Encodable {
        var stringValue: String?
        var intValue: String?
        var boolValue: Bool?
    }
    struct Attribute: Encodable {
        var key: String
        var value: Value
        init(_ key: String, _ text: String) { (self.key, value) = (key, Value(stringValue: text)) }
        init(_ key: String, number: UInt64) { (self.key, value) = (key, Value(intValue: "\(number)")) }
        init(_ key: String, _ flag: Bool) { (self.key, value) = (key, Value(boolValue: flag)) }
    }
    struct Status: Encodable {
        /// 0 unset, 2 error.
        var code: Int
        var message: String?
    }
    struct Span: Encodable {
        var traceId: String
        var spanId: String
        var parentSpanId: String?
        var name: String
        /// 1 internal, 2 server, 5 consumer.
        var kind: Int
        var startTimeUnixNano: String
        var endTimeUnixNano: String
        var attributes: [Attribute]
        var status: Status
    }
    private struct Scope: Encodable {
        var name: String
        var version: String
    }
    private struct ScopeSpans: Encodable {
        var scope: Scope
        var spans: [Span]
    }
    private struct Resource: Encodable { var attributes: [Attribute] }
    private struct ResourceSpans: Encodable {
        var resource: Resource
        var scopeSpans: [ScopeSpans]
    }
    private struct Request: Encodable { var resourceSpans: [ResourceSpans] }

    static func encode(_ items: [TraceExporter.Item]) throws -> [UInt8] {
        let resource = Resource(attributes: [
            Attribute("service.name", "bulkhead"), Attribute("service.version", Daemon.version),
            Attribute("host.name", ProcessInfo.processInfo.hostName),
        ])
        let scope = ScopeSpans(scope: Scope(name: "bulkhead", version: Daemon.version), spans: items.flatMap(spans))
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(Request(resourceSpans: [ResourceSpans(resource: resource, scopeSpans: [scope])])))
    }

    /// The invocation, and what it is made of: the wait in the queue, the wait for a worker's start, and the run.
    static func spans(_ item: TraceExporter.Item) -> [Span] {
        let trace = item.trace
        let began = item.endedAt - min(item.endedAt, trace.endedAfter)
        func span(_ name: String, _ from: Nanoseconds, _ to: Nanoseconds) -> Span {
            Span(
                traceId: TraceContext.text(trace.context.high) + TraceContext.text(trace.context.low),
                spanId: TraceContext.text(UInt64.random(in: 1...UInt64.max)), parentSpanId: TraceContext.text(trace.context.span),
                name: name, kind: 1, startTimeUnixNano: "\(began + from)", endTimeUnixNano: "\(began + max(from, to))", attributes: [],
                status: Status(code: 0))
        }
        var whole = span("\(trace.version.function)", 0, trace.endedAfter)
        whole.spanId = TraceContext.text(trace.context.span)
        whole.parentSpanId = trace.context.parent == 0 ? nil : TraceContext.text(trace.context.parent)
        whole.kind = trace.trigger == "http" || trace.trigger == "call" ? 2 : 5
        whole.attributes = attributes(trace)
        if trace.outcome != .ok { whole.status = Status(code: 2, message: trace.outcome.rawValue) }
        guard let dispatched = trace.dispatchedAfter else { return [whole] }
        let starting = trace.startingAfter.map { min($0, dispatched) }
        var spans = [whole, span("queue", 0, starting ?? dispatched)]
        if let starting { spans.append(span("start", starting, dispatched)) }
        return spans + [span("run", dispatched, trace.endedAfter)]
    }

    /// OpenTelemetry's names (semantic conventions, "FaaS") where there is one.
    private static func attributes(_ trace: InvocationTrace) -> [Attribute] {
        var found = [
            Attribute("faas.name", trace.version.function.description), Attribute("faas.version", "\(trace.version.number)"),
            Attribute("faas.invocation_id", trace.id.description), Attribute("bulkhead.tenant", trace.version.function.tenant.text),
            Attribute("bulkhead.trigger", trace.trigger), Attribute("bulkhead.outcome", trace.outcome.rawValue),
            Attribute("bulkhead.attempt", number: UInt64(trace.attempt)),
        ]
        if let start = trace.start {
            found.append(Attribute("faas.coldstart", start == .cold))
            found.append(Attribute("bulkhead.start", start.rawValue))
        }
        if let worker = trace.worker { found.append(Attribute("bulkhead.worker", worker.description)) }
        return found
    }
}
