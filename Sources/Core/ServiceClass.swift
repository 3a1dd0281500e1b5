// SPDX-License-Identifier: Apache-2.0

/// What kind of waiting an invocation allows. Each class has a share of the seats for when all want more, and lends what it does not use.
public enum ServiceClass: UInt8, Hashable, Sendable, CaseIterable {
    /// Somebody waits for the answer.
    case sync
    /// Queued durably: it can be delayed, and is offered again if it is refused.
    case asynchronous
    /// Nobody minds when: replays, imports, clean-up.
    case background

    /// The share of the seats that is guaranteed, in per cent.
    public var share: Int {
        switch self {
        case .sync: 70
        case .asynchronous: 25
        case .background: 5
        }
    }
}

/// The vertices of one tenant, function or version: one in each class that it uses. Most are only ever called synchronously, so the others' are made when they are needed.
struct Lanes {
    let sync: FairQueue.VertexID
    var asynchronous: FairQueue.VertexID?
    var background: FairQueue.VertexID?

    init(_ sync: FairQueue.VertexID) { self.sync = sync }

    subscript(_ service: ServiceClass) -> FairQueue.VertexID? {
        get {
            switch service {
            case .sync: sync
            case .asynchronous: asynchronous
            case .background: background
            }
        }
        set {
            switch service {
            case .sync: preconditionFailure("the synchronous lane is made first and stays")
            case .asynchronous: asynchronous = newValue
            case .background: background = newValue
            }
        }
    }

    /// True where only the synchronous class is in use: then a vertex's own cap is the ceiling.
    var isSingle: Bool { asynchronous == nil && background == nil }
}

extension FairQueue {
    func running(_ lanes: Lanes) -> Int { sum(lanes, running) }
    func queued(_ lanes: Lanes) -> Int { sum(lanes, queued) }
    func eligibleChildren(_ lanes: Lanes) -> Int { sum(lanes, eligibleChildren) }

    private func sum(_ lanes: Lanes, _ count: (VertexID) -> Int) -> Int {
        var total = count(lanes.sync)
        if let other = lanes.asynchronous { total += count(other) }
        if let other = lanes.background { total += count(other) }
        return total
    }

    mutating func setCap(_ lanes: Lanes, _ cap: Int) { for lane in all(lanes) { setCap(lane, cap) } }
    mutating func setWeight(_ lanes: Lanes, _ weight: Double) { for lane in all(lanes) { setWeight(lane, weight) } }
    mutating func setReady(_ lanes: Lanes, _ isReady: Bool) {
        setReady(lanes.sync, isReady)
        if let other = lanes.asynchronous { setReady(other, isReady) }
        if let other = lanes.background { setReady(other, isReady) }
    }
    /// False where one of them is still in use; then some of the others may be gone already, and it is asked again later.
    mutating func remove(_ lanes: inout Lanes) -> Bool {
        for service in [ServiceClass.asynchronous, .background] {
            guard let lane = lanes[service] else { continue }
            guard removeVertex(lane) else { return false }
            lanes[service] = nil
        }
        return removeVertex(lanes.sync)
    }

    private func all(_ lanes: Lanes) -> [VertexID] { ServiceClass.allCases.compactMap { lanes[$0] } }
}
