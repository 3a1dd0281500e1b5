// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOCore
import NIOHTTP1
import Store
import Supervision

/// `/v1/tenants/T/functions/F[@V]/invocations`, with `?version=` or `?alias=`.
struct InvokeTarget {
    let function: FunctionID
    let version: UInt32?
    let alias: String?

    /// Nil for any other path.
    init?(_ path: RequestPath) {
        let parts = path.parts
        guard parts.count == 6, parts[0] == "v1", parts[1] == "tenants", parts[3] == "functions", parts[5] == "invocations" else {
            return nil
        }
        let words = parts[4].split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false)
        guard let tenant = Name(parts[2]), let function = Name(words[0]) else { return nil }
        self.function = FunctionID(tenant: tenant, function: function)
        if words.count == 2 {
            guard let number = UInt32(words[1]) else { return nil }
            version = number
        } else if let text = path.query["version"] {
            guard let number = UInt32(text) else { return nil }
            version = number
        } else {
            version = nil
        }
        alias = path.query["alias"]
    }

    /// The function's `latest`.
    init(function: FunctionID) {
        self.function = function
        version = nil
        alias = nil
    }

    /// What an event is for: a version's number or an alias.
    var eventTarget: String { version.map { "\($0)" } ?? alias ?? "latest" }
}

enum InvokeRoute {
    /// What the headers ask for.
    static func order(_ headers: HTTPHeaders, _ body: ByteBuffer, _ version: VersionID) -> Result<InvocationOrder, Problem> {
        var order = InvocationOrder(version: version, body: body)
        order.contentType = headers.first(name: "content-type") ?? ""
        order.traceparent = headers.first(name: "traceparent") ?? ""
        order.wantsLog = headers.first(name: "bulkhead-log")?.lowercased() == "tail"
        guard order.contentType.utf8.count <= 256, order.traceparent.utf8.count <= 256 else {
            return .failure(.badRequest("a header is longer than 256 bytes"))
        }
        if let text = headers.first(name: "bulkhead-timeout") {
            guard let milliseconds = milliseconds(text) else {
                return .failure(.badRequest("Bulkhead-Timeout must be written as 500ms or 2s"))
            }
            order.timeout = .milliseconds(milliseconds)
        }
        switch headers.first(name: "bulkhead-invocation-type")?.lowercased() ?? "sync" {
        case "sync", "dry-run": return .success(order)
        case "async": return .failure(.badRequest("this way in is for callers that wait: use the function's invocations"))
        default: return .failure(.badRequest("Bulkhead-Invocation-Type must be sync, async or dry-run"))
        }
    }

    static func isAsynchronous(_ headers: HTTPHeaders) -> Bool {
        headers.first(name: "bulkhead-invocation-type")?.lowercased() == "async"
    }

    /// The longest that the start of an event may be put off.
    static let longestDelay: UInt64 = 7 * 86_400_000

    /// What the headers of an asynchronous call ask for.
    static func event(
        _ headers: HTTPHeaders, _ body: ByteBuffer, _ function: FunctionID, target: String = "latest"
    ) -> Result<EventOrder, Problem> {
        var order = EventOrder(function: function, payload: Array(body.readableBytesView))
        order.target = target
        order.contentType = headers.first(name: "content-type") ?? ""
        // One that is no place in a trace would begin one of its own; it is not worth a refusal, nor so many bytes on the disk.
        order.traceparent = headers.first(name: "traceparent").flatMap { $0.utf8.count <= 256 ? $0 : nil } ?? ""
        order.key = headers.first(name: "idempotency-key")
        if let key = order.key, key.isEmpty || key.utf8.count > EventDraft.keyLimit {
            return .failure(.badRequest("Idempotency-Key must have 1 to \(EventDraft.keyLimit) bytes"))
        }
        if headers.first(name: "bulkhead-timeout") != nil {
            return .failure(.badRequest("Bulkhead-Timeout is for callers that wait: an event has its function's timeout"))
        }
        if let text = headers.first(name: "bulkhead-delay") {
            guard let delay = milliseconds(text, upTo: longestDelay) else {
                return .failure(.badRequest("Bulkhead-Delay must be written as 500ms or 30s, at most 7 days"))
            }
            order.delayMs = delay
        }
        return .success(order)
    }

