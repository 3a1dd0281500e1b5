// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Testing

@Suite struct IDRangeTests {
    @Test func readsAccounts() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\n\nalice:x:1000:1001::/home/alice:/bin/sh\n"
        #expect(TakenIDs.accounts(text).map(\.first) == [0, 0, 1000, 1001])
        #expect(TakenIDs.accounts("bulkhead:x:990:alice\n", fields: [2]).map(\.first) == [990])
    }

    @Test func readsSubordinateRanges() {
        let ranges = TakenIDs.subordinate("alice:100000:65536\nbob:bad:1\nx:5:0\n:7:8")
        #expect(ranges == [IDRange(first: 100_000, count: 65536), IDRange(first: 7, count: 8)])
    }

    @Test func takesTheUsualRangeWhereItIsFree() {
        #expect(IDRange.free(besides: []) == IDRange(first: 700_000, count: 4096))
        #expect(IDRange.free(besides: [IDRange(first: 100_000, count: 65536)]) == IDRange(first: 700_000, count: 4096))
        #expect(IDRange.free(besides: [IDRange(first: 704_096, count: 10)]) == IDRange(first: 700_000, count: 4096))
    }

    /// Whatever is taken, the answer overlaps none of it, nor does the id before it, which the daemon gets.
    @Test(arguments: [
        [IDRange(first: 700_000, count: 1)], [IDRange(first: 699_999, count: 1)], [IDRange(first: 704_095, count: 1)],
        [IDRange(first: 600_000, count: 200_000)], [IDRange(first: 700_000, count: 65536), IDRange(first: 704_096, count: 3)],
        [IDRange(first: 704_095, count: 2), IDRange(first: 100, count: 699_900)],
    ])
    func avoids(taken: [IDRange]) throws {
        let range = try #require(IDRange.free(besides: taken))
        #expect(range.count == 4096)
        #expect((range.first - 700_000) % 4096 == 0)
        let needed = IDRange(first: range.first - 1, count: range.count + 1)
        for other in taken { #expect(!needed.overlaps(other)) }
    }

    @Test func saysWhenNothingIsFree() {
        #expect(IDRange.free(besides: [IDRange(first: 0, count: .max)]) == nil)
    }
}

@Suite struct RangeRegistryTests {
    @Test func twoNodesNeverShare() throws {
        var registry = RangeRegistry(parsing: "")
        let first = try #require(registry.take(for: "/a", at: 1000, taken: []) { _ in true })
        let second = try #require(registry.take(for: "/b", at: 1001, taken: []) { _ in true })
        #expect(first == IDRange(first: 700_000, count: 4096))
        #expect(!first.overlaps(second))
        #expect(!first.overlaps(IDRange(first: second.first - 1, count: 1)))
        #expect(RangeRegistry(parsing: registry.text).entries == registry.entries)
    }

    @Test func aStartingNodeKeepsItsRangeAndADeadOneLosesIt() throws {
        var registry = RangeRegistry(parsing: "700000 4096 1000 /a\n")
        #expect(registry.take(for: "/b", at: 1010, taken: [], isRunning: { _ in false })?.first != 700_000)
        registry = RangeRegistry(parsing: "700000 4096 1000 /a\n")
        #expect(registry.take(for: "/b", at: 1100, taken: [], isRunning: { _ in false })?.first == 700_000)
        #expect(registry.entries.map(\.stateDirectory) == ["/b"])
    }

    @Test func aNodeGetsItsRangeAgainUnlessSomebodyTookIt() {
        var registry = RangeRegistry(parsing: "708192 4096 1000 /with space\n")
        #expect(registry.take(for: "/with space", at: 9000, taken: [], isRunning: { _ in false })?.first == 708_192)
        let account = [IDRange(first: 708_191, count: 1)]
        #expect(registry.take(for: "/with space", at: 9001, taken: account, isRunning: { _ in false })?.first == 700_000)
    }

    @Test func aClockThatWentBackDoesNotBlockForEver() {
        var registry = RangeRegistry(parsing: "700000 4096 999999 /a\n\ngarbage\n")
        #expect(registry.take(for: "/b", at: 1000, taken: [], isRunning: { _ in false })?.first == 700_000)
    }
}
