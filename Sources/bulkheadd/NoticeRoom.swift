// SPDX-License-Identifier: Apache-2.0
import Core

/// How many notices of alarms are on their way: each is a task, a request or a program, and a receiver that hangs holds its notices for a minute.
struct NoticeRoom {
    /// To the node's owner.
    static let mostOfNode = 256
    /// To one tenant: one that hangs keeps no other's from going out.
    static let mostOfTenant = 32
    /// To all tenants.
    static let mostOfTenants = 4_096
    /// The log says at most once in so many milliseconds that notices are not sent.
    static let silence: UInt64 = 10_000

    private var node = 0
    private var tenants: [Name: Int] = [:]
    private var ofTenants = 0
    private var lastWord: UInt64?
    /// Notices that found no room and were not sent, since the start.
    private(set) var dropped: UInt64 = 0

    var underWay: Int { node + ofTenants }

    /// - Parameters:
    ///   - tenant: whom it is for; nil for the node's owner.
    ///   - now: milliseconds.
    /// - Returns: whether it may go, and where not, whether that should be said.
    mutating func enter(_ tenant: Name?, at now: UInt64) -> (mayGo: Bool, isToBeSaid: Bool) {
        let isFull = tenant.map { tenants[$0] ?? 0 >= Self.mostOfTenant || ofTenants >= Self.mostOfTenants } ?? (node >= Self.mostOfNode)
        guard isFull else {
            if let tenant {
                tenants[tenant, default: 0] += 1
                ofTenants += 1
            } else {
                node += 1
            }
            return (true, false)
        }
        dropped += 1
        if let lastWord, now >= lastWord, now - lastWord < Self.silence { return (false, false) }
        lastWord = now
        return (false, true)
    }

    mutating func leave(_ tenant: Name?) {
        guard let tenant else { return node -= 1 }
        let left = (tenants[tenant] ?? 1) - 1
        tenants[tenant] = left > 0 ? left : nil
        ofTenants -= 1
    }
}
