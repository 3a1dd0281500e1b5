// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import GRDB

/// What waits to be told to somebody. Blocks for the disk.
extension EventStore {
    /// Records that wait for their delivery, the oldest first.
    public func destinations(after number: Int64 = 0, limit: Int = 100) throws(StoreError) -> [DestinationRecord] {
        try read("the destinations") { database in
            let sql = "SELECT * FROM destinations WHERE number > ? ORDER BY number LIMIT ?"
            return try Row.fetchAll(database, sql: sql, arguments: [number, min(limit, Self.batchLimit)]).map(EventSchema.destination)
        }
    }

    /// The records with these numbers, as far as they still wait.
    public func destinations(_ numbers: [Int64]) throws(StoreError) -> [DestinationRecord] {
        try read("the destinations") { database in
            let statement = try database.cachedStatement(sql: "SELECT * FROM destinations WHERE number = ?")
            return try numbers.compactMap { try Row.fetchOne(statement, arguments: [$0]).map(EventSchema.destination) }
        }
    }

    /// The numbers of each function's oldest records, at most `most` of it. Looks at those entries of an index and at nothing else.
    public func waitingDestinations(_ most: (FunctionID) -> Int) throws(StoreError) -> [FunctionID: [Int64]] {
        try read("the destinations") { database in
            let next = try database.cachedStatement(
                sql: "SELECT tenant, function FROM destinations WHERE (tenant, function) > (?, ?) ORDER BY tenant, function LIMIT 1")
            let oldest = try database.cachedStatement(
                sql: "SELECT number FROM destinations WHERE tenant = ? AND function = ? ORDER BY number LIMIT ?")
            var found: [FunctionID: [Int64]] = [:]
            var (tenant, function) = ("", "")
            while let row = try Row.fetchOne(next, arguments: [tenant, function]) {
                (tenant, function) = (row[0], row[1])
                let owner = try EventSchema.function(tenant, function)
                found[owner] = try Int64.fetchAll(oldest, arguments: [tenant, function, most(owner)])
            }
            return found
        }
    }
}
