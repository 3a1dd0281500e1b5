// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Testing

@Suite struct OutputTests {
    @Test func tableIsAligned() {
        var table = Table([.init("WORKER"), .init("TENANT"), .init("SERVED", isNumber: true), .init("MEMORY")])
        table.add(["w-7f3a", "acme", "812", "64/256 MiB"])
        table.add(["w-1", "longtenant", "1,000", ""])
        #expect(
            table.rendered() == """
                WORKER  TENANT      SERVED  MEMORY
                w-7f3a  acme           812  64/256 MiB
                w-1     longtenant   1,000

                """)
    }

    @Test func tableOfNothingIsItsHeading() {
        #expect(Table([.init("A"), .init("B")]).rendered() == "A  B\n")
    }

    @Test func tableEscapesAndMeasuresWhatItShows() {
        var table = Table([.init("TEXT"), .init("N", isNumber: true)])
        table.add(["\u{1b}[31m", "1"])
        table.add(["a\nb", "22"])
        table.add(["\u{65e5}\u{672c}", "3", "dropped"])
        #expect(table.rendered() == "TEXT       N\n\\x1b[31m   1\na\\nb      22\n\u{65e5}\u{672c}       3\n")
    }

    @Test(arguments: [
        ("plain \u{e9} \u{1f600}", "plain \u{e9} \u{1f600}"), ("a\tb", "a\tb"), ("a\r\nb", "a\\r\\nb"), ("\u{7}\u{7f}", "\\x07\\x7f"),
        ("\u{9b}31m", "\\u{9b}31m"), ("x\u{202e}y", "x\\u{202e}y"), ("\u{0}", "\\x00"), ("\u{feff}", "\\u{feff}"),
    ])
    func escapes(text: String, shown: String) { #expect(escaped(text) == shown) }

    @Test func keepsLinesWhereAsked() { #expect(escaped("a\nb\u{1b}", keepsLines: true) == "a\nb\\x1b") }

    @Test(arguments: [
        (UInt64(0), "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 30, "5 GiB"),
        (.max, "16383 PiB"),
    ])
    func bytes(number: UInt64, text: String) { #expect(Units.bytes(number) == text) }

    @Test func usage() {
        #expect(Units.usage(64 << 20, of: 256 << 20) == "64/256 MiB")
        #expect(Units.usage(512 << 10, of: 256 << 20) == "0.5/256 MiB")
        #expect(Units.usage(5, of: 0) == "5 B")
    }

    @Test(arguments: [
        (0.42, "420 ms"), (1, "1s"), (59.9, "59s"), (242, "4m2s"), (240, "4m"), (11_040, "3h4m"), (3600, "1h"), (439_200, "5d2h"),
        (-1, "-"), (Double.infinity, "-"), (1e300, "-"),
    ])
    func duration(seconds: Double, text: String) { #expect(Units.duration(seconds: seconds) == text) }

    @Test func counts() {
        #expect(Units.count(0) == "0")
        #expect(Units.count(999) == "999")
        #expect(Units.count(1_234_567) == "1,234,567")
        #expect(Units.decimal(42, places: 2) == "0.42")
        #expect(Units.decimal(7, places: 0) == "7")
        #expect(Units.interval(nanoseconds: 812_000) == "812 us")
        #expect(Units.interval(nanoseconds: 3_450_000) == "3.4 ms")
        #expect(Units.interval(nanoseconds: 1_200_000_000) == "1.20 s")
    }
}

@Suite struct CommandStatusTests {
    @Test(
        arguments: [
            (200, nil, CommandStatus.success), (202, nil, .success), (400, nil, .usage), (401, nil, .usage), (404, "notFound", .usage),
            (408, nil, .timedOut), (413, nil, .usage), (429, "throttled", .refused), (429, "overBudget", .refused),
            (500, "functionError", .failed),
            (502, "crashed", .failed), (503, "overloaded", .refused), (504, "timedOut", .timedOut), (507, "outOfMemory", .failed),
            (508, "loop", .refused), (500, nil, .failed), (503, nil, .refused), (500, "timedOut", .timedOut), (500, "novel", .failed),
        ] as [(Int, String?, CommandStatus)])
    func maps(http: Int, code: String?, status: CommandStatus) { #expect(CommandStatus(httpStatus: http, code: code) == status) }

    @Test func numbersAreStable() { #expect(CommandStatus.allCases.map(\.rawValue) == [0, 1, 2, 3, 4, 5]) }

    @Test func helpNamesEveryStatus() {
        for status in CommandStatus.allCases { #expect(CommandStatus.help.contains("\(status.rawValue) ")) }
    }

    @Test func aFailureIsAProblemDocument() throws {
        let failure = Failure(status: .usage, code: "usage", sentence: "a \"b\"\n\u{1}\u{2028}\\")
        let object = try #require(try JSONSerialization.jsonObject(with: Data(failure.document.utf8)) as? [String: Any])
        #expect(object["code"] as? String == "usage")
        #expect(object["detail"] as? String == "a \"b\"\n\u{1}\u{2028}\\")
        #expect(Failure(status: .usage, code: "x", sentence: "y", problem: "{\"own\":1}").document == "{\"own\":1}")
    }
}

@Suite struct CommandLineWordsTests {
    @Test(arguments: [
        ("--state D ps", "ps --state D"), ("--state=D --json ps -x", "ps --state=D --json -x"), ("ps --state D", "ps --state D"),
        ("--state D keys create --tenant t", "keys create --state D --tenant t"), ("--state D keys", "keys --state D"),
        ("--state D keys --help", "keys --state D --help"), ("--help", "--help"), ("--state D --help", "--state D --help"),
        ("--state", "--state"), ("--state D", "--state D"), ("--json invoke a/b --data --json", "invoke --json a/b --data --json"),
        ("", ""),
    ])
    func moves(before: String, after: String) {
        #expect(CommandLineWords.normalized(before.split(separator: " ").map(String.init)).joined(separator: " ") == after)
    }

    @Test func findsTheWishForJSON() {
        #expect(CommandLineWords.wantsJSON(["ps", "--json"]))
        #expect(!CommandLineWords.wantsJSON(["invoke", "--", "--json"]))
    }
}
