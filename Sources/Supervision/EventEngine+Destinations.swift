// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Logging
import NIOCore
import Store

/// Where the outcomes of one event go, as it was when the event was accepted.
struct EventDestinations: Codable, Hashable {
    var onSuccess: Destination?
    var onFailure: Destination?
    /// Functions with a trigger on this outcome.
    var followers: [Follower]?

    struct Follower: Codable, Hashable {
        var function: Name
        var trigger: Name
        var onSuccess: Bool
        var onFailure: Bool
    }

    init(_ spec: AsyncSpec, followers: [Follower]) {
        onSuccess = spec.onSuccess
        onFailure = spec.onFailure
        self.followers = followers.isEmpty ? nil : followers
    }

    /// Empty where there is none.
    var encoded: [UInt8] {
        guard onSuccess != nil || onFailure != nil || followers != nil, let data = try? JSONEncoder().encode(self) else { return [] }
        return Array(data)
    }

    init?(encoded: [UInt8]) {
        guard let found = try? JSONDecoder().decode(Self.self, from: Data(encoded)) else { return nil }
        self = found
    }
}

/// How a function's last run ended, as it is kept for the destination.
struct StoredResult: Codable, Hashable {
    var outcome = ""
    var contentType = ""
    var body = Data()
    var isCut = false
    var errorType = ""
    var errorMessage = ""
    var encoded: [UInt8] { (try? JSONEncoder().encode(self)).map { Array($0) } ?? [] }
}

/// An outcome on its way to a webhook or into a bucket.
public struct Delivery: Sendable {
    public let event: InvocationID
    public let function: FunctionID
    public let destination: Destination
    /// What led to the event.
    public let cause: Lineage?
    /// `application/json`.
    public let body: [UInt8]
}

public enum DeliveryResult: Sendable {
    case delivered
    /// Try again later.
    case failed(String)
    /// Trying again does not help.
    case impossible(String)
}

/// When a destination's record is tried again.
struct DestinationTry: Sendable {
    var function: FunctionID
    var tries: UInt32 = 0
    var isUnderWay = false
    /// Milliseconds since 1970.
    var notBefore: UInt64 = 0
}

extension EventEngine {
    /// A destination that does not take a record for so long is given up, and an alarm says so.
    static let longestDelivery: UInt64 = 24 * 3_600_000
    static let reads = DispatchQueue(label: "bulkhead.event-reads")
    /// Of what may take seconds.
    static let counting = DispatchQueue(label: "bulkhead.event-count")

    var isDelivering: Bool { isLookingForDestinations || delivering.values.contains { $0.isUnderWay } }

    /// Looks for records that wait and sends them off.
    func lookForDestinations() {
        guard !isStopping, !isPaused, store.failure == nil else { return }
        guard !isLookingForDestinations else {
            mayBeMoreDestinations = true
            return
        }
        let room = DestinationRoom(delivering, at: wall())
        isShortOfPlaces = room.isFull
        guard !room.isFull else { return }
        isLookingForDestinations = true
        mayBeMoreDestinations = false
        let box = bound(self)
        let (loop, store) = (loop, store)
        Self.reads.async {
            let (found, isShort) = FoundOutcome.look(store, room)
            loop.execute { box.value.looked(found, isShort) }
        }
    }

    private func looked(_ found: [FoundOutcome], _ isShort: Bool) {
        isShortOfPlaces = isShort
        // Where a pause came meanwhile they are found again after it.
        if !isStopping, !isPaused {
            // All of them before the first is sent, which may end at once and begin a new look.
            for one in found {
                delivering[one.record.number, default: DestinationTry(function: one.record.function)].isUnderWay = true
            }
            for one in found { send(one) }
        }
        isLookingForDestinations = false
        if mayBeMoreDestinations { lookForDestinations() }
    }

    /// A look that is under way has not seen the place.
    private func placeIsFree() { if isShortOfPlaces || isLookingForDestinations { lookForDestinations() } }

    private func send(_ one: FoundOutcome) {
        let record = one.record
        let isDone = record.state == .done
        guard let wanted = EventDestinations(encoded: record.destination), record.state != .stopped else { return complete(record, nil) }
        let followers = (wanted.followers ?? []).filter { isDone ? $0.onSuccess : $0.onFailure }
        let destination = isDone ? wanted.onSuccess : wanted.onFailure
        guard !followers.isEmpty else { return send(one, to: destination) }
        var left = followers.count
        var refusal: String?
        for follower in followers {
            var order = EventOrder(function: FunctionID(tenant: record.function.tenant, function: follower.function), payload: one.body)
            order.contentType = "application/json"
            order.trigger = follower.trigger
            order.cause = one.cause
            order.traceparent = one.traceparent
            // The record may be sent again after a crash: the key makes it one event.
            order.key = "outcome:\(record.event):\(follower.trigger)"
            accept(order) { [weak self] acceptance in
                left -= 1
                if case .refused(_, let sentence, _) = acceptance { refusal = sentence }
                guard left == 0 else { return }
                if let refusal { self?.postpone(record, refusal) } else { self?.send(one, to: destination) }
            }
        }
    }

