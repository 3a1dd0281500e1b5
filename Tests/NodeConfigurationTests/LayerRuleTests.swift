// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Testing
import Wire

@Suite struct LayerRuleTests {
    private func names(_ words: String...) -> [Name] { words.compactMap { Name($0) } }

    private func tenant(_ layers: String) -> Result<TenantConfiguration, ConfigurationErrors> {
        do throws(ConfigurationErrors) {
            return .success(try TenantConfiguration(yaml: Array("tenant: acme\nlayers: \(layers)\n".utf8), file: "acme.yaml", name: "acme"))
        } catch { return .failure(error) }
    }

    @Test("what is forced comes first, in its order; what is allowed follows where a function names it; the rest is missing")
    func applied() {
        let rules = LayerRules(allow: names("b", "c"), force: names("z", "a"))
        let found = rules.applied(to: names("c", "a", "evil", "b"))
        #expect(found.granted == names("z", "a", "c", "b") && found.missing == names("evil"))
        #expect(LayerRules().applied(to: names("b")).missing == names("b") && LayerRules().applied(to: []).granted.isEmpty)
    }

    @Test("a tenant's and a function's layers are names, each once, and at most eight in all")
    func parsed() throws {
        let rules = try tenant("{force: [z, a], allow: [a, b]}").get().layers
        #expect(rules == LayerRules(allow: names("a", "b"), force: names("z", "a")))
        #expect(try tenant("{force: [a, b, c, d], allow: [e, f, g, h, a]}").get().layers.allow.count == 5)
        for wrong in [
            "{force: [a, a]}", "{force: [../a]}", "{allow: [/etc]}", "{allow: [A]}", "{forced: [a]}", "[a]",
            "{force: [a, b, c, d], allow: [e, f, g, h, i]}",
        ] {
            #expect(throws: ConfigurationErrors.self, "\(wrong)") { try tenant(wrong).get() }
        }
        func manifest(_ layers: String) throws(ConfigurationErrors) -> [Name] {
            try FunctionManifest(yaml: Array("function: f\nruntime: python3\nhandler: a.b\nlayers: \(layers)\n".utf8)).layers
        }
        #expect(try manifest("[b, a]") == names("b", "a"))
        for wrong in ["[a, a]", "['../a']", "a", "[a, b, c, d, e, f, g, h, i]"] {
            #expect(throws: ConfigurationErrors.self, "\(wrong)") { try manifest(wrong) }
        }
    }

    @Test("as many as a function may have reach its worker")
    func reached() throws {
        let most = (0..<LayerRules.maximum).compactMap { Name("layer\($0)") }
        #expect(try tenant("{force: [\(most.map(\.text).joined(separator: ", "))]}").get().layers.force == most)
        let request = SpawnerRequest.assign(
            WorkerID(7), runtime: "native", limits: WorkerLimits(), code: "c", command: [], buckets: nil, layers: most)
        #expect(try SpawnerRequest(decoding: request.encoded()[...]) == request)
    }

    @Test("a tenant's file may name the folders in layers/ alone: no link, no file, nothing that is not there")
    func folders() throws {
        let files = FileManager.default
        let folder = files.temporaryDirectory.appendingPathComponent("layers-\(UUID())")
        defer { try? files.removeItem(at: folder) }
        try files.createDirectory(at: folder.appendingPathComponent("layers/tracing"), withIntermediateDirectories: true)
        try files.createDirectory(at: folder.appendingPathComponent("layers/tracing.new"), withIntermediateDirectories: true)
        try files.createDirectory(at: folder.appendingPathComponent("tenants.d"), withIntermediateDirectories: true)
        try files.createSymbolicLink(at: folder.appendingPathComponent("layers/evil"), withDestinationURL: URL(fileURLWithPath: "/etc"))
        try Data().write(to: folder.appendingPathComponent("layers/file"))
        func load(_ layers: String) throws(ConfigurationErrors) -> NodeConfiguration {
            try? Data("tenant: acme\nlayers: {force: [\(layers)]}\n".utf8).write(to: folder.appendingPathComponent("tenants.d/acme.yaml"))
            return try NodeConfiguration.load(directory: folder.path)
        }
        #expect(try load("tracing").layers == names("tracing"))
        for name in ["evil", "file", "absent"] {
            let error = #expect(throws: ConfigurationErrors.self) { try load("tracing, \(name)") }
            #expect(
                error?.description.contains("tenants.d/acme.yaml") == true
                    && error?.description.contains("no folder layers/\(name)") == true)
        }
        for number in 0..<64 {
            try files.createDirectory(at: folder.appendingPathComponent("layers/l\(number)"), withIntermediateDirectories: true)
        }
        let error = #expect(throws: ConfigurationErrors.self) { try load("tracing") }
        #expect(error?.description.contains("at most 64") == true)
    }
}
