// SPDX-License-Identifier: Apache-2.0
import Core
import Logging
import Store

/// The test for loops that leave no lineage, since they go through somebody outside: signs begin it, and then the edge runs and waits by turns until it is sure.
extension EventEngine {
    /// Leases of an edge that waits which are handed back in one window; then its function gets no more until the window ends, for each costs a write.
    static let mostHandedBack = 64

    /// An event came to the edge from outside: signs of a loop that leaves no lineage begin a test.
    func observe(_ edge: EdgeID, _ subject: String, arms: Bool) {
        let now = now()
        var detector = detectors[edge] ?? LoopDetector()
        var arming = detector.arrived(key: subject, at: now)
        if arming == nil, arms, detector.mayTest(at: now) { arming = .lineage }
        if detectors.updateValue(detector, forKey: edge) == nil { edgesOf[edge.function, default: []].insert(edge) }
        edgeFlows[edge, default: 0] += 1
        if let arming { test(edge, arming) }
        // Bounded: an edge is a deployed trigger, and those without a test start anew.
        if detectors.count > 65_536 {
            detectors = detectors.filter { $0.value.test != nil }
            edgeFlows = edgeFlows.filter { detectors[$0.key] != nil }
            edgesOf = Dictionary(grouping: detectors.keys, by: \.function).mapValues(Set.init)
        }
    }

    private func test(_ edge: EdgeID, _ arming: LoopArming) {
        count("loop.tests")
        logger.notice("a loop without lineage is tested for", metadata: ["edge": "\(edge)", "sign": "\(arming.rawValue)"])
        guard let step = detectors[edge]?.begin(coin: Bool.random(), at: now()) else { return }
        tested.insert(edge)
        apply(step, edge)
        armLoops()
    }

    /// Once a second: functions at their ceiling whose events come faster than they end.
    func observeBacklogs() {
        let full = Set(runningByFunction.filter { $0.value >= seats($0.key) }.keys)
        let now = now()
        for function in full.union(wereFull) {
            for edge in edgesOf[function] ?? [] {
                let isAtCap = full.contains(function)
                guard let arming = detectors[edge]?.observe(backlog: edgeFlows[edge] ?? 0, isAtCap: isAtCap, at: now) else { continue }
                test(edge, arming)
            }
        }
        wereFull = full
    }

    /// An event of the edge has come to its end.
    func flowed(_ edge: EdgeID) { if let flow = edgeFlows[edge] { edgeFlows[edge] = flow - 1 } }

    /// Whether an event of the edge has to wait, and how many milliseconds.
    func testPause(_ edge: EdgeID) -> UInt64? {
        guard pausedEdges[edge] != nil else { return nil }
        if let deadline = detectors[edge]?.nextDeadline, deadline <= now() { passTests() }
        guard let handedBack = pausedEdges[edge], let test = detectors[edge]?.test else { return nil }
        pausedEdges[edge] = handedBack + 1
        if handedBack >= Self.mostHandedBack {
            let left = (test.deadline - now()) / 1_000_000 + 2
            pausedByTest[edge.function] = max(pausedByTest[edge.function] ?? 0, wall() + left)
        }
        return test.wait / 1_000_000
    }

    /// An event of the edge was refused: its senders learn of the pause, so what they send next may follow from it.
    func abandonTest(_ edge: EdgeID) {
        guard let step = detectors[edge]?.abandon() else { return }
        apply(step, edge)
    }

    func passTests() {
        let now = now()
        for edge in tested where detectors[edge]?.nextDeadline.map({ $0 <= now }) ?? false {
            guard let step = detectors[edge]?.timePassed(at: now, coin: Bool.random()) else { continue }
            if pausedEdges[edge] != nil { pausedEdges[edge] = 0 }
            apply(step, edge)
        }
    }

    private func apply(_ step: LoopDetector.Step, _ edge: EdgeID) {
        if detectors[edge]?.test == nil { tested.remove(edge) }
        switch step {
        case .wait: break
        case .pause: pausedEdges[edge] = 0
        case .run: resumeAfterTest(edge)
        case .verdict(.loop):
            resumeAfterTest(edge)
            var notes: [LoopNote] = []
            governor.breakEdge(edge, .detector, all: true, at: now(), into: &notes)
            obey(notes)
        case .verdict: resumeAfterTest(edge)
        }
    }

    private func resumeAfterTest(_ edge: EdgeID) {
        pausedEdges[edge] = nil
        // Another edge of the function that still waits hands its leases back, a window's worth of them, and pauses it again.
        pausedByTest[edge.function] = nil
        pump()
    }
}
