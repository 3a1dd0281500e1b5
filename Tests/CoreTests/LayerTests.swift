// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct LayerTests {
    @Test("where a version's layers change, workers with others take nothing more, and what waits is served by new ones")
    func changed() throws {
        var stage = Stage()
        stage.runTime = .seconds(1)
        let version = try stage.add("acme", seats: 4) {
            $0.minimumWorkers = 2
            $0.instanceConcurrency = 2
        }
        stage.run(.seconds(1))
        let before = Set(stage.live(version))
        #expect(before.count == 2)
        // One is idle, and one is busy with a slot to spare.
        let running = stage.call(version)
        stage.run(.milliseconds(100))
        var spec = try #require(stage.node.versionView(version)?.spec)
        spec.layers = [try #require(Name("tracing"))]
        stage.tell(.versionRegistered(spec))
        let later = (0..<3).map { _ in stage.call(version) }
        for _ in 0..<40 {
            stage.run(.milliseconds(100))
            for old in before {
                let running = stage.workers[old]?.running ?? []
                #expect(running.isDisjoint(with: later), "a worker without the layer got a call after the change")
            }
        }
        for call in [running] + later { #expect(stage.verdicts[call] == .completed(.ok)) }
        #expect(before.isDisjoint(with: stage.live(version)), "a worker without the layer is still there")
        #expect(stage.live(version).count >= 2 && stage.violations.isEmpty)
        // The same again changes nothing.
        let present = Set(stage.live(version))
        stage.tell(.versionRegistered(spec))
        stage.run(.seconds(1))
        #expect(present == Set(stage.live(version)))
    }
}
