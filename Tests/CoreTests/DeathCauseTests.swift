// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct DeathCauseTests {
    private static let mebibyte: UInt64 = 1 << 20
    /// The peak of a worker that may have 64 MiB, and what is said of it.
    static let ends: [(peak: UInt64, sentence: String)] = [
        (64 * mebibyte, "out of memory: used 64 of 64 MiB"),
        (63 * mebibyte + 700_000, "out of memory: used 63.7 of 64 MiB"),
        (20 * mebibyte, "out of memory: used 20 of 64 MiB when its tenant or the machine had no more"),
        (1, "out of memory: used 0.1 of 64 MiB when its tenant or the machine had no more"),
        (0, "out of memory at its limit of 64 MiB"),
    ]

    @Test("who runs out of memory reads how much it had of what it may have, and whether that was its own ceiling", arguments: ends)
    func outOfMemory(peak: UInt64, sentence: String) {
        #expect(DeathCause.outOfMemory(limit: 64 * Self.mebibyte, peak: peak).description == sentence)
    }
}