    private func send(_ one: FoundOutcome, to destination: Destination?) {
        let record = one.record
        guard let destination else { return complete(record, nil) }
        if case .function(let name) = destination {
            var order = EventOrder(function: FunctionID(tenant: record.function.tenant, function: name), payload: one.body)
            order.contentType = "application/json"
            order.cause = one.cause
            order.traceparent = one.traceparent
            var refusal: String?
            guard let draft = draft(order, { if case .refused(_, let sentence, _) = $0 { refusal = sentence } }) else {
                return postpone(record, refusal ?? "refused")
            }
            return complete(record, draft)
        }
        guard let deliver else { return postpone(record, "this node delivers nothing") }
        let box = bound(self)
        let loop = loop
        let delivery = Delivery(
            event: record.event, function: record.function, destination: destination, cause: one.cause, body: one.body)
        deliver(delivery) { result in loop.execute { box.value.sent(record, result) } }
    }

    private func sent(_ record: DestinationRecord, _ result: DeliveryResult) {
        switch result {
        case .delivered:
            count("destinations.delivered")
            complete(record, nil)
        case .failed(let reason): postpone(record, reason)
        case .impossible(let reason): giveUp(record, reason)
        }
    }

    /// Forgets the record, together with storing the event that delivers it.
    private func complete(_ record: DestinationRecord, _ draft: EventDraft?) {
        let box = bound(self)
        let loop = loop
        store.complete(destination: record.number, with: draft) { result in
            loop.execute {
                // It took its place in quarantine when it was judged.
                let isStored = (try? result.get()) == true
                if let draft, draft.parked != nil, !isStored { box.value.unparked(draft, .refused(.internal, "", nil)) }
                switch result {
                case .success:
                    box.value.delivering[record.number] = nil
                    box.value.placeIsFree()
                    if draft != nil { box.value.pump() }
                case .failure(let error): box.value.postpone(record, error.description)
                }
            }
        }
    }

    private func postpone(_ record: DestinationRecord, _ reason: String) {
        let wall = wall()
        if wall > record.at + Self.longestDelivery { return giveUp(record, reason) }
        var one = delivering[record.number] ?? DestinationTry(function: record.function)
        one.tries = min(one.tries + 1, 20)
        one.isUnderWay = false
        // 1 s, 2 s ... 5 min, spread over its upper half.
        let doublings = UInt64(min(one.tries - 1, 9))
        let half: UInt64 = min(300_000, 1_000 << doublings) / 2
        one.notBefore = wall + half + UInt64.random(in: 0...half)
        delivering[record.number] = one
        count("destinations.failed")
        logger.notice(
            "a destination did not take an outcome: it is tried again",
            metadata: ["event": "\(record.event)", "function": "\(record.function)", "reason": "\(reason)", "tries": "\(one.tries)"])
        placeIsFree()
    }

    private func giveUp(_ record: DestinationRecord, _ reason: String) {
        count("destinations.givenUp")
        tellBadEnd(.givenUp, record.function, "the outcome of \(record.event) of \(record.function) could not be delivered: \(reason)")
        complete(record, nil)
    }
}

/// A value of a JSON document.
public indirect enum JSONPart: Codable, Hashable, Sendable {
    case null, flag(Bool), number(Int), real(Double), text(String), list([JSONPart]), object([String: JSONPart])

    /// JSON as it is, other text as text, other bytes in base64.
    public init(_ bytes: [UInt8]) {
        if bytes.isEmpty {
            self = .null
        } else if let found = try? JSONDecoder().decode(JSONPart.self, from: Data(bytes)) {
            self = found
        } else if let text = String(validating: bytes, as: UTF8.self) {
            self = .text(text)
        } else {
            self = .text(Data(bytes).base64EncodedString())
        }
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .flag(value)
        } else if let value = try? container.decode(Int.self) {
            self = .number(value)
        } else if let value = try? container.decode(Double.self) {
            self = .real(value)
        } else if let value = try? container.decode(String.self) {
            self = .text(value)
        } else if let value = try? container.decode([JSONPart].self) {
            self = .list(value)
        } else {
            self = .object(try container.decode([String: JSONPart].self))
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .flag(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .real(let value): try container.encode(value)
        case .text(let value): try container.encode(value)
        case .list(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}
