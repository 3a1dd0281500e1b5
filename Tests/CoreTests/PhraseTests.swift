// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Testing

@Suite struct PhraseTests {
    @Test(
        "a text of others is open at its end, and one that was cut says so still",
        arguments: [
            ("boom", "boom"), ("The file is gone.", "The file is gone"), ("what: ", "what"), ("a; b;\n", "a; b"), ("", ""), (". ", ""),
            ("cut...", "cut..."), ("cut... ", "cut..."),
        ])
    func open(text: String, open: String) { #expect(Phrase.open(text) == open) }

    @Test("an error without a type or without a message has no colon that nothing follows")
    func error() {
        #expect(Phrase.error("ValueError", "boom") == "ValueError: boom")
        #expect(Phrase.error("ValueError", "") == "ValueError" && Phrase.error("", "boom") == "boom")
    }

    @Test("what the system's library says of an error, which ends in a full stop, is nowhere part of a sentence as it is")
    func sources() throws {
        let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let folder = top.appending(path: "Sources")
        let all = FileManager.default.enumerator(atPath: folder.path)?.compactMap { $0 as? String } ?? []
        let names = all.filter { $0.hasSuffix(".swift") }
        try #require(names.count > 100)
        for name in names {
            for line in try String(contentsOf: folder.appending(path: name), encoding: .utf8).split(separator: "\n") {
                let bare = line.replacing("Phrase.open(error.localizedDescription)", with: "")
                #expect(!bare.contains("localizedDescription"), "\(name): \(line)")
            }
        }
    }
}
