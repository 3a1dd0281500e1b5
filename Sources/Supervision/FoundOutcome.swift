// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store

/// Which records may be sent off: so many at a time, over all, of one tenant and of one function, so that those that hang or fail keep nobody else waiting.
struct DestinationRoom: Sendable {
    static let most = 256
    static let mostOfTenant = 64
    static let mostOfFunction = 32
    /// Records of one function that are tried in turn; those after them wait until one is delivered or given up.
    static let mostTried = 256

    private let tries: [Int64: DestinationTry]
    private let wall: UInt64
    private var left = Self.most
    private var byTenant: [Name: Int] = [:]
    private var byFunction: [FunctionID: Int] = [:]
    private var known: [FunctionID: Int] = [:]
    /// Whether a record that could go was left for want of a place.
    private(set) var isShort = false
    var isFull: Bool { left <= 0 }

    init(_ tries: [Int64: DestinationTry], at wall: UInt64) {
        self.tries = tries
        self.wall = wall
        for one in tries.values {
            known[one.function, default: 0] += 1
            if one.isUnderWay { add(one.function) }
        }
    }

    private mutating func add(_ function: FunctionID) {
        left -= 1
        byTenant[function.tenant, default: 0] += 1
        byFunction[function, default: 0] += 1
    }

    /// How many of a function's oldest records to look at: those that have been tried, and one more than there could be room for.
    func looks(_ function: FunctionID) -> Int { min((known[function] ?? 0) + Self.mostOfFunction + 1, Self.mostTried) }

    /// Takes a place for a record; false where it is under way, where its time has not come or where there is none.
    mutating func take(_ number: Int64, of function: FunctionID) -> Bool {
        if let one = tries[number], one.isUnderWay || one.notBefore > wall { return false }
        guard left > 0, byTenant[function.tenant] ?? 0 < Self.mostOfTenant, byFunction[function] ?? 0 < Self.mostOfFunction else {
            isShort = true
            return false
        }
        add(function)
        return true
    }
}

/// A destination's record with what is sent.
struct FoundOutcome: Sendable {
    let record: DestinationRecord
    /// What led to the event.
    let cause: Lineage?
    /// The event's place in a trace; empty for none.
    let traceparent: String
    /// `application/json`.
    let body: [UInt8]

    /// Records that may go, and whether others were left for want of a place. Blocks for the disk, and takes its time over large payloads: never on the loop.
    static func look(_ store: EventStore, _ room: DestinationRoom) -> ([FoundOutcome], isShort: Bool) {
        var room = room
        var numbers: [Int64] = []
        // In no order, so that no name is the first each time.
        for (function, oldest) in ((try? store.waitingDestinations(room.looks)) ?? [:]).shuffled() {
            numbers += oldest.filter { room.take($0, of: function) }
        }
        let found = ((try? store.destinations(numbers)) ?? []).map { record in
            let event = try? store.event(record.event, of: record.function.tenant)
            // Payloads ride along where they are small; a record is made in any case.
            let payload =
                (event?.payloadBytes ?? 0) <= AnswerCollector.limit ? try? store.payload(record.event, of: record.function.tenant) : nil
            return FoundOutcome(
                record: record, cause: event.flatMap { Lineage(encoded: $0.lineage) }, traceparent: event?.trace ?? "",
                body: body(record, event, (try? payload?.bytes()) ?? []))
        }
        return (found, room.isShort)
    }

    /// The record as AWS Lambda writes it: what was asked, what came of it, and how often it was tried.
    private static func body(_ record: DestinationRecord, _ event: EventRecord?, _ payload: [UInt8]) -> [UInt8] {
        let result = (try? JSONDecoder().decode(StoredResult.self, from: Data(record.result))) ?? StoredResult()
        let condition: String =
            switch record.state {
            case .done: "Success"
            case .expired,
                .dead where record.reason?.hasPrefix("\(RetryExhaustion.age)") == true:
                "EventAgeExceeded"
            default: "RetriesExhausted"
            }
        var context: [String: JSONPart] = [:]
        context["invocationId"] = JSONPart.text(record.event.description)
        context["function"] = JSONPart.text(record.function.description)
        context["target"] = JSONPart.text(event?.target ?? "")
        context["condition"] = JSONPart.text(condition)
        // Those that failed, and the one that ended well.
        context["attempts"] = JSONPart.number(Int(record.attempts) + (record.state == .done ? 1 : 0))
        if let reason = record.reason { context["reason"] = .text(reason) }
        var response: [String: JSONPart] = ["outcome": .text(result.outcome), "contentType": .text(result.contentType)]
        if !result.errorType.isEmpty {
            response["errorType"] = .text(result.errorType)
            response["errorMessage"] = .text(result.errorMessage)
        }
        if result.isCut { response["isCut"] = .flag(true) }
        let fields = [
            ("requestContext", EventEngine.json(context)), ("requestPayload", document(payload)),
            ("responseContext", EventEngine.json(response)), ("responsePayload", document(Array(result.body))),
            ("timestamp", Array("\(record.at)".utf8)), ("version", Array("\"1.0\"".utf8)),
        ]
        var whole = Array("{".utf8)
        for (name, value) in fields {
            whole += Array((whole.count > 1 ? ",\"\(name)\":" : "\"\(name)\":").utf8)
            whole += value
        }
        return whole + Array("}".utf8)
    }

    /// JSON byte for byte as it is, other text as text, other bytes in base64.
    static func document(_ bytes: [UInt8]) -> [UInt8] {
        if bytes.isEmpty { return Array("null".utf8) }
        let text = String(validating: bytes, as: UTF8.self)
        // With a zero or a byte order mark Foundation takes it for another encoding than the record's.
        let isPlain = text != nil && !bytes.contains(0) && !bytes.starts(with: [0xEF, 0xBB, 0xBF])
        if isPlain, (try? JSONSerialization.jsonObject(with: Data(bytes), options: .fragmentsAllowed)) != nil { return bytes }
        let encoder = JSONEncoder()
        encoder.outputFormatting = .withoutEscapingSlashes
        return (try? encoder.encode(text ?? Data(bytes).base64EncodedString())).map { Array($0) } ?? Array("null".utf8)
    }
}
