// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import GRDB
import Testing

@testable import Store

@Suite struct AliasStoreTests {
    private final class Folder {
        let path = NSTemporaryDirectory() + "aliases-\(UUID().uuidString)"
        init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
        deinit { try? FileManager.default.removeItem(atPath: path) }
        var database: String { path + "/state.sqlite" }
    }

    private func store(_ folder: Folder, versions: Int) throws -> (StateStore, FunctionID) {
        let store = try StateStore(path: folder.database)
        let function = try #require(FunctionIDs.sample)
        for number in 0..<versions { try add(store, function, at: UInt64(number + 1)) }
        return (store, function)
    }

    private func add(_ store: StateStore, _ function: FunctionID, at: UInt64 = 9) throws {
        _ = try store.addVersion(function, codeHash: "h\(at)", codeBytes: 1, manifest: "m", at: at)
    }

    private func name(_ text: String) throws -> Name { try #require(Name(text)) }
    private func latest(_ store: StateStore, _ function: FunctionID) throws -> AliasRecord? {
        try store.aliases(of: function).first { $0.spec.name == .latest }
    }

    @Test("a deploy moves latest; a rollback goes back and back, is refused past the first, and the next deploy wins")
    func latestMoves() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 3)
        #expect(try latest(store, function)?.spec.primary == 3 && latest(store, function)?.previous == 2)
        let first = try store.rollBack(.latest, function, at: 10).get()
        #expect(
            first.spec.primary == 2 && first.previous == 1 && first.change.cause == .rollback && first.change.reason == "from version 3")
        #expect(try store.rollBack(.latest, function, at: 11).get().spec.primary == 1, "and not to and fro between two")
        #expect(try store.rollBack(.latest, function, at: 12) == .failure(.nothingBefore(1)))
        try add(store, function)
        #expect(try latest(store, function)?.spec.primary == 4 && latest(store, function)?.previous == 1)
        #expect(try store.rollBack(.latest, function, at: 13).get().spec.primary == 1)
        let reopened = try StateStore(path: folder.database)
        #expect(try latest(reopened, function)?.spec.primary == 1 && latest(reopened, function)?.change.at == 13, "also after a new start")
    }

    @Test("steps grow with every change of any alias, also over deletions")
    func steps() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 2)
        var last = try #require(try latest(store, function)).step
        for round in 0..<3 {
            let made = try store.setAlias(AliasSpec(name: try name("prod"), primary: 1), function, at: UInt64(round)).get()
            #expect(made.step > last)
            last = made.step
            #expect(try store.removeAlias(try name("prod"), function) == nil)
        }
        #expect(try store.removeAlias(try name("prod"), function) == .noAlias)
        #expect(try store.removeAlias(.latest, function) == .isLatest)
    }

    @Test("an alias names versions that are there; a rollback first ends its canary, then goes back")
    func canary() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 3)
        let prod = try name("prod")
        #expect(try store.setAlias(AliasSpec(name: prod, primary: 9), function, at: 1) == .failure(.noVersion(9)))
        let stray = AliasSpec(name: prod, primary: 1, canary: Canary(version: 9, weight: 5))
        #expect(try store.setAlias(stray, function, at: 1) == .failure(.noVersion(9)))
        #expect(try store.setAlias(AliasSpec(name: .latest, primary: 1), function, at: 1) == .failure(.isLatest))
        let other = FunctionID(tenant: function.tenant, function: try name("other"))
        #expect(try store.setAlias(AliasSpec(name: prod, primary: 1), other, at: 1) == .failure(.noFunction))
        #expect(try store.rollBack(prod, function, at: 1) == .failure(.noAlias))
        #expect(try store.aliases(of: function).count == 1, "nothing was changed")

        _ = try store.setAlias(AliasSpec(name: prod, primary: 1), function, at: 1).get()
        _ = try store.setAlias(AliasSpec(name: prod, primary: 2), function, at: 2).get()
        let split = AliasSpec(name: prod, primary: 2, canary: Canary(version: 3, weight: 1000), isAutomatic: false)
        let made = try store.setAlias(split, function, at: 3).get()
        #expect(made.spec == split && made.previous == 1)
        let ended = try store.rollBack(prod, function, at: 4).get()
        #expect(ended.spec.canary == nil && ended.spec.primary == 2)
        #expect(try store.rollBack(prod, function, at: 5).get().spec.primary == 1)
        #expect(try store.rollBack(prod, function, at: 6) == .failure(.nothingBefore(1)))
    }

    @Test("the rule ends the canary that it judged, and none that was set since")
    func rule() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 2)
        let spec = AliasSpec(name: try name("prod"), primary: 1, canary: Canary(version: 2, weight: 1000))
        let judged = try store.setAlias(spec, function, at: 1).get()
        let present = try store.setAlias(spec, function, at: 2).get()
        #expect(try store.endCanary(spec.name, function, step: judged.step, reason: "slow", at: 3) == nil)
        #expect(try store.aliases(of: function).contains { $0.spec == spec })
        let ended = try #require(try store.endCanary(spec.name, function, step: present.step, reason: "slow", at: 4))
        #expect(ended.spec.canary == nil && ended.change == AliasChange(cause: .rule, reason: "slow", at: 4))
    }

    @Test("a version that an alias names is not removed; a rollback passes over one that is gone")
    func removal() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 4)
        let prod = try name("prod")
        _ = try store.setAlias(AliasSpec(name: prod, primary: 1, canary: Canary(version: 2, weight: 1)), function, at: 1).get()
        func remove(_ number: UInt32) throws -> AliasFault? { try store.removeVersion(VersionID(function: function, number: number)) }
        #expect(try remove(1) == .inUse([prod]) && remove(2) == .inUse([prod]) && remove(4) == .inUse([.latest]))
        #expect(try remove(9) == .noVersion(9))
        #expect(try remove(3) == nil && remove(3) == .noVersion(3))
        #expect(try store.versions().map(\.version.number) == [1, 2, 4] && store.codeHashes() == ["h1", "h2", "h4"])
        #expect(try store.rollBack(.latest, function, at: 5).get().spec.primary == 2, "version 3 is gone")
        #expect(try store.removeFunction(function))
        #expect(try store.aliases().isEmpty && store.rollBack(.latest, function, at: 6) == .failure(.noFunction))
    }

    @Test("an alias keeps its last 100 steps")
    func bounded() throws {
        let folder = try Folder()
        let (store, function) = try store(folder, versions: 2)
        let prod = try name("prod")
        for round in 0..<250 { _ = try store.setAlias(AliasSpec(name: prod, primary: UInt32(round % 2 + 1)), function, at: 1) }
        let count = try store.database.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM alias_steps WHERE name = 'prod'") }
        #expect(count == 100)
        for _ in 0..<99 { _ = try store.rollBack(prod, function, at: 2) }
        guard case .failure(.nothingBefore) = try store.rollBack(prod, function, at: 2) else { return #expect(Bool(false), "still more") }
    }

    @Test("schemas 1 and 2 go forward with their versions, and get a latest that can go back", arguments: [1, 2])
    func migration(from: Int) throws {
        let folder = try Folder()
        let function = try #require(FunctionIDs.sample)
        do {
            let database = try DatabaseQueue(path: folder.database)
            try database.write { database in
                try database.execute(
                    sql: """
                        CREATE TABLE versions (tenant TEXT NOT NULL, function TEXT NOT NULL, number INTEGER NOT NULL, code TEXT NOT NULL,
                            bytes INTEGER NOT NULL, manifest TEXT NOT NULL, created INTEGER NOT NULL, PRIMARY KEY (tenant, function, number)) WITHOUT ROWID;
                        CREATE TABLE numbers (tenant TEXT NOT NULL, function TEXT NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (tenant, function)) WITHOUT ROWID;
                        CREATE TABLE keys (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, hash BLOB NOT NULL, scopes TEXT NOT NULL, created INTEGER NOT NULL,
                            revoked INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
                        CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                        INSERT INTO counters VALUES ('worker', 77);
                        INSERT INTO versions VALUES ('acme', 'hello', 2, 'b', 1, 'm', 20), ('acme', 'hello', 5, 'e', 1, 'm', 50), ('acme', 'two', 1, 'z', 1, 'm', 5);
                        INSERT INTO numbers VALUES ('acme', 'hello', 5), ('acme', 'two', 1);
                        """)
                if from == 2 {
                    try database.execute(sql: "ALTER TABLE keys ADD COLUMN expires INTEGER; ALTER TABLE keys ADD COLUMN used INTEGER")
                }
                try database.execute(sql: "PRAGMA user_version = \(from)")
            }
        }
        for _ in 0..<2 {
            let store = try StateStore(path: folder.database)
            #expect(try store.aliases().map(\.spec.primary) == [5, 1])
            #expect(try latest(store, function)?.previous == 2 && store.keys().isEmpty)
        }
        let store = try StateStore(path: folder.database)
        #expect(try store.rollBack(.latest, function, at: 60).get().spec.primary == 2)
        #expect(try store.rollBack(.latest, function, at: 61) == .failure(.nothingBefore(2)))
        #expect(try store.addVersion(function, codeHash: "f", codeBytes: 1, manifest: "m", at: 70).version.number == 6)
        #expect(try store.reserveWorkers(1) == 77)
    }

    @Test("a newer schema is refused and left alone")
    func newer() throws {
        let folder = try Folder()
        _ = try StateStore(path: folder.database)
        let database = try DatabaseQueue(path: folder.database)
        #expect(try database.read { try Int.fetchOne($0, sql: "PRAGMA user_version") } == 3)
        try database.write { try $0.execute(sql: "PRAGMA user_version = 4") }
        #expect(throws: StoreError.self) { try StateStore(path: folder.database) }
        #expect(try database.read { try Int.fetchOne($0, sql: "PRAGMA user_version") } == 4)
    }

    @Test("code that no version uses is swept, and nothing else")
    func sweep() throws {
        let folder = try Folder()
        for name in ["code/aa", "code/bb", "code/cc", "incoming/left"] {
            try FileManager.default.createDirectory(atPath: folder.path + "/" + name, withIntermediateDirectories: true)
            try Data("x".utf8).write(to: URL(fileURLWithPath: folder.path + "/" + name + "/file"))
        }
        let code = try CodeStore(directory: folder.path + "/code", incoming: folder.path + "/incoming")
        #expect(try code.sweep(keeping: ["aa", "cc", "dd"]) == 1)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/code").sorted() == ["aa", "cc"])
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/incoming").isEmpty)
        #expect(code.remove("aa") && !code.remove("aa"))
        try FileManager.default.removeItem(atPath: folder.path + "/code")
        #expect(throws: StoreError.self) { try code.sweep(keeping: []) }
    }
}
