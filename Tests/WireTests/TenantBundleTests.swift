// SPDX-License-Identifier: Apache-2.0
import Testing
import Wire

/// The file that root writes for the daemon, and that root reads again when the daemon has had it.
@Suite struct TenantBundleTests {
    static let stamp = TenantBundle.Stamp(inode: 7, size: 13, modified: -5, changed: .max)
    static let entries = [
        TenantBundle.Entry(name: "acme.yaml", stamp: stamp, length: 13), TenantBundle.Entry(name: "globex.yaml", stamp: nil, length: 0),
        TenantBundle.Entry(name: "initech.yaml", stamp: stamp, length: TenantBundle.maximumLength),
    ]

    private func decoded(_ bytes: [UInt8], contents: Int? = nil) throws(WireError) -> [TenantBundle.Entry] {
        let head = try TenantBundle.head(bytes.prefix(TenantBundle.headLength))
        return try TenantBundle.entries(bytes.dropFirst(TenantBundle.headLength), head, contents: contents)
    }

    @Test("what is written is read again, and counts for those lengths alone")
    func wayAndBack() throws {
        let bytes = try TenantBundle.encode(Self.entries)
        let sum = 13 + TenantBundle.maximumLength
        #expect(try decoded(bytes, contents: sum) == Self.entries)
        for other in [sum - 1, sum + 1, 0] { #expect(throws: WireError.self) { try decoded(bytes, contents: other) } }
        #expect(try decoded(try TenantBundle.encode([]), contents: 0) == [])
    }

    @Test("one that ends early, goes on, or is of another format is refused at every length")
    func cut() throws {
        let bytes = try TenantBundle.encode(Self.entries)
        for count in 0..<bytes.count { #expect(throws: WireError.self) { try decoded(Array(bytes[..<count])) } }
        #expect(throws: WireError.self) { try decoded(bytes + [0]) }
        for place in [0, 8] {
            var other = bytes
            other[place] += 1
            #expect(throws: WireError.self) { try decoded(other) }
        }
    }

    @Test(
        "names that lead elsewhere, are twice or out of order, and files that are too long are refused",
        arguments: [
            ["../acme.yaml"], ["a/b.yaml"], [".yaml"], [".a.yaml"], [""], ["acme"], ["acme.yaml\0.yaml"], ["b.yaml", "a.yaml"],
            ["a.yaml", "a.yaml"], [String(repeating: "a", count: 251) + ".yaml"],
        ])
    func hostile(_ names: [String]) throws {
        #expect(throws: WireError.self) { try TenantBundle.encode(names.map { TenantBundle.Entry(name: $0, stamp: nil, length: 0) }) }
        let long = TenantBundle.Entry(name: "a.yaml", stamp: nil, length: TenantBundle.maximumLength + 1)
        #expect(throws: WireError.self) { try TenantBundle.encode([long]) }
    }

    @Test("bytes that somebody else wrote are refused, or mean exactly one thing")
    func damaged() throws {
        var random = SystemRandomNumberGenerator()
        let whole = try TenantBundle.encode(Self.entries + [TenantBundle.Entry(name: "umbrella.yaml", stamp: Self.stamp, length: 1)])
        for _ in 0..<5000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: place)
                default: bytes.insert(UInt8.random(in: 0...255, using: &random), at: place)
                }
            }
            guard let entries = try? decoded(bytes) else { continue }
            #expect(try TenantBundle.encode(entries) == bytes)
        }
    }

    @Test("what would take memory without end is refused by its head")
    func large() {
        func head(_ count: UInt32, _ length: UInt32) throws(WireError) -> TenantBundle.Head {
            var out = ByteWriter()
            out.raw("BHTENANT".utf8)
            for number in [1, count, length] { out.integer(number) }
            return try TenantBundle.head(out.bytes[...])
        }
        #expect(throws: Never.self) { try head(UInt32(TenantBundle.maximumEntries), UInt32(TenantBundle.maximumIndex)) }
        #expect(throws: WireError.self) { try head(UInt32(TenantBundle.maximumEntries) + 1, 0) }
        #expect(throws: WireError.self) { try head(1, UInt32(TenantBundle.maximumIndex) + 1) }
        #expect(throws: WireError.self) { try head(.max, .max) }
    }
}
