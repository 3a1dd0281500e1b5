// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Testing

@testable import Store

/// A generator whose run can be repeated from its seed (SplitMix64).
struct Seeded: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
    mutating func chance(_ one: Int) -> Bool { below(one) == 0 }
}

/// A folder for one store; in memory where the test is not about the disk, for then a flush costs nothing.
final class EventFolder {
    let path: String
    init(inMemory: Bool = true) throws {
        let top = inMemory && FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
        path = top + "events-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
    func open(at now: UInt64 = EventFixture.base) throws -> EventStore { try EventStore(directory: path, now: now) }
    var payloads: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path + "/payloads")) ?? []).sorted() }
}

enum EventFixture {
    static let base: UInt64 = 1_700_000_000_000
    static let tenants = ["acme", "beta", "gamma", "delta"].compactMap { Name($0) }
    static let functions = ["resize", "mail"].compactMap { Name($0) }

    static func id(_ number: Int, at time: UInt64 = base) -> InvocationID { InvocationID(milliseconds: time, random: (7, UInt64(number))) }

    static func draft(_ number: Int, tenant: Name? = nil, at time: UInt64 = base, payload: [UInt8] = [1, 2, 3]) -> EventDraft {
        EventDraft(
            id: id(number, at: time), function: FunctionID(tenant: tenant ?? tenants[0], function: functions[0]), payload: payload,
            createdAt: time)
    }
}

/// The same calls, but waiting: for tests.
extension EventStore {
    @discardableResult func add(_ draft: EventDraft) throws -> EventReceipt { try wait { enqueue(draft, completion: $0) } }
    func take(_ limit: Int = 100, _ permission: ClaimPermission = .init(), at now: UInt64 = EventFixture.base) throws -> EventClaim {
        try wait { claim(limit: limit, permission, at: now, completion: $0) }
    }
    @discardableResult func end(_ id: InvocationID, _ token: UInt64, _ how: EventSettlement, at now: UInt64 = EventFixture.base) throws
        -> Bool
    {
        try wait { settle(id, token: token, how, at: now, completion: $0) }
    }
    @discardableResult func sweepAll(at now: UInt64) throws -> Int {
        var count = 0
        while true {
            let found = try wait { sweep(limit: 50, at: now, completion: $0) }
            count += found.count
            if found.count < 50 { return count }
        }
    }
    func all(_ query: EventQuery = EventQuery(limit: 7)) throws -> [EventRecord] {
        var query = query
        var found: [EventRecord] = []
        while true {
            let page = try list(query)
            found += page.events
            guard let next = page.next else { return found }
            query.after = EventCursor(next.description)
        }
    }
}
