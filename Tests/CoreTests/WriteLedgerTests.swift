// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

@Suite struct WriteLedgerTests {
    private let start = Instant(nanoseconds: 5_000_000_000)
    private let bucket: BucketID
    private let other: BucketID
    private let function: FunctionKey

    init() throws {
        let tenant = try #require(Name("acme"))
        bucket = BucketID(tenant: tenant, bucket: try #require(Name("photos")))
        other = BucketID(tenant: tenant, bucket: try #require(Name("thumbs")))
        function = FunctionKey(FunctionID(tenant: tenant, function: try #require(Name("f"))))
    }

    private func lineage(_ number: Int) -> Lineage {
        Lineage(root: InvocationID(milliseconds: 1, random: (0, UInt64(number))), born: start).child(entering: function, isSync: false)
    }
    private func key(_ text: String) throws -> ObjectKey { try #require(ObjectKey(text)) }
    private func file(_ number: Int) -> WriteLedger.File { .init(inode: UInt64(number), size: 10, modified: 77) }

    @Test("the last write of a key counts, for fifteen minutes")
    func keys() throws {
        var ledger = WriteLedger()
        #expect(try ledger.lineage(of: key("a"), in: bucket, at: start) == nil)
        ledger.record(bucket, try key("a"), nil, by: nil, lineage(1), at: start)
        ledger.record(bucket, try key("b"), nil, by: nil, lineage(2), at: start)
        ledger.record(bucket, try key("a"), nil, by: nil, lineage(3), at: start + .seconds(10))
        #expect(try ledger.lineage(of: key("a"), in: bucket, at: start + .seconds(910)) == lineage(3))
        #expect(try ledger.lineage(of: key("a"), in: bucket, at: start + .seconds(911)) == nil)
        #expect(try ledger.lineage(of: key("b"), in: bucket, at: start + .seconds(900)) == lineage(2))
        #expect(try ledger.lineage(of: key("b"), in: bucket, at: start + .seconds(901)) == nil)
        #expect(try ledger.lineage(of: key("a"), in: other, at: start) == nil)
        #expect(try ledger.lineage(of: key("c"), in: bucket, at: start) == nil)
    }

    @Test("a file keeps its lineage under another name, until it is written anew")
    func files() throws {
        var ledger = WriteLedger()
        ledger.record(bucket, try key("a"), file(1), by: nil, lineage(1), at: start)
        ledger.record(bucket, try key("b"), file(2), by: nil, lineage(2), at: start)
        #expect(ledger.lineage(of: file(1), at: start) == lineage(1) && ledger.lineage(of: file(2), at: start) == lineage(2))
        for changed in [
            WriteLedger.File(inode: 1, size: 11, modified: 77), .init(inode: 1, size: 10, modified: 78),
            .init(inode: 3, size: 10, modified: 77),
        ] { #expect(ledger.lineage(of: changed, at: start) == nil) }
    }

    @Test("a write beside, under the same prefix and by the same function, is a guess for a minute")
    func inferred() throws {
        var ledger = WriteLedger()
        let stranger = FunctionKey(bits: 9)
        ledger.record(bucket, try key("in/2026/a"), nil, by: function, lineage(1), at: start)
        ledger.record(bucket, try key("out/b"), nil, by: stranger, lineage(2), at: start)
        for prefix in ["", "in/", "in/2026/", "in/2026/a"] {
            let found = ledger.inferred(bucket, prefix: prefix, function: function, at: start + .seconds(60))
            #expect(found?.root == lineage(1).root && found?.flags.contains(.inferred) == true, "\(prefix)")
        }
        for prefix in ["out/", "in/2025", "in/2026x"] {
            #expect(ledger.inferred(bucket, prefix: prefix, function: function, at: start) == nil, "\(prefix)")
        }
        #expect(ledger.inferred(bucket, prefix: "in/", function: function, at: start + .seconds(61)) == nil)
        #expect(ledger.inferred(other, prefix: "in/", function: function, at: start) == nil)
        #expect(ledger.inferred(bucket, prefix: "in/", function: stranger, at: start) == nil)
        for number in 0..<40 { ledger.record(bucket, try key("d\(number)/x"), nil, by: function, lineage(number), at: start) }
        #expect(ledger.inferred(bucket, prefix: "in/", function: function, at: start) == nil, "bounded: the oldest gave way")
        #expect(ledger.inferred(bucket, prefix: "d39/", function: function, at: start)?.root == lineage(39).root)
    }

    @Test("a full ledger has exactly the newest writes, and as a dictionary would have them", arguments: [1, 7, 1000, 3000])
    func bounded(capacity: Int) throws {
        var ledger = WriteLedger(capacity: capacity, lineageBytes: 1 << 20)
        var seed: UInt64 = UInt64(capacity)
        var writes: [(key: Int, file: Int, lineage: Int)] = []
        for number in 0..<(3 * capacity + 50) {
            seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let write = (key: Int(seed >> 33) % (2 * capacity), file: Int(seed >> 40) % (2 * capacity) + 1, lineage: number % 50)
            writes.append(write)
            ledger.record(bucket, try key("k\(write.key)"), file(write.file), by: nil, lineage(write.lineage), at: start)
        }
        let kept = writes.suffix(capacity)
        for number in 0..<(2 * capacity) {
            let wanted = kept.last { $0.key == number }.map { lineage($0.lineage) }
            #expect(try ledger.lineage(of: key("k\(number)"), in: bucket, at: start) == wanted)
            let wantedFile = kept.last { $0.file == number + 1 }.map { lineage($0.lineage) }
            #expect(ledger.lineage(of: file(number + 1), at: start) == wantedFile)
        }
    }

    @Test("a ledger is stale when its last write is too old to be found")
    func stale() throws {
        var ledger = WriteLedger()
        #expect(ledger.isStale(at: start))
        ledger.record(bucket, try key("a"), nil, by: nil, lineage(1), at: start)
        #expect(!ledger.isStale(at: start + WriteLedger.lifetime))
        #expect(ledger.isStale(at: start + WriteLedger.lifetime + 1))
        #expect(try ledger.lineage(of: key("a"), in: bucket, at: start + WriteLedger.lifetime + .milliseconds(100)) == nil)
    }

    @Test("lineages beyond their room are forgotten, and none is mistaken for another")
    func lineageRoom() throws {
        var ledger = WriteLedger(capacity: 10_000, lineageBytes: 4096)
        for number in 0..<1000 { ledger.record(bucket, try key("k\(number)"), nil, by: nil, lineage(number), at: start) }
        var found = 0
        for number in 0..<1000 {
            guard let one = ledger.lineage(of: try key("k\(number)"), in: bucket, at: start) else { continue }
            #expect(one == lineage(number))
            found += 1
        }
        #expect(found > 50 && found < 100)
        // One lineage for many writes takes its room once.
        for number in 0..<5000 { ledger.record(bucket, try key("m\(number)"), nil, by: nil, lineage(1), at: start) }
        #expect(try ledger.lineage(of: key("m0"), in: bucket, at: start) == lineage(1))
        #expect(try ledger.lineage(of: key("k999"), in: bucket, at: start) == lineage(999))
    }

    @Test("memory is bounded: bytes a write are printed")
    func memory() throws {
        var ledger = WriteLedger(capacity: 100_000, lineageBytes: 8 << 20)
        let lineages = (0..<1000).map { lineage($0) }
        let clock = ContinuousClock()
        let keys = try (0..<1000).map { try key("in/2026/photo-\($0).jpg") }
        let time = clock.measure {
            for number in 0..<300_000 {
                ledger.record(bucket, keys[number % 1000], file(number), by: nil, lineages[number % 1000], at: start)
            }
        }
        print("write ledger: \(ledger.memory / 100_000) bytes a write at 100,000 writes of 1,000 lineages; \(time / 300_000) each (debug)")
        #expect(ledger.memory <= 100_000 * 80)
    }

    @Test("what an event means to a trigger depends on what the trigger sees")
    func meanings() throws {
        func meaning(
            _ change: ObjectChange, _ text: String, from: String? = nil, _ changes: Set<ObjectChange> = [.created, .removed, .renamed]
        )
            throws -> ObjectChange?
        {
            let event = ObjectEvent(bucket: bucket, key: try key(text), change: change, from: try from.map { try key($0) })
            return event.meaning(prefix: "in/", suffix: ".jpg", changes: changes)
        }
        #expect(try meaning(.created, "in/a.jpg") == .created && meaning(.removed, "in/a.jpg") == .removed)
        #expect(
            try meaning(.created, "in/a.png") == nil && meaning(.created, "out/a.jpg") == nil
                && meaning(.created, "in/a.jpg", [.removed]) == nil)
        #expect(try meaning(.renamed, "in/b.jpg", from: "in/a.jpg") == .renamed)
        #expect(try meaning(.renamed, "in/b.jpg", from: "in/b.jpg.part") == .created)
        #expect(try meaning(.renamed, "out/b.jpg", from: "in/b.jpg") == .removed)
        #expect(try meaning(.renamed, "out/b.jpg", from: "out/a.jpg") == nil)
        #expect(try meaning(.renamed, "in/b.jpg", from: "in/a.jpg", [.created]) == nil)
    }
}
