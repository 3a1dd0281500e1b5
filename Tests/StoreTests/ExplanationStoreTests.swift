// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@testable import Store

@Suite struct ExplanationStoreTests {
    private let acme = EventFixture.tenants[0]
    private let beta = EventFixture.tenants[1]

    private func line(_ number: Int, _ tenant: Name, _ text: String) -> ExplanationStore.Line {
        .init(tenant: tenant, id: EventFixture.id(number), json: Data(#"{"text":"\#(text)"}"#.utf8))
    }

    private func text(_ store: ExplanationStore, _ number: Int, of tenant: Name? = nil) -> String? {
        store.find(EventFixture.id(number), tenant: tenant).map { String(decoding: $0, as: UTF8.self) }
    }

    @Test("what was written is found by a store that is opened later, the newest of an invocation, and not by another tenant")
    func found() throws {
        let folder = try EventFolder()
        let written = [line(1, acme, "first"), line(2, beta, "b"), line(1, acme, "second")]
        try ExplanationStore(directory: folder.path + "/explain").append(written)
        let store = ExplanationStore(directory: folder.path + "/explain")
        #expect(text(store, 1) == #"{"text":"second"}"#)
        #expect(text(store, 1, of: acme) == #"{"text":"second"}"# && text(store, 1, of: beta) == nil)
        #expect(text(store, 2) == #"{"text":"b"}"# && text(store, 3) == nil)
    }

    @Test("a line that was torn is not told, and the next one is whole")
    func torn() throws {
        let folder = try EventFolder()
        let store = ExplanationStore(directory: folder.path)
        try store.append([line(1, acme, "whole")])
        let path = "\(folder.path)/acme/1.jsonl"
        var bytes = try #require(FileManager.default.contents(atPath: path))
        bytes += Data("\(EventFixture.id(2)) {\"te".utf8)
        try bytes.write(to: URL(fileURLWithPath: path))
        #expect(text(store, 2) == nil)
        try store.append([line(3, acme, "after")])
        #expect(text(store, 1) == #"{"text":"whole"}"# && text(store, 3) == #"{"text":"after"}"#)
    }

    @Test("a tenant has its bytes and no more, the newest, and takes nobody else's; what is old goes")
    func bounded() throws {
        let folder = try EventFolder()
        let store = ExplanationStore(directory: folder.path, bytes: 64 << 10)
        try store.append([line(0, beta, "quiet")])
        for number in 1...5_000 { try store.append([line(number, acme, "loud")]) }
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path + "/acme")
        let size = names.reduce(0) { $0 + (FileManager.default.contents(atPath: "\(folder.path)/acme/\($1)")?.count ?? 0) }
        #expect(names.count == 8 && size < 72 << 10, "\(size) bytes in \(names.count)")
        #expect(text(store, 1) == nil && text(store, 5_000) != nil && text(store, 0) != nil)
        store.prune(now: UInt64(Date().timeIntervalSince1970 * 1000))
        #expect(text(store, 0) != nil)
        store.prune(now: UInt64(Date().timeIntervalSince1970 * 1000) + 15 * 86_400_000)
        #expect(text(store, 0) == nil && text(store, 5_000) == nil)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == [], "nor is anything left of tenants that are gone")
        try store.append([line(1, acme, "back")])
        #expect(text(store, 1) != nil)
    }

    /// The lines are `{"text":"TIME"}`.
    private func times(_ store: ExplanationStore, _ change: (inout ExplanationQuery) -> Void = { _ in }) -> (values: [UInt64], isMore: Bool)
    {
        var query = ExplanationQuery()
        change(&query)
        return store.newest(query) { line in
            let digits = String(decoding: line, as: UTF8.self).filter(\.isNumber)
            return UInt64(digits).map { (time: $0, value: $0) }
        }
    }

    @Test(
        "lines of all tenants come by time, both edges of the time that is asked for included, at most as many as are asked for, and nothing torn"
    )
    func byTime() throws {
        let folder = try EventFolder()
        let store = ExplanationStore(directory: folder.path)
        // What is asked for may be long ago: the files are of now, and all of them may hold it.
        try store.append([line(1, acme, "30"), line(2, beta, "20"), line(3, acme, "10"), line(4, beta, "40"), line(5, acme, "none")])
        #expect(times(store).values == [10, 20, 30, 40] && !times(store).isMore)
        #expect(times(store) { ($0.since, $0.until) = (20, 30) }.values == [20, 30])
        #expect(times(store) { ($0.since, $0.until) = (21, 29) }.values == [])
        #expect(times(store) { $0.tenant = beta }.values == [20, 40])
        #expect(times(store) { $0.tenant = EventFixture.tenants[2] }.values == [])
        let newest = times(store) { $0.limit = 3 }
        #expect(newest.values == [20, 30, 40] && newest.isMore)
        #expect(!times(store) { $0.limit = 4 }.isMore)
        let path = "\(folder.path)/acme/1.jsonl"
        var bytes = try #require(FileManager.default.contents(atPath: path))
        bytes += Data("\(EventFixture.id(6)) {\"text\":\"50".utf8)
        try bytes.write(to: URL(fileURLWithPath: path))
        #expect(times(store).values == [10, 20, 30, 40])
    }

    @Test("files that cannot hold the time are not read, and no answer reads more than it may")
    func readsBounded() throws {
        let folder = try EventFolder()
        let store = ExplanationStore(directory: folder.path, bytes: 64 << 10)
        for number in 1...400 { try store.append([line(number, acme, "\(number)")]) }
        try store.append([line(500, beta, "500")])
        let segments = try FileManager.default.contentsOfDirectory(atPath: folder.path + "/acme").count
        #expect(segments > 2)
        let few = times(store) {
            $0.limit = 1000
            $0.readLimit = 9 << 10
        }
        #expect(!few.values.isEmpty && few.values.count < 400 && few.isMore, "\(few.values.count)")
        let all = times(store) { $0.limit = 1000 }
        #expect(all.values == Array(1...400) + [500] && !all.isMore)
        // As if written an hour ago: what ended in the last minutes is not in them, whatever they say.
        let now = UInt64(Date().timeIntervalSince1970 * 1000)
        for name in try FileManager.default.contentsOfDirectory(atPath: folder.path + "/acme") {
            let old = Date(timeIntervalSinceNow: -3600)
            try FileManager.default.setAttributes([.modificationDate: old], ofItemAtPath: "\(folder.path)/acme/\(name)")
        }
        var looked = 0
        func look(_ change: (inout ExplanationQuery) -> Void) -> Int {
            var query = ExplanationQuery()
            change(&query)
            looked = 0
            _ = store.newest(query) { _ -> (time: UInt64, value: Int)? in
                looked += 1
                return nil
            }
            return looked
        }
        #expect(look { $0.since = now - 600_000 } == 1, "the other tenant's alone")
        #expect(look { $0.since = now - 3_600_000 } == 401)
        #expect((1..<401).contains(look { $0.until = now - 7_200_000 }), "the first file of each tenant alone")
    }
}
