// SPDX-License-Identifier: Apache-2.0

/// Rates of triggers of their own. A call through an HTTP route is asked with all other rates, when it arrives; an event is asked once, when it is accepted: what is pushed
/// is refused beyond the rate, and what cannot be refused (an object is there, a run has ended) waits for its turn. Its later tries are not counted again.
extension Node {
    /// The rate in the way of `count` messages that come at once; nil where they may come. Takes nothing, but promises whom it refuses a turn.
    public func triggerRefusal(_ version: VersionID, _ trigger: Name, count: Int = 1, at now: Instant) -> Refusal? {
        guard let pool = pools[version], let rate = pool.spec.triggerRates[trigger] else { return nil }
        let wait = pool.function.triggers[trigger, default: RateMeter()].wait(rate, at: now, count: UInt64(count))
        guard wait > 0 else { return nil }
        let isHopeless = UInt64(count) > rate.burst
        let line = PromisedLines.Line.rate(version.function, trigger, nil)
        let turn = isHopeless ? wait : pool.tenant.promised.wait(at: line, rate, count: UInt64(count), alone: wait, now)
        return Refusal(
            outcome: .throttled, level: .trigger, ceiling: "rate", limit: rate.burst, value: isHopeless ? UInt64(count) : rate.burst,
            retryAfter: isHopeless ? nil : Double(turn) / 1e9)
    }

    /// Takes one from the trigger's rate, whether it has one or not; nothing where its turn is `most` away or further: such debt would be paid by all that comes after.
    ///
    /// - Returns: how long until its turn; 0 where that is now.
    @discardableResult public func takeTrigger(_ version: VersionID, _ trigger: Name, most: Nanoseconds = .max, at now: Instant)
        -> Nanoseconds
    {
        guard let pool = pools[version], let rate = pool.spec.triggerRates[trigger] else { return 0 }
        var meter = pool.function.triggers[trigger] ?? RateMeter()
        let wait = meter.wait(rate, at: now)
        guard wait < most else { return most }
        meter.take(rate, at: now)
        pool.function.triggers[trigger] = meter
        return wait
    }

    /// What was taken stays taken under the rates of a new version; meters of triggers that it has not go.
    func changeTriggers(_ function: Function, from old: FunctionSpec?, to new: FunctionSpec, _ now: Instant) {
        for name in Array(function.triggers.keys) {
            guard let rate = new.triggerRates[name] else {
                function.triggers[name] = nil
                continue
            }
            guard let before = old?.triggerRates[name], before != rate else { continue }
            function.triggers[name]?.change(from: before, to: rate, at: now)
        }
    }
}
