// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import LoopSimulation

/// What the loop governor costs and what it lets through: `governor-bench`.
///
/// Each decision is timed alone, with the cost of reading the clock taken off. The scenarios run in simulated time, 50 seats and 1 s an invocation unless said otherwise, and end when
/// nothing happens any more or after a day.
@main struct Main {
    static func main() {
        print("decisions (ns, p50/p99/p99.9; goals: 1,000 without and 5,000 with recurrence)")
        let overhead = clockOverhead()
        for row in decisions(overhead) { print("  " + row) }
        print("\nmemory")
        for row in memory() { print("  " + row) }
        print("\nscenarios: recurrent invocations until the stop, with what they cost in all at 1 s each")
        for scenario in Scenario.all() { print("  " + scenario.run()) }
        print("\nloops that hide their lineage: to the cut, p50/p90/max of \(HiddenLoops.seeds) seeds")
        for row in HiddenLoops.rows() { print("  " + row) }
        print("\nhonest work: parked of a million events")
        for work in HonestWork.all + [HonestWork.chains] {
            let found = work.run(events: 1_000_000)
            print("  \(work.name): \(found.parked) of \(found.events), \(found.recurrent) recurrent, \(found.hours.rounded()) h")
        }
        let hot = HonestWork.hotKey(events: 1_000_000, every: 1)
        print("  one key, written every second: \(hot.breaks) breaks in \(hot.tests) tests over 1000000 events")
        print("  for comparison, \(HonestWork.tooFast.name): \(HonestWork.tooFast.run(events: 1_000).parked) parked")
        print("\nfalse breaks of streams that do not react")
        for alpha in [1e-4, 1e-2] {
            let breaks = HonestStream.falseBreaks(100_000, alpha: alpha, seed: UInt64.random(in: 0 ... .max))
            print("  alpha \(alpha): \(breaks) of 100000, allowed \(Int(alpha * 100_000))")
        }
    }
}

// MARK: decisions

func edgeID(_ function: String, tenant: String = "acme") -> EdgeID {
    guard let tenant = Name(tenant), let name = Name(function), let trigger = Name("bucket") else { fatalError("not a name") }
    return EdgeID(trigger: trigger, function: FunctionID(tenant: tenant, function: name))
}

func rootID(_ number: Int) -> InvocationID {
    InvocationID(milliseconds: UInt64(number), random: (1, UInt64(number) &* 0x9E37_79B9_7F4A_7C15))
}

func decisions(_ overhead: UInt64) -> [String] {
    let edges = (0..<1_000).map { edgeID("f\($0)") }
    let start = Core.Instant(nanoseconds: 1_000_000_000_000)
    var rows: [String] = []
    for depth in [1, 3, 8, 30] {
        var governor = LoopGovernor(seed: 1)
        for edge in edges { governor.configure(edge, EdgeSpec(), at: start) }
        var notes: [LoopNote] = []
        var causes: [Lineage] = []
        for root in 0..<1_000 {
            var lineage = Lineage(root: rootID(root), born: start)
            for hop in 0..<depth - 1 { lineage = lineage.child(entering: FunctionKey(edges[(root + hop) % 1_000].function), isSync: false) }
            causes.append(lineage)
        }
        let fresh = measure(200_000, overhead) { round in
            let root = round % 1_000
            guard case .admit = governor.admit(causes[root], through: edges[(root + depth) % 1_000], at: start, into: &notes) else {
                fatalError("not admitted")
            }
        }
        rows.append("first visit, path of \(depth): \(fresh)")
        let encode = measure(50_000, overhead) { _ = causes[$0 % 1_000].encoded }
        rows.append("  stored in \(causes[0].encoded.count) bytes, encoded in \(encode)")
    }
    for roots in [1_000, 60_000, 200_000] {
        var limits = LoopLimits()
        // So that none is used up in the run.
        limits.edge = TokenRule(burst: 1_000_000, every: 1)
        limits.root = TokenRule(burst: 1_000_000, every: 1)
        var governor = LoopGovernor(limits: limits, seed: 1)
        var notes: [LoopNote] = []
        let causes = (0..<roots).map { root in
            (0..<3).reduce(Lineage(root: rootID(root), born: start)) { lineage, hop in
                lineage.child(entering: FunctionKey(edges[(root + hop) % 1_000].function), isSync: false)
            }
        }
        var now = start
        let recurrent = measure(400_000, overhead) { round in
            let root = round &* 7919 % roots
            now = now + 1_000_000
            guard governor.admit(causes[root], through: edges[root % 1_000], at: now, into: &notes).pass?.isRecurrent == true
            else { fatalError("not admitted") }
        }
        rows.append("recurrence, \(roots) roots\(roots > limits.roots ? " (table overflows)" : ""): \(recurrent)")
    }
    return rows
}