    /// The answer to an event that was taken in.
    static func accepted(_ receipt: EventReceipt) -> (status: Int, headers: [(String, String)], body: ByteBuffer) {
        var headers = [("Content-Type", "application/json"), ("Bulkhead-Invocation-Id", receipt.id.description)]
        if receipt.isDuplicate { headers.append(("Bulkhead-Duplicate", "true")) }
        return (202, headers, ByteBuffer(string: "{\"id\":\"\(receipt.id)\"\(receipt.isDuplicate ? ",\"duplicate\":true" : "")}"))
    }

    /// What a function may answer with. Below are interim answers, which end nothing; above is nothing (RFC 9110, section 15).
    static let statuses = 200...599

    static func illegal(_ status: Int, _ report: InvocationReport) -> Problem {
        var problem = Problem(
            code: Outcome.functionError.rawValue, title: "The function failed", status: 500,
            detail: "\(report.version.function) answered with status \(status), which ends no request: it must be from 200 to 599")
        problem.invocation = report.id.description
        problem.errorType = "IllegalStatus"
        return problem
    }

    private static func milliseconds(_ text: String, upTo most: UInt64 = 86_400_000) -> UInt64? {
        // What UInt64 would read as a number and is none: a sign.
        guard text.utf8.first != 0x2B else { return nil }
        if text.hasSuffix("ms") { return UInt64(text.dropLast(2)).flatMap { $0 > 0 && $0 <= most ? $0 : nil } }
        guard text.hasSuffix("s"), let seconds = UInt64(text.dropLast()), seconds > 0, seconds <= most / 1000 else { return nil }
        return seconds * 1000
    }

    /// An answer that its route's shape cannot be made of. The function ran and answered, so it is its error.
    static func malformed(_ fault: String, _ report: InvocationReport) -> Problem {
        var problem = Problem(
            code: Outcome.functionError.rawValue, title: "The function failed", status: 500,
            detail: "the answer of \(report.version.function) does not fit its route's shape: \(fault)")
        problem.invocation = report.id.description
        problem.errorType = "MalformedAnswer"
        return problem
    }

    /// What every answer says of the run. `isPublic`: the caller is anybody, and is told nothing but the id.
    static func metadata(_ report: InvocationReport, isPublic: Bool = false) -> [(String, String)] {
        if isPublic { return [("Bulkhead-Invocation-Id", report.id.description)] }
        var headers: [(String, String)] = []
        headers.reserveCapacity(8)
        headers.append(("Bulkhead-Invocation-Id", report.id.description))
        headers.append(("Bulkhead-Version", String(report.version.number)))
        if let worker = report.worker { headers.append(("Bulkhead-Worker", worker.description)) }
        if let start = report.start { headers.append(("Bulkhead-Start", start.rawValue)) }
        headers.append(("Bulkhead-Duration", "\(report.duration / 1000)us"))
        headers.append(("Bulkhead-Billed", "\((report.billed + 999_999) / 1_000_000)ms"))
        if !report.logTail.isEmpty {
            // A header holds one line of visible characters.
            let text = report.logTail.joined(separator: "\\n").unicodeScalars.map { (0x20...0x7E).contains($0.value) ? Character($0) : "?" }
            headers.append(("Bulkhead-Log", String(text.suffix(4096))))
        }
        return headers
    }

    /// Headers that only the gateway sets.
    private static let reserved: Set<String> = [
        "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer",
    ]

    /// The function's own headers; what could break the connection's framing is left out.
    static func headers(_ answer: FunctionAnswer) -> [(String, String)] {
        var headers: [(String, String)] = []
        add(answer, to: &headers)
        return headers
    }
    static func add(_ answer: FunctionAnswer, to headers: inout [(String, String)]) {
        if !answer.contentType.isEmpty, isValue(answer.contentType) { headers.append(("Content-Type", answer.contentType)) }
        for line in answer.headers.prefix(64) {
            guard let colon = line.firstIndex(of: ":") else { continue }
            let name = line[..<colon]
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            let lower = name.lowercased()
            guard !name.isEmpty, name.utf8.allSatisfy(isToken), isValue(value), !reserved.contains(lower), !lower.hasPrefix("bulkhead-")
            else { continue }
            headers.append((String(name), String(value)))
        }
    }

    private static func isToken(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x2D || byte == 0x5F
    }
    private static func isValue(_ text: some StringProtocol) -> Bool {
        text.utf8.count <= 8192 && text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }
    }
}
