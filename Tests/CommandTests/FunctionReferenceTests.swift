// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Core
import Testing

@Suite struct FunctionReferenceTests {
    @Test(arguments: [
        ("acme/thumbnail", FunctionReference.Selector.latest),
        ("acme/thumbnail@7", .version(7)),
        ("acme/thumbnail@4294967295", .version(.max)),
        ("a1/b-2@1", .version(1)),
    ])
    func reads(text: String, selector: FunctionReference.Selector) throws {
        let reference = try FunctionReference(parsing: text)
        #expect(reference.selector == selector)
        #expect(reference.description == text)
    }

    @Test func readsAnAlias() throws {
        let reference = try FunctionReference(parsing: "acme/thumbnail:stable")
        #expect(reference.selector == .alias(try #require(Name("stable"))))
        #expect(reference.function.description == "acme/thumbnail")
    }

    @Test(arguments: [
        ("thumbnail", "TENANT/FUNCTION"), ("", "TENANT/FUNCTION"), ("a/b/c", "TENANT/FUNCTION"), ("Acme/thumbnail", "tenant name"),
        ("acme/Thumb", "function name"), ("acme/", "function name"), ("/thumbnail", "tenant name"), ("acme/thumbnail@", "version"),
        ("acme/thumbnail@0", "version"), ("acme/thumbnail@-1", "version"), ("acme/thumbnail@+1", "version"),
        ("acme/thumbnail@4294967296", "version"), ("acme/thumbnail@1x", "version"), ("acme/thumbnail:", "alias name"),
        ("acme/thumbnail:St", "alias name"), ("acme/thumbnail@1:stable", "version"), ("acme/../x", "TENANT/FUNCTION"),
    ])
    func refuses(text: String, part: String) {
        let failure = #expect(throws: Failure.self) { try FunctionReference(parsing: text) }
        #expect(failure?.status == .usage)
        #expect(failure?.sentence.contains(part) == true)
    }

    @Test func anErrorCannotDriveTheTerminal() {
        let failure = #expect(throws: Failure.self) { try FunctionReference(parsing: "ac\u{1b}[2Jme/x") }
        #expect(failure?.sentence.contains("\u{1b}") == false)
        #expect(failure?.sentence.contains("\\x1b[2J") == true)
    }
}
