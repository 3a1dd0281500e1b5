// SPDX-License-Identifier: Apache-2.0

/// The machine's memory as the kernel tells it, and when it is too little. What the node promises is bounded by the sum of its workers' limits; this is for a machine on which others
/// live too, or whose promise is larger than what it has.
public struct MachineMemory: Hashable, Sendable {
    public var total: UInt64
    /// What can be had without swapping, in bytes.
    public var available: UInt64
    /// Per cent of the last ten seconds in which something waited for memory; nil where the kernel does not say.
    public var stalled: Double?

    public init(total: UInt64, available: UInt64, stalled: Double? = nil) {
        self.total = total
        self.available = available
        self.stalled = stalled
    }

    /// From the texts of `/proc/meminfo` and `/proc/pressure/memory` (proc(5)). Nil where the first does not name what is available.
    public init?(meminfo: String, pressure: String?) {
        func bytes(_ key: String) -> UInt64? {
            guard let line = meminfo.split(separator: "\n").first(where: { $0.hasPrefix(key) }) else { return nil }
            let words = line.dropFirst(key.count).split(separator: " ")
            guard let kilobytes = words.first.flatMap({ UInt64($0) }), words.count == 2, words[1] == "kB" else { return nil }
            let (bytes, overflow) = kilobytes.multipliedReportingOverflow(by: 1024)
            return overflow ? nil : bytes
        }
        guard let total = bytes("MemTotal:"), let available = bytes("MemAvailable:"), available <= total else { return nil }
        let some = pressure?.split(separator: "\n").first { $0.hasPrefix("some ") }
        let average = some?.split(separator: " ").first { $0.hasPrefix("avg10=") }?.dropFirst(6)
        self.init(total: total, available: available, stalled: average.flatMap { Self.hundredths($0) })
    }

    /// `12.34` without a locale.
    private static func hundredths(_ text: Substring) -> Double? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[1].utf8.count == 2, let whole = UInt16(parts[0]), let part = UInt8(parts[1]), whole <= 100 else {
            return nil
        }
        return Double(whole) + Double(part) / 100
    }

    /// Bytes that should be available and are not: a twentieth of the machine. While something waits for memory for more than 5 % of the time, a tenth: on a machine that has more than
    /// that the stall is a worker's at its own limit, which is nobody else's concern.
    public var missing: UInt64 { wanted > available ? wanted - available : 0 }

    var wanted: UInt64 { (stalled ?? 0) > 5 ? total / 10 : total / 20 }
}

/// When a shortage is over: after ten looks in a row, a second apart, at a quarter more than was wanted. At the very place where it began, what starts again would bring it back.
public struct MemoryRule: Hashable, Sendable {
    static let looks = 10
    private var isShort = false
    private var enough = 0

    public init() {}

    /// - Returns: the bytes that are missing; 0 at the end of a shortage; nil where the node need not hear of it.
    public mutating func judge(_ memory: MachineMemory) -> UInt64? {
        if memory.missing > 0 {
            (isShort, enough) = (true, 0)
            return memory.missing
        }
        guard isShort else { return nil }
        enough = memory.available >= memory.wanted / 4 * 5 ? enough + 1 : 0
        guard enough == Self.looks else { return nil }
        isShort = false
        return 0
    }
}

extension Node {
    /// Workers that go for the machine's memory each time it is told to be short. Few: a worker holds less than its limit, and the next second shows what it has brought.
    static let evictionsAtOnce = 8

    /// Ends idle workers, those first that are cheapest to bring back, until their limits are what is missing. A least number of workers stays.
    func relieve(_ missing: UInt64, _ now: Instant, _ actions: inout [Action]) {
        let wasShort = isMemoryShort
        isMemoryShort = missing > 0
        guard isMemoryShort else {
            if wasShort { renewGroups(now, &actions) }
            return
        }
        // What is on its way out has not shown in the machine's figures yet.
        var left = workers.values.reduce(Int64(clamping: missing)) {
            $1.state == .draining || $1.state == .dying ? $0 - Int64(clamping: $1.limits.memoryBytes) : $0
        }
        // What ends already keeps no version at its least number.
        var living: [ObjectIdentifier: Int] = [:]
        for worker in workers.values where worker.state == .starting || worker.state == .ready && !worker.isRetiring {
            if let pool = worker.pool { living[ObjectIdentifier(pool), default: 0] += 1 }
        }
        var gone = 0
        for (worker, _) in evictable(now) where left > 0 && gone < Self.evictionsAtOnce {
            if let pool = worker.pool {
                guard pool.isRemoved || living[ObjectIdentifier(pool), default: 0] > pool.spec.minimumWorkers else { continue }
                living[ObjectIdentifier(pool), default: 0] -= 1
            }
            left -= Int64(clamping: worker.limits.memoryBytes)
            gone += 1
            if worker.state == .ready {
                drain(worker, now, &actions)
            } else {
                end(worker, because: "the machine is short of memory", expected: true, &actions)
            }
        }
        pressureEvictions += UInt64(gone)
    }

    /// Groups for new tenants have all their spares again.
    private func renewGroups(_ now: Instant, _ actions: inout [Action]) {
        guard isConnected, !isDraining else { return }
        for group in freeGroups where hasRoomForSpares { fillGroup(group, now, &actions) }
        refillGroups(now, &actions)
    }

    /// Idle workers and spares, the cheapest to bring back first: spares and what was started ahead serve nobody yet; then by the time of a start times the likelihood of the next call;
    /// of equal ones the longest idle.
    private func evictable(_ now: Instant) -> [(worker: Worker, worth: Float)] {
        let idle = workers.values.filter { $0.state == .spare || $0.state == .ready && $0.inFlight == 0 }
        return idle.map { worker -> (worker: Worker, worth: Float) in
            guard let pool = worker.pool, !worker.isAhead else { return (worker, 0) }
            return (worker, pool.demand.worth(now))
        }.sorted { ($0.worth, $0.worker.idleSince, $0.worker.id) < ($1.worth, $1.worker.idleSince, $1.worker.id) }
    }
}
