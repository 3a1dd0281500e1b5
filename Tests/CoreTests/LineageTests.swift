// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

private func key(_ number: Int) -> FunctionKey { FunctionKey(bits: UInt64(number) &* 0x9E37_79B9_7F4A_7C15) }

@Suite struct LineageTests {
    /// A lineage with a random history, with the true count of every function.
    static func walk(_ random: inout Seeded, functions: Int, hops: Int) -> (lineage: Lineage, truth: [Int: UInt32]) {
        var lineage = Lineage(root: rootID(Int.random(in: 0..<1_000_000, using: &random)), born: at(seconds: 1_700_000_000))
        var truth: [Int: UInt32] = [:]
        for _ in 0..<hops {
            let function = Int.random(in: 0..<functions, using: &random)
            truth[function, default: 0] += 1
            lineage = lineage.child(entering: key(function), isSync: Bool.random(using: &random))
        }
        return (lineage, truth)
    }

    /// One that went through admission, so that its buckets and flags are in use.
    static func admitted(_ random: inout Seeded) throws -> Lineage {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        var now = at(seconds: 1_700_000_000)
        var lineage = Lineage(root: rootID(Int.random(in: 0..<1_000_000, using: &random)), born: now)
        let edges = try ["a", "b", "c", "d"].map { try edgeID($0) }
        for edge in edges {
            let recursion = Bool.random(using: &random) ? DeclaredRecursion(maxDepth: 50, maxDescendants: 900, minInterval: 1_234_567) : nil
            governor.configure(edge, EdgeSpec(recursion: recursion), at: now)
        }
        for _ in 0..<Int.random(in: 0..<40, using: &random) {
            now = now + UInt64.random(in: 0..<30_000_000_000, using: &random)
            let edge = edges[Int.random(in: 0..<edges.count, using: &random)]
            if let pass = governor.admit(lineage, through: edge, at: now, into: &notes).pass { lineage = pass.lineage }
        }
        return lineage
    }

