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
}
