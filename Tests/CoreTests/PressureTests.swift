// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct PressureTests {
    private let limit: UInt64 = 128 << 20

    /// Functions with a worker each, idle: their starts take so long, and they were called so long ago.
    private func stage(_ spec: NodeSpec? = nil, _ plan: [(name: String, start: Nanoseconds, pauses: Nanoseconds)]) throws -> (
        Stage, [VersionID]
    ) {
        var stage = Stage(spec ?? NodeSpec(memoryBytes: 64 << 30, spareGroups: 0))
        var versions: [VersionID] = []
        for one in plan {
            stage.startTime = one.start
            let version = try stage.add(one.name) { $0.idle = .seconds(86_400) }
            for _ in 0..<3 {
                stage.call(version)
                stage.run(one.pauses)
            }
            versions.append(version)
        }
        return (stage, versions)
    }

    @Test("the cheapest to bring back go first, as many as are missing, and none when there is enough again")
    func order() throws {
        let (prepared, versions) = try stage(
            nil,
            [
                ("slow", .seconds(5), .milliseconds(100)), ("rare", .milliseconds(100), .seconds(1_000)),
                ("quick", .milliseconds(20), .milliseconds(100)), ("steady", .milliseconds(100), .seconds(20)),
            ])
        var stage = prepared
        // All but one were called a thousand seconds ago, or see a call once in a thousand seconds; what costs most to start stays longest.
        func live() -> [String] { versions.filter { !stage.live($0).isEmpty }.map(\.function.tenant.text) }
        #expect(live().count == 4)
        stage.tell(.memoryShort(bytes: 1))
        stage.run(.milliseconds(10))
        #expect(live() == ["slow", "quick", "steady"], "\(live())")
        stage.tell(.memoryShort(bytes: limit + 1))
        stage.run(.milliseconds(10))
        #expect(live() == ["slow"], "\(live())")
        #expect(stage.node.pressureEvictions == 3 && stage.node.isMemoryShort)
        stage.tell(.memoryShort(bytes: 0))
        stage.run(.seconds(10))
        #expect(live() == ["slow"] && !stage.node.isMemoryShort)
    }

    @Test("what runs stays, and so does the least number of workers")
    func kept() throws {
        var stage = Stage()
        stage.runTime = .seconds(20)
        let busy = try stage.add("busy")
        let least = try stage.add("least") { $0.minimumWorkers = 2 }
        stage.call(busy)
        stage.run(.seconds(1))
        let before = stage.live(busy) + stage.live(least)
        for _ in 0..<5 {
            stage.tell(.memoryShort(bytes: 1 << 40))
            stage.run(.seconds(1))
        }
        #expect(stage.live(busy) + stage.live(least) == before && before.count == 3 && stage.node.pressureEvictions == 0)
    }

    @Test("those on their way out do not stand for the least number of workers")
    func leastOfTheLiving() throws {
        var stage = Stage()
        let version = try stage.add("acme") { ($0.minimumWorkers, $0.maximumWorkers) = (2, 4) }
        for _ in 0..<4 { stage.call(version) }
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 4)
        stage.tell(.memoryShort(bytes: 2 * limit))
        stage.tell(.memoryShort(bytes: 1 << 40))
        #expect(stage.node.pressureEvictions == 2)
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 2)
    }

    @Test("groups that have lost some of their spares have all of them again")
    func someSpares() throws {
        var stage = Stage(NodeSpec(memoryBytes: 64 << 30, spareGroups: 2, sealedSpares: 2, prewarmedSpares: ["native": 1]))
        func spares() -> Int { stage.workers.values.count { $0.version == nil } }
        stage.run(.seconds(1))
        #expect(spares() == 6)
        stage.tell(.memoryShort(bytes: 64 << 20))
        stage.run(.seconds(1))
        #expect(spares() == 5)
        stage.tell(.memoryShort(bytes: 0))
        stage.run(.seconds(1))
        #expect(spares() == 6)
        stage.tell(.memoryShort(bytes: 0))
        stage.run(.seconds(1))
        #expect(spares() == 6 && stage.starts.count == 7)
    }

    @Test("a few a second, and those on their way out are counted")
    func bounded() throws {
        var stage = Stage()
        let version = try stage.add("acme") { $0.maximumWorkers = 50 }
        for _ in 0..<40 { stage.call(version) }
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 40)
        for round in 1...3 {
            stage.tell(.memoryShort(bytes: 1 << 40))
            stage.run(.seconds(1))
            #expect(stage.live(version).count == 40 - 8 * round)
        }
        // Told twice before the first one is gone.
        stage.tell(.memoryShort(bytes: limit))
        stage.tell(.memoryShort(bytes: limit))
        stage.run(.seconds(1))
        #expect(stage.live(version).count == 15)
    }

    @Test("spares go first and are not replaced before there is enough again; nothing is started ahead meanwhile")
    func spares() throws {
        let spec = NodeSpec(memoryBytes: 64 << 30, spareGroups: 2, sealedSpares: 1)
        let (prepared, versions) = try stage(spec, [("acme", .milliseconds(10), .milliseconds(50))])
        var stage = prepared
        func spares() -> Int { stage.workers.values.count { $0.version == nil } }
        let before = spares()
        #expect(before >= 2)
        stage.tell(.memoryShort(bytes: UInt64(before) * (64 << 20)))
        stage.run(.seconds(1))
        #expect(spares() == 0 && stage.live(versions[0]).count == 1)
        stage.runTime = .milliseconds(90)
        for _ in 0..<30 {
            stage.call(versions[0])
            stage.call(versions[0])
            stage.run(.milliseconds(100))
        }
        #expect(stage.live(versions[0]).count == 2 && spares() == 0)
        stage.tell(.memoryShort(bytes: 0))
        stage.run(.seconds(1))
        #expect(spares() >= 2)
    }

    @Test("the kernel's texts are read, and what is not one of them is not")
    func texts() {
        let meminfo = "MemTotal:       24684092 kB\nMemFree:        22159012 kB\nMemAvailable:   24018296 kB\nBuffers:            2196 kB\n"
        let pressure = "some avg10=12.50 avg60=0.00 avg300=0.00 total=98820188\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=8550835\n"
        let memory = MachineMemory(meminfo: meminfo, pressure: pressure)
        #expect(memory == MachineMemory(total: 24_684_092 << 10, available: 24_018_296 << 10, stalled: 12.5))
        #expect(MachineMemory(meminfo: meminfo, pressure: nil)?.stalled == nil)
        for text in [
            "", "some", "some avg10=", "some avg10=x.yz", "some avg10=-1.00", "some avg10=1e3", "full avg10=50.00", "some avg10=200.00",
        ] {
            let memory = MachineMemory(meminfo: meminfo, pressure: text)
            #expect(memory != nil && memory?.stalled == nil, "\(text)")
        }
        for text in [
            "", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n", "MemTotal: 5 kB\nMemAvailable: 6 kB\n", "MemTotal: 5 MB\nMemAvailable: 1 MB\n",
            "MemTotal: -5 kB\nMemAvailable: 1 kB\n", "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n",
        ] { #expect(MachineMemory(meminfo: text, pressure: pressure) == nil, "\(text)") }
    }

    @Test("a twentieth of the machine stays available, and a tenth while something waits for memory")
    func missing() {
        #expect(MachineMemory(total: 1000, available: 50).missing == 0)
        #expect(MachineMemory(total: 1000, available: 49).missing == 1)
        #expect(MachineMemory(total: 1000, available: 80, stalled: 5).missing == 0)
        #expect(MachineMemory(total: 1000, available: 80, stalled: 5.01).missing == 20)
        // A tenant that stalls at its own limit, on a machine with room.
        #expect(MachineMemory(total: 1000, available: 100, stalled: 100).missing == 0)
    }

    @Test("a shortage ends after ten looks in a row at a quarter more than was wanted, and only a shortage ends")
    func end() {
        var rule = MemoryRule()
        let (short, hardly, enough) = (
            MachineMemory(total: 4000, available: 199), MachineMemory(total: 4000, available: 249),
            MachineMemory(total: 4000, available: 250)
        )
        #expect(rule.judge(enough) == nil && rule.judge(hardly) == nil)
        #expect(rule.judge(short) == 1)
        for _ in 1..<10 { #expect(rule.judge(enough) == nil) }
        #expect(rule.judge(hardly) == nil, "begins to count anew")
        for _ in 1..<10 { #expect(rule.judge(enough) == nil) }
        #expect(rule.judge(enough) == 0)
        #expect(rule.judge(enough) == nil)
    }
}