    @Test("a path through at most 32 functions is counted exactly", arguments: 0..<40)
    func exact(seed: Int) {
        var random = Seeded(state: UInt64(seed))
        let (lineage, truth) = Self.walk(&random, functions: 1 + seed % 32, hops: 200)
        for function in 0..<40 { #expect(lineage.visits(of: key(function)) == truth[function, default: 0], "seed \(seed)") }
        #expect(lineage.hops == 200)
    }

    @Test("a longer path is never counted too low, and its table stays bounded", arguments: 0..<40)
    func neverTooLow(seed: Int) {
        var random = Seeded(state: UInt64(seed))
        let (lineage, truth) = Self.walk(&random, functions: 33 + 5 * seed, hops: 500)
        for (function, count) in truth { #expect(lineage.visits(of: key(function)) >= count, "seed \(seed)") }
        #expect(lineage.path.count == Lineage.pathCapacity)
        #expect(lineage.floor <= 500 / UInt32(Lineage.pathCapacity) + 1, "space-saving counts at most hops / table too much")
    }

    @Test("several parents: at least what each of them had, in any order", arguments: 0..<60)
    func merge(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        var walks: [(lineage: Lineage, truth: [Int: UInt32])] = []
        for _ in 0..<Int.random(in: 1...6, using: &random) {
            walks.append(Self.walk(&random, functions: [3, 20, 60][seed % 3], hops: Int.random(in: 1...120, using: &random)))
        }
        let parents = walks.map(\.lineage)
        let merged = try #require(Lineage.merged(parents))
        let deepest = try #require(parents.max { $0.hops < $1.hops })
        #expect(merged.hops == deepest.hops)
        #expect(parents.filter { $0.hops == merged.hops }.contains { $0.root == merged.root })
        for (_, truth) in walks {
            for (function, count) in truth { #expect(merged.visits(of: key(function)) >= count, "seed \(seed)") }
        }
        for parent in parents { #expect(merged.hopBucket.fullAt >= parent.hopBucket.fullAt) }
        #expect(merged.path.count <= Lineage.pathCapacity)
        let other = try #require(Lineage.merged(parents.reversed()))
        #expect(other.root == merged.root && other.hops == merged.hops)
        for function in 0..<60 { #expect(other.visits(of: key(function)) == merged.visits(of: key(function)), "seed \(seed)") }
    }

    @Test("of several buckets the emptiest is kept")
    func mergeBuckets() throws {
        var governor = LoopGovernor(seed: 1)
        var notes: [LoopNote] = []
        let edge = try edgeID("f")
        let now = at(seconds: 1_000)
        let fresh = Lineage(root: rootID(1), born: now)
        var used = Lineage(root: rootID(2), born: now)
        for _ in 0..<17 { used = try #require(governor.admit(used, through: edge, at: now, into: &notes).pass).lineage }
        for batch in [[fresh, used], [used, fresh]] {
            let merged = try #require(Lineage.merged(batch))
            #expect(governor.admit(merged, through: edge, at: now, into: &notes).trip?.reason == .path)
        }
        #expect(governor.admit(fresh, through: edge, at: now, into: &notes).pass != nil)
    }

    @Test("a guessed parent does not count beside a known one")
    func mergeInferred() throws {
        var guessed = Lineage(root: rootID(1), born: at(seconds: 1), flags: .inferred)
        for _ in 0..<30 { guessed = guessed.child(entering: key(1), isSync: false) }
        let known = Lineage(root: rootID(2), born: at(seconds: 2)).child(entering: key(2), isSync: false)
        #expect(Lineage.merged([guessed, known]) == known)
        #expect(Lineage.merged([guessed])?.flags.contains(.inferred) == true)
        #expect(Lineage.merged([]) == nil)
    }

    @Test("what is stored comes back the same", arguments: 0..<200)
    func roundTrip(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        let walked = Self.walk(&random, functions: 1 + seed, hops: seed * 2).lineage
        let lineages = [walked, try Self.admitted(&random)]
        for lineage in lineages {
            let bytes = lineage.encoded
            #expect(Lineage(encoded: bytes) == lineage, "seed \(seed)")
            #expect(bytes.count <= Lineage.maximumEncodedSize)
        }
    }

    @Test("a usual lineage takes about 150 bytes")
    func size() {
        var lineage = Lineage(root: rootID(1), born: at(seconds: 1_790_000_000))
        #expect(lineage.encoded.count <= 64)
        for function in 0..<8 { lineage = lineage.child(entering: key(function), isSync: false) }
        #expect(lineage.encoded.count <= 150, "\(lineage.encoded.count) bytes")
    }

    @Test("garbage is no lineage", arguments: 0..<20)
    func garbage(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        let bytes = try Self.admitted(&random).encoded
        for length in 0..<bytes.count { #expect(Lineage(encoded: bytes.prefix(length)) == nil) }
        #expect(Lineage(encoded: bytes + [0]) == nil)
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= UInt8.random(in: 1...255, using: &random)
            #expect(Lineage(encoded: changed) == nil, "seed \(seed), byte \(index)")
        }
        for _ in 0..<2_000 {
            let noise = (0..<Int.random(in: 0...200, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            #expect(Lineage(encoded: noise) == nil)
        }
        #expect(Lineage(encoded: [UInt8](repeating: 1, count: 1 << 20)) == nil)
    }

    @Test("a valid checksum does not make a lie a lineage", arguments: 0..<20)
    func checkedGarbage(seed: Int) throws {
        var random = Seeded(state: UInt64(100 + seed))
        let good = try Self.admitted(&random)
        let bytes = Array(good.encoded.dropLast(4))
        var accepted = 0
        for _ in 0..<2_000 {
            var changed = bytes
            changed[Int.random(in: 0..<changed.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            if Bool.random(using: &random) { changed.removeLast(Int.random(in: 0..<changed.count, using: &random)) }
            let check = changed.reduce(UInt32(0x811c_9dc5)) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
            for shift in stride(from: UInt32(0), to: 32, by: 8) { changed.append(UInt8(truncatingIfNeeded: check >> shift)) }
            guard let read = Lineage(encoded: changed) else { continue }
            accepted += 1
            // Whatever is taken is spelled one way only and obeys the bounds.
            #expect(read.encoded == changed)
            #expect(read.path.count <= Lineage.pathCapacity && read.path.allSatisfy { $0.count > 0 && $0.waiting <= $0.count })
        }
        #expect(accepted > 0, "the run shows nothing")
    }

    @Test("two functions of one list of names never share a key")
    func keys() throws {
        var seen: [FunctionKey: FunctionID] = [:]
        for tenant in 0..<40 {
            for function in 0..<250 {
                let id = FunctionID(tenant: try #require(Name("t\(tenant)")), function: try #require(Name("f\(function)")))
                if let other = seen.updateValue(id, forKey: FunctionKey(id)) { Issue.record("\(id) and \(other)") }
            }
        }
        #expect(seen.count == 10_000)
    }
}
