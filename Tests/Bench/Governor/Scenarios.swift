// SPDX-License-Identifier: Apache-2.0
import Core

/// Functions that cause each other, until nothing happens any more or a day is over.
struct Scenario {
    struct Job {
        var lineage: Lineage
        var edge: Int
        var isRecurrent = false
    }
    var name: String
    var bound: String
    var functions = 1
    /// The functions belong to so many tenants in turn.
    var tenants = 1
    var roots = 1
    var seats = 50
    /// How a function causes the next: by an object of a bucket, where it is not nil.
    var writes: ObjectTrail.Way?
    var children: (Int) -> [(edge: Int, delay: Double)]

    /// Every second something ends or comes; a list for each second is all that is needed.
    func run() -> String {
        let edges = (0..<functions).map { edgeID("f\($0)", tenant: "acme-\($0 % tenants)") }
        var governor = LoopGovernor(seed: 1)
        var trail = writes.map { ObjectTrail($0) }
        var (coming, ending): ([Int: [Job]], [Int: [Job]]) = ([:], [:])
        var waiting: [Job] = []
        var notes: [LoopNote] = []
        var (running, total, recurrent, parked) = (0, 0, 0, 0)
        var (alarm, suspected, last): (Int?, Int?, Int) = (nil, nil, 0)
        let origin: UInt64 = 1_000_000
        coming[0] = (0..<roots).map { Job(lineage: Lineage(root: rootID($0), born: at(origin)), edge: 0) }
        for second in 0..<86_400 {
            let now = at(origin + UInt64(second))
            if governor.nextDeadline.map({ $0 <= now }) ?? false { governor.timePassed(at: now, into: &notes) }
            for job in ending.removeValue(forKey: second) ?? [] {
                running -= 1
                governor.finish(job.lineage, through: edges[job.edge], seatTime: 1_000_000_000, at: now)
                for (edge, delay) in children(job.edge) {
                    let cause = trail?.cause(job.lineage, from: edges[job.edge], to: edges[edge], at: now) ?? job.lineage
                    coming[second + Int(delay), default: []].append(Job(lineage: cause, edge: edge))
                }
            }
            for event in coming.removeValue(forKey: second) ?? [] {
                var job = event
                guard let pass = governor.admit(job.lineage, through: edges[job.edge], at: now, into: &notes).pass else {
                    parked += 1
                    continue
                }
                job.lineage = pass.lineage
                job.isRecurrent = pass.isRecurrent
                waiting.append(job)
            }
            var held: [Job] = []
            for job in waiting {
                guard running < seats, governor.start(job.lineage, through: edges[job.edge]) else {
                    held.append(job)
                    continue
                }
                running += 1
                total += 1
                recurrent += job.isRecurrent ? 1 : 0
                last = second
                ending[second + 1, default: []].append(job)
            }
            waiting = held
            if suspected == nil, notes.contains(where: { if case .suspect = $0 { true } else { false } }) { suspected = second }
            if alarm == nil, notes.contains(where: { if case .alarm = $0 { true } else { false } }) { alarm = second }
            if coming.isEmpty, ending.isEmpty, waiting.isEmpty { break }
        }
        let text = { (second: Int?) in second.map { "\($0) s" } ?? "never" }
        return "\(name): \(recurrent) recurrent of \(total) (bound \(bound)), \(parked) parked; one seat from \(text(suspected)), "
            + "first alarm \(text(alarm)), last run \(text(last)), cost \(total) seat-seconds"
    }

    static func all() -> [Scenario] { loops() + pairs() + cycles() + buckets() + others() }

