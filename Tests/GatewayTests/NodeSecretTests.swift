// SPDX-License-Identifier: Apache-2.0
import Foundation
import Logging
import Testing

@testable import bulkheadd

@Suite struct NodeSecretTests {
    private let path = NSTemporaryDirectory() + "/node-secret-\(UUID().uuidString)"
    private let logger = Logger(label: "test")

    @Test("the secret is made once, for its owner alone")
    func once() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        let first = NodeSecret.load(path, logger)
        #expect(first.count == NodeSecret.length)
        #expect(NodeSecret.load(path, logger) == first)
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? NSNumber
        #expect(mode?.intValue == 0o600)
    }

    @Test("a file of another length is replaced and closed to others")
    func replaced() throws {
        defer { try? FileManager.default.removeItem(atPath: path) }
        #expect(FileManager.default.createFile(atPath: path, contents: Data([1]), attributes: [.posixPermissions: 0o644]))
        #expect(NodeSecret.load(path, logger).count == NodeSecret.length)
        #expect(FileManager.default.contents(atPath: path)?.count == NodeSecret.length)
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? NSNumber
        #expect(mode?.intValue == 0o600)
    }
}
