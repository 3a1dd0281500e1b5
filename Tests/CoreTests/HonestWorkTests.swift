// SPDX-License-Identifier: Apache-2.0
import LoopSimulation
import Testing

/// What is no loop is left alone. `governor-bench` does the same with a million events of each.
@Suite struct HonestWorkTests {
    @Test("honest work is never parked, however wide, busy or patient", arguments: HonestWork.all.indices)
    func untouched(number: Int) {
        let found = HonestWork.all[number].run(events: 25_000)
        #expect(found.parked == 0 && found.alarms == 0 && found.events == 25_000, "\(HonestWork.all[number].name): \(found)")
    }

    @Test("chains of one a minute are legal for ever; one that is twice as fast is not")
    func chains() {
        let found = HonestWork.chains.run(events: 25_000)
        #expect(found.parked == 0 && found.recurrent > 24_000, "\(found)")
        #expect(HonestWork.tooFast.run(events: 500).parked > 0)
    }

    @Test("a key that is written every second is tested and not broken")
    func hotKey() {
        let found = HonestWork.hotKey(events: 20_000, every: 1)
        #expect(found.tests >= 4 && found.breaks == 0, "\(found)")
    }
}
