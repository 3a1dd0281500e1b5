// SPDX-License-Identifier: Apache-2.0
import Core
import GRDB
import Testing

@testable import Store

private typealias Fixture = EventFixture

@Suite struct EventOutcomeTests {
    @Test("the oldest records of each function are found, however many another has, also in a database of an earlier release")
    func oldest() throws {
        let folder = try EventFolder()
        var store = try folder.open()
        for number in 1...9 {
            var draft = Fixture.draft(number, tenant: Fixture.tenants[number == 9 ? 1 : 0])
            draft.destination = [1]
            if number == 8 { draft.function = FunctionID(tenant: Fixture.tenants[0], function: Fixture.functions[1]) }
            try store.add(draft)
            let lease = try #require(try store.take().leases.first)
            try store.end(lease.id, lease.token, .dead(reason: "", result: []))
        }
        store.close()
        let queue = try DatabaseQueue(path: folder.path + "/events.sqlite")
        try queue.writeWithoutTransaction { try $0.execute(sql: "DROP INDEX destinations_owner") }
        try queue.close()
        store = try folder.open()
        let found = try store.waitingDestinations { $0.tenant == Fixture.tenants[0] ? 3 : 1 }
        let numbers = try store.destinations().map(\.number)
        #expect(
            found == [
                Fixture.draft(1).function: Array(numbers[0..<3]),
                FunctionID(tenant: Fixture.tenants[0], function: Fixture.functions[1]): [numbers[7]],
                Fixture.draft(1, tenant: Fixture.tenants[1]).function: [numbers[8]],
            ])
        #expect(try store.destinations([numbers[8], 99, numbers[1]]).map(\.event) == [Fixture.id(9), Fixture.id(2)])
        let plans = try store.reader.read { database in
            try [
                "SELECT tenant, function FROM destinations WHERE (tenant, function) > ('', '') ORDER BY tenant, function LIMIT 1",
                "SELECT number FROM destinations WHERE tenant = 'a' AND function = 'b' ORDER BY number LIMIT 3",
            ].flatMap { try Row.fetchAll(database, sql: "EXPLAIN QUERY PLAN " + $0).map { $0["detail"] as String } }
        }
        let isByIndex = plans.allSatisfy { $0.contains("SEARCH") && $0.contains("COVERING INDEX destinations_owner") }
        #expect(plans.count == 2 && isByIndex, "\(plans)")
        store.close()
    }
}