func measure(_ count: Int, _ overhead: UInt64, _ body: (Int) -> Void) -> String {
    var samples: [UInt64] = []
    samples.reserveCapacity(count)
    for round in 0..<count + count / 10 {
        let from = monotonic()
        body(round)
        let took = monotonic() - from
        if round >= count / 10 { samples.append(took > overhead ? took - overhead : 0) }
    }
    samples.sort()
    return [0.5, 0.99, 0.999].map { "\(samples[Int(Double(count - 1) * $0)])" }.joined(separator: "/")
}

func memory() -> [String] {
    let start = Core.Instant(nanoseconds: 1_000_000_000_000)
    let edge = edgeID("f")
    var notes: [LoopNote] = []
    var governor = LoopGovernor(seed: 1)
    var limits = LoopLimits()
    limits.edge = TokenRule(burst: 1_000_000, every: 1)
    var wide = LoopGovernor(limits: limits, seed: 1)
    let before = resident()
    for root in 0..<1_000_000 { _ = governor.admit(Lineage(root: rootID(root), born: start), through: edge, at: start, into: &notes) }
    let acyclic = resident()
    var now = start
    for root in 0..<65_536 {
        let cause = Lineage(root: rootID(root), born: start).child(entering: FunctionKey(edge.function), isSync: false)
        now = now + 1_000
        _ = wide.admit(cause, through: edge, at: now, into: &notes)
    }
    let full = resident()
    for root in 65_536..<300_000 {
        let cause = Lineage(root: rootID(root), born: start).child(entering: FunctionKey(edge.function), isSync: false)
        now = now + 1_000
        _ = wide.admit(cause, through: edge, at: now, into: &notes)
    }
    let overflowing = resident()
    return [
        "1,000,000 roots without recurrence: \((acyclic - before) >> 10) KiB",
        "65,536 roots that recur: \((full - acyclic) >> 10) KiB, \((full - acyclic) / 65_536) bytes each; 300,000: \((overflowing - acyclic) >> 10) KiB",
        "a lineage in memory: \(MemoryLayout<Lineage>.size) bytes and \(MemoryLayout<Lineage.Visit>.stride) for each function on its path",
    ]
}

// MARK: the machine

func monotonic() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// The median of what two readings in a row are apart.
func clockOverhead() -> UInt64 {
    var samples: [UInt64] = []
    for _ in 0..<10_001 {
        let from = monotonic()
        samples.append(monotonic() - from)
    }
    return samples.sorted()[5_000]
}

/// Resident memory of this process.
func resident() -> Int {
    let file = unsafe open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    defer { close(file) }
    var text = [UInt8](repeating: 0, count: 128)
    let length = unsafe text.withUnsafeMutableBytes { unsafe read(file, $0.baseAddress, $0.count) }
    guard length > 0 else { fatalError("no /proc/self/statm") }
    let fields = String(decoding: text[..<length], as: UTF8.self).split(separator: " ")
    return (Int(fields[1]) ?? 0) * Int(getpagesize())
}
