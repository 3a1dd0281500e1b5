// SPDX-License-Identifier: Apache-2.0

/// When those come back who were refused at one ceiling, so that who is refused next is told to come after them: told as if each were alone, a crowd comes back together, and most
/// of it is refused again. A crowd of which everybody obeys is refused once (P13).
///
/// Who does not come back must not keep others away for long. Nothing tells a crowd from a flood but that it ends: so promises are made for ``gathering`` after the first and no
/// further ahead than ``horizon``; whoever is refused beyond, until all who were promised a turn are through, is told as if it were alone.
struct PromisedReturns: Sendable {
    /// How long a crowd may take to gather.
    static let gathering: Nanoseconds = .seconds(2)
    /// The longest that anybody waits for those before him.
    static let horizon: Nanoseconds = .seconds(30)

    /// When all who were promised a turn have had it: the virtual scheduling time of ITU-T I.371, as of a ``RateMeter``.
    private var through = Instant(nanoseconds: 0)
    private var since = Instant(nanoseconds: 0)

    /// Whether somebody is still to come.
    func isPast(at now: Instant) -> Bool { through <= now }

    /// Promises a turn, in whole seconds, because that is what callers are told; the first of a crowd is told as exactly as one who is alone.
    ///
    /// - Parameters:
    ///   - alone: how long who is alone has to wait.
    ///   - each: how long after one the next can be served.
    ///   - slack: how much before its turn one may come, because several fit at a time.
    mutating func wait(alone: Nanoseconds, each: Nanoseconds, slack: Nanoseconds, at now: Instant) -> Nanoseconds {
        if through <= now { since = now }
        guard now - since <= Self.gathering else { return alone }
        let first = now + alone + slack
        let turn = max(through, first)
        let seconds = (max(alone, turn - (now + slack)) + 999_999_999) / 1_000_000_000
        let wait = Nanoseconds.seconds(max(1, seconds))
        guard wait < alone || wait - alone <= Self.horizon else { return alone }
        through = max(turn, now + wait) + each
        return turn == first ? alone : wait
    }
}

/// The ceilings of one tenant at which somebody was told to come back.
struct PromisedLines: Sendable {
    enum Line: Hashable {
        case rate(FunctionID?, Name?, UserPair?)
        case queue(FunctionID, Name?, UserPair?)
    }
    /// More than these keep no promises: who invents users gets no memory.
    static let capacity = 256
    private var lines: [Line: PromisedReturns] = [:]

    /// A turn at a rate for so many at once.
    mutating func wait(at line: Line, _ rate: RateSpec, count: UInt64 = 1, alone: Nanoseconds, _ now: Instant) -> Nanoseconds {
        wait(at: line, alone: alone, each: rate.time(of: count).up, slack: rate.time(of: rate.burst - count).down, now)
    }

    mutating func wait(at line: Line, alone: Nanoseconds, each: Nanoseconds, slack: Nanoseconds, _ now: Instant) -> Nanoseconds {
        if lines[line] == nil, lines.count >= Self.capacity {
            lines = lines.filter { !$0.value.isPast(at: now) }
            guard lines.count < Self.capacity else { return alone }
        }
        return lines[line, default: PromisedReturns()].wait(alone: alone, each: each, slack: slack, at: now)
    }
}
