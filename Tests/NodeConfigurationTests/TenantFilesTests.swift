// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Testing

@Suite struct TenantFilesTests {
    let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("tenants-\(UUID())")
        try FileManager.default.createDirectory(at: folder.appendingPathComponent("tenants.d"), withIntermediateDirectories: true)
    }

    private func write(_ name: String, _ text: String, age: Double) throws {
        let file = folder.appendingPathComponent("tenants.d/\(name).yaml")
        try Data(text.utf8).write(to: file)
        try FileManager.default.setAttributes([.modificationDate: Date(timeIntervalSinceNow: -age)], ofItemAtPath: file.path)
    }
    private func seats(_ configuration: NodeConfiguration, _ name: String) -> Int? {
        configuration.tenants.first { $0.tenant.text == name }?.concurrency
    }

    @Test("only what changed is parsed again, and what it says counts; the order is the names'")
    func changes() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        for number in 100..<300 { try write("t\(number)", "tenant: t\(number)\nquota: {concurrency: 5}\n", age: 100) }
        var files = TenantFiles()
        let first = try NodeConfiguration.load(directory: folder.path, &files)
        #expect(files.parsed == 200 && first.tenants.map(\.tenant.text) == (100..<300).map { "t\($0)" })
        #expect(try NodeConfiguration.load(directory: folder.path, &files) == first && files.parsed == 0)
        // The same size: the time alone says it.
        try write("t150", "tenant: t150\nquota: {concurrency: 7}\n", age: 50)
        let second = try NodeConfiguration.load(directory: folder.path, &files)
        #expect(files.parsed == 1 && seats(second, "t150") == 7 && seats(second, "t151") == 5)
        try FileManager.default.removeItem(at: folder.appendingPathComponent("tenants.d/t100.yaml"))
        #expect(try NodeConfiguration.load(directory: folder.path, &files).tenants.count == 199 && files.parsed == 0)
        #expect(try NodeConfiguration.load(directory: folder.path) == NodeConfiguration.load(directory: folder.path, &files))
    }

    @Test("a file that was written just now is parsed each time: it may be written again without another time")
    func tooNew() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        try write("acme", "tenant: acme\n", age: 0)
        try write("globex", "tenant: globex\n", age: 100)
        var files = TenantFiles()
        for _ in 0..<3 {
            _ = try NodeConfiguration.load(directory: folder.path, &files)
            #expect(files.parsed >= 1)
        }
        #expect(files.parsed == 1)
    }

    @Test("files that differ only in their tenant are read as one; what else is in a first line is not mistaken for a name")
    func alike() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        let plans = ["quota: {concurrency: 5}\n", "quota: {concurrency: 6}\n", "weight: 2\n"]
        for number in 100..<190 { try write("t\(number)", "tenant: t\(number)\n" + plans[number % 3], age: 100) }
        try write("other", "# tenant: other\ntenant: other\nweight: 3\n", age: 100)
        let read = try NodeConfiguration.load(directory: folder.path)
        for tenant in read.tenants {
            let name = tenant.tenant.text
            let text = try Data(contentsOf: folder.appendingPathComponent("tenants.d/\(name).yaml"))
            #expect(try TenantConfiguration(yaml: Array(text), file: "", name: name) == tenant)
        }
        #expect(read.tenants.count == 91)
        // The same rest under a name that is not the file's is a mistake all the same.
        try write("t500", "tenant: t501\nweight: 2\n", age: 100)
        #expect(throws: ConfigurationErrors.self) { try NodeConfiguration.load(directory: folder.path) }
    }

    @Test("a mistake is told each time, with those of all other files, until it is mended")
    func mistakes() throws {
        defer { try? FileManager.default.removeItem(at: folder) }
        try write("acme", "tenant: acme\nquota: {concurrency: 0}\n", age: 100)
        try write("globex", "tenant: wrong\n", age: 100)
        try write("initech", "tenant: initech\n", age: 100)
        var files = TenantFiles()
        for _ in 0..<2 {
            do throws(ConfigurationErrors) {
                _ = try NodeConfiguration.load(directory: folder.path, &files)
                Issue.record("mistakes were taken")
            } catch {
                #expect(error.errors.map(\.file) == ["tenants.d/acme.yaml", "tenants.d/globex.yaml"])
            }
        }
        try write("acme", "tenant: acme\nquota: {concurrency: 1}\n", age: 50)
        try write("globex", "tenant: globex\n", age: 50)
        #expect(try NodeConfiguration.load(directory: folder.path, &files).tenants.count == 3 && files.parsed == 2)
    }
}