    private static func others() -> [Scenario] {
        [
            Scenario(name: "m = 1.5 (2, 1 by turns over two functions)", bound: "1,000 + t/60", functions: 2) {
                Array(repeating: (edge: 1 - $0, delay: 0), count: 1 + $0)
            },
            Scenario(name: "10,000 uploads, each loops", bound: "10,000 + 10,000/h", roots: 10_000, seats: 5_000) { _ in [(0, 0)] },
            Scenario(name: "m = 2 every 10 min", bound: "1,000 + 1/min: 2,440 in a day", seats: 5_000) { _ in [(0, 599), (0, 599)] },
            Scenario(name: "self-chain every 30 s", bound: "16 + t/60") { _ in [(0, 29)] },
            Scenario(name: "self-chain every 60 s", bound: "legal for ever") { _ in [(0, 59)] },
            Scenario(name: "map-reduce 1 -> 10,000 -> 1", bound: "0: nothing recurs", functions: 3) {
                $0 == 0 ? Array(repeating: (edge: 1, delay: 0), count: 10_000) : $0 == 1 ? [(2, 0)] : []
            },
        ]
    }

    private static func loops() -> [Scenario] {
        [1, 2, 3, 10, 100].map { m in
            Scenario(name: "self-loop, m = \(m)", bound: m == 1 ? "16 + t/60" : "1,000 + t/60") { _ in
                Array(repeating: (edge: 0, delay: 0), count: m)
            }
        }
    }

    /// What one tenant may do to another is what it may do to itself.
    private static func pairs() -> [Scenario] {
        [(1, 1), (2, 1), (1, 2), (2, 2)].map { (m: Int, tenants: Int) in
            Scenario(
                name: tenants == 1 ? "A <-> B, m = \(m)" : "ping-pong of two tenants, m = \(m)",
                bound: m == 1 ? "32 + t/60" : "1,000 + t/60", functions: 2, tenants: tenants
            ) { Array(repeating: (edge: 1 - $0, delay: 0), count: m) }
        }
    }

    private static func cycles() -> [Scenario] {
        [3, 10, 100, 200].map { n in
            Scenario(name: "cycle of \(n)", bound: n == 3 ? "48 + t/20" : "64 hops", functions: n) {
                [(($0 + 1) % n, 0)]
            }
        }
    }

    /// A function that writes where its own trigger listens, in ways that hide whose object it is.
    private static func buckets() -> [Scenario] {
        ObjectTrail.Way.allCases.flatMap { way in
            [1, 2].map { m in
                Scenario(name: "bucket, \(way.rawValue), m = \(m)", bound: m == 1 ? "16 + t/60" : "1,000 + t/60", writes: way) { _ in
                    Array(repeating: (edge: 0, delay: 0), count: m)
                }
            }
        }
    }
}

/// What the write ledger says of whose object an event is about. What is in the object, packed or stripped of its metadata, is nothing to it; objects of which nobody
/// knows the writer are ``HiddenLoops``.
struct ObjectTrail {
    enum Way: String, CaseIterable {
        case sameKey = "the same key each time"
        case newKey = "a copy under a new key each time"
        /// Written under another name, which no trigger listens to, and renamed: the file is the same one.
        case renamed = "written aside and renamed"
    }

    private let way: Way
    private var ledger = WriteLedger(capacity: 100_000)
    private var number: UInt64 = 0

    init(_ way: Way) { self.way = way }

    /// The lineage that the event of a write gets: the ledger's, or that of a new beginning where it knows none.
    mutating func cause(_ lineage: Lineage, from writer: EdgeID, to reader: EdgeID, at now: Core.Instant) -> Lineage {
        number += 1
        let bucket = BucketID(tenant: writer.function.tenant, bucket: reader.trigger)
        let file = WriteLedger.File(inode: number, size: 100, modified: now.nanoseconds)
        let function = FunctionKey(writer.function)
        let written = key(way == .sameKey ? "out/result" : "out/\(number)\(way == .renamed ? ".part" : "")")
        ledger.record(bucket, written, file, by: function, lineage, at: now)
        let found =
            switch way {
            case .sameKey, .newKey: ledger.lineage(of: written, in: bucket, at: now)
            case .renamed: ledger.lineage(of: file, at: now)
            }
        return found ?? Lineage(root: rootID(1_000_000 + Int(number)), born: now)
    }

    private func key(_ text: String) -> ObjectKey {
        guard let key = ObjectKey(text) else { fatalError("not a key") }
        return key
    }
}

private func at(_ seconds: UInt64) -> Core.Instant { Core.Instant(nanoseconds: seconds * 1_000_000_000) }
