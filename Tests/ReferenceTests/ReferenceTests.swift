// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Gateway
import NodeConfiguration
import Testing

/// The repository's own files.
enum Repository {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static func read(_ path: String) throws -> String { try String(contentsOf: root.appending(path: path), encoding: .utf8) }

    /// Swift files below a folder, by path.
    static func sources(_ folder: String) throws -> [(path: String, text: String)] {
        let names = FileManager.default.enumerator(atPath: root.appending(path: folder).path)?.compactMap { $0 as? String } ?? []
        return try names.filter { $0.hasSuffix(".swift") }.map { ("\(folder)/\($0)", try read("\(folder)/\($0)")) }
    }
}

/// The committed reference is the one that the code gives.
@Suite struct ReferenceTests {
    /// `Tests/reference` sets it to write the files anew.
    private static let writes = ProcessInfo.processInfo.environment["BULKHEAD_WRITE_REFERENCE"] == "1"

    private func compare(_ path: String, _ text: String) throws {
        if Self.writes { try text.write(to: Repository.root.appending(path: path), atomically: true, encoding: .utf8) }
        let committed = (try? Repository.read(path)) ?? ""
        let old = committed.split(separator: "\n", omittingEmptySubsequences: false)
        let new = text.split(separator: "\n", omittingEmptySubsequences: false)
        let first = zip(old, new).enumerated().first { $0.element.0 != $0.element.1 }
        #expect(
            committed == text,
            "\(path) is not what the code says: run Tests/reference. First difference: line \((first?.offset ?? min(old.count, new.count)) + 1)"
        )
    }

    @Test("docs/REFERENCE.md and docs/openapi.json are what the code says")
    func committed() throws {
        try compare("docs/REFERENCE.md", try Reference.text())
        try compare("docs/openapi.json", try OpenAPI.document())
    }

    @Test("every key that a parser of the configuration asks for has a meaning, and every meaning a key")
    func keys() {
        for keys in [ConfigurationReference.node(), ConfigurationReference.tenant(), ConfigurationReference.function()] {
            #expect(keys.count > 10)
            for key in keys { #expect(!key.meaning.isEmpty, "\(key.path)") }
        }
        #expect(ConfigurationReference.unused == [])
    }

    @Test("every code of a problem in the sources is in the table, every outcome too, and nothing else is")
    func codes() throws {
        let forms = [
            #/\bcode: \s*"([a-zA-Z]+)"/#, #/(?:\.failed|Failure\.failed|conflict)\(\s*"([a-zA-Z]+)"/#, #/problem\.code = "([a-zA-Z]+)"/#,
        ]
        var used: Set<String> = Set(Outcome.allCases.filter { $0 != .ok }.map(\.rawValue))
        for folder in ["Sources/Gateway", "Sources/bulkheadd", "Sources/CommandKit", "Sources/bulkhead"] {
            for (_, text) in try Repository.sources(folder) {
                for form in forms { used.formUnion(text.matches(of: form).map { String($0.output.1) }) }
            }
        }
        let known = Set(ErrorCode.all.map(\.code))
        #expect(used.subtracting(known).sorted() == [], "they have no meaning in ErrorCode.swift")
        #expect(known.subtracting(used).sorted() == [], "nothing says them any more")
        #expect(known.count == ErrorCode.all.count)
    }

    @Test("statuses of outcomes in the table are those that the gateway sends")
    func statuses() {
        for outcome in Outcome.allCases where outcome != .ok {
            #expect(ErrorCode.outcomes.first { $0.code == outcome.rawValue }?.statuses == [OutcomeMapping.status(outcome)], "\(outcome)")
        }
    }

    @Test("every operation has an id of its own, and every schema that is named is there")
    func openAPI() throws {
        #expect(Set(Routes.all.map(OpenAPI.id)).count == Routes.all.count)
        let text = try OpenAPI.document()
        let document = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        let components = try #require(document["components"] as? [String: Any])
        let schemas = try #require(components["schemas"] as? [String: [String: Any]])
        for match in text.matches(of: #/"#\/components\/schemas\/([A-Za-z]+)"/#) {
            let properties = schemas[String(match.output.1)]?["properties"] as? [String: Any]
            #expect(properties?.isEmpty == false, "\(match.output.1)")
        }
        let version = try #require(schemas["VersionReply"])
        #expect((version["required"] as? [String])?.contains("codeHash") == true)
        let list = (version["properties"] as? [String: [String: Any]])?["aliases"]
        #expect(list?["type"] as? String == "array")
    }

    @Test("every metric has a help text, and its lines have the labels that the reference shows")
    func metrics() throws {
        let text = try Reference.exposition()
        let families = text.matches(of: #/# HELP ([a-z_]+) (.+)\n# TYPE ([a-z_]+) (counter|gauge|histogram)/#)
        #expect(families.count > 25)
        #expect(families.allSatisfy { $0.output.1 == $0.output.3 && $0.output.2.hasSuffix(".") })
        let names = Set(families.map { String($0.output.1) })
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            let name = String(line.prefix { $0 != "{" && $0 != " " })
            #expect(
                names.contains(name)
                    || ["_bucket", "_sum", "_count"].contains { name.hasSuffix($0) && names.contains(String(name.dropLast($0.count))) })
        }
    }
}
