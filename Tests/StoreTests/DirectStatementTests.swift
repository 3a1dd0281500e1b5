// SPDX-License-Identifier: Apache-2.0
import Foundation
import GRDB
import Testing

@testable import Store

@Suite struct DirectStatementTests {
    private let queue: DatabaseQueue

    init() throws {
        queue = try DatabaseQueue()
        try queue.write {
            try $0.execute(sql: "CREATE TABLE things (number INTEGER PRIMARY KEY, text TEXT, bytes BLOB, other BLOB UNIQUE)")
        }
    }

    private func big(_ number: Int) -> [UInt8] { unsafe withUnsafeBytes(of: UInt64(number).bigEndian, Array.init) }

    @Test("values of all lengths are stored as they are, whether they fit into the space beside each other or not")
    func lengths() throws {
        let lengths = [0, 1, 3, 255, 500, 1007, 1008, 1009, 1023, 1024, 1025, 70_000]
        try queue.inDatabase { database in
            let insert = DirectStatement(database, "INSERT INTO things VALUES (NULL, ?, ?, ?)")
            let one = DirectStatement(database, "SELECT text, bytes, other FROM things WHERE number = ?")
            for (index, length) in lengths.enumerated() {
                for other in lengths {
                    let text = String(repeating: "ü\0x", count: length / 4) + String(repeating: "y", count: length % 4)
                    let bytes = (0..<other).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ index) }
                    let effect = try insert.run {
                        $0.add(text)
                        $0.add(bytes)
                        $0.add(high: UInt64(index), low: UInt64(other))
                    }
                    #expect(effect.rows == 1)
                    let found = try one.rows({ $0.add(effect.lastRow) }, { ($0.text(0), $0.bytes(1), $0.bytes(2)) })
                    #expect(found.count == 1 && found[0].0 == text && found[0].1 == bytes, "\(length) and \(other)")
                    #expect(
                        found.first?.2 == big(index) + big(other))
                    // As somebody else reads it, too.
                    let row = try #require(
                        try Row.fetchOne(
                            database, sql: "SELECT bytes, length(CAST(text AS BLOB)) FROM things WHERE number = ?",
                            arguments: [effect.lastRow]))
                    #expect(Array(row[0] as Data) == bytes && row[1] as Int == text.utf8.count)
                }
            }
        }
    }

    @Test("what is not given is NULL, whatever the run before gave")
    func absent() throws {
        try queue.inDatabase { database in
            let insert = DirectStatement(database, "INSERT INTO things VALUES (?, ?, ?, ?)")
            try insert.run {
                $0.add(1)
                $0.add("text")
                $0.add([7, 7] as [UInt8])
            }
            try insert.run {
                $0.add(nil as Int64?)
                $0.add(nil as String?)
            }
            let all = DirectStatement(database, "SELECT * FROM things ORDER BY number")
            let found = try all.rows({ _ in }, { ($0.integerIfAny(0), $0.text(1), $0.bytes(2), $0.integerIfAny(3)) })
            #expect(found.map(\.0) == [1, 2] && found.map(\.1) == ["text", nil] && found.map(\.2) == [[7, 7], nil])
            #expect(found.allSatisfy { $0.3 == nil })
        }
    }

    @Test("a run that fails says why, and the statement is as new: one that breaks a rule, and one whose rows are not wanted to the end")
    func failing() throws {
        struct Enough: Error {}
        try queue.inDatabase { database in
            let insert = DirectStatement(database, "INSERT INTO things VALUES (?, NULL, NULL, ?)")
            let add = { (number: Int, other: UInt8) in
                try insert.run {
                    $0.add(number)
                    $0.add([other])
                }
            }
            for number in 1...3 { _ = try add(number, UInt8(number)) }
            do {
                _ = try add(4, 2)
                Issue.record("a value that is there already was taken")
            } catch let error as DatabaseError {
                #expect(error.resultCode == .SQLITE_CONSTRAINT && error.message?.contains("things.other") == true, "\(error)")
            }
            #expect(try add(4, 4).lastRow == 4)
            let all = DirectStatement(database, "SELECT number FROM things ORDER BY number")
            #expect(throws: Enough.self) { try all.run({ _ in }, { if $0.integer(0) == 2 { throw Enough() } }) }
            #expect(try all.rows({ _ in }, { $0.integer(0) }) == [1, 2, 3, 4])
            // Nothing is open any more that a schema change would have to wait for.
            try database.execute(sql: "DROP TABLE things")
        }
    }
}
