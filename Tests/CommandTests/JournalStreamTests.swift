// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import CommandKit

@Suite struct JournalStreamTests {
    private func environment(_ variables: [String: String]) -> [String] {
        NodeStart(
            state: "/srv/node", port: 8080, configuration: nil, paths: NodePaths(executableFolder: "/usr/bin", environment: variables)
        )
        .policy(
            directory: "/srv/node", daemon: "/usr/bin/bulkheadd", share: "/usr/share/bulkhead",
            identity: .init(daemonUID: 699_999, daemonGID: 699_999, workers: IDRange(first: 700_000, count: 4096)), configuration: nil,
            runtimes: [], ceilings: SpawnerPolicyTests.ceilings
        ).daemonEnvironment
    }

    @Test("the daemon hears which stream the journal reads, where it is a device and an inode")
    func passed() {
        #expect(environment(["JOURNAL_STREAM": "8:12345"]).contains("JOURNAL_STREAM=8:12345"))
        for value in ["", "8:1\nversion 2", "elsewhere"] {
            #expect(!environment(["JOURNAL_STREAM": value]).contains { $0.hasPrefix("JOURNAL_STREAM") }, "\(value)")
        }
    }
}
