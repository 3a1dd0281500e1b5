// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Core

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

    @Test("a start that ends says what the kernel said, in words")
    func setupFailed() {
        #expect(
            DeathCause.setupFailed(stage: 22, stageName: "root", errno: 28).description
                == "start aborted at stage 22 (root): No space left on device")
    }

    @Test(
        "a program that cannot be executed is told by its name, the kernel's words and what to do",
        arguments: [
            (Int32(2), ["./main"], "/function/main: No such file or directory; if the file is there, what it is started with is not"),
            (8, ["bin/main", "word"], "/function/bin/main: Exec format error; it is for another processor"),
            (13, ["./main"], "/function/main: Permission denied; it must be executable"),
            (40, ["./main"], "/function/main: Too many levels of symbolic links"),
        ])
    func program(errno: Int32, command: [String], sentence: String) {
        let cause = DeathCause.setupFailed(stage: DeathCause.execution, stageName: "execute the program", errno: errno)
        #expect(cause.programFault(command)?.hasPrefix(sentence) == true)
        // An interpreter, and every other stage, is the node's.
        #expect(cause.programFault([]) == nil)
        #expect(DeathCause.setupFailed(stage: 44, stageName: "", errno: errno).programFault(command) == nil)
        // So is a machine without memory or descriptors, whose next try may do.
        for errno in [Int32(5), 11, 12, 23, 24] {
            #expect(DeathCause.setupFailed(stage: DeathCause.execution, stageName: "", errno: errno).programFault(command) == nil)
        }
    }
}
