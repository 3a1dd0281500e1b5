// SPDX-License-Identifier: Apache-2.0

/// Whether the events of an edge come because the edge runs: a randomised switchback, whatever the way round takes.
///
/// Time is cut into windows; a fair coin says for each whether the edge runs or is paused (events wait, none is lost). For each of many delays one gambler bets on
/// every coin, with a stake that depends on how many events arrived that delay after its window, against those of the windows before it. If the source does not react to us,
/// all arrivals are as if they had been written down beforehand, whatever they are (bursts, trends, periods), and each coin is fair given them and the coins before it: so a
/// gambler's wealth is a non-negative martingale that begins at 1, and by Ville's inequality the chance that it ever reaches 1 / a is at most a, whenever one stops. The delays share alpha
/// between them, so that the chance that any of them is wrong is at most alpha (Boole). A loop is seen after about 20 windows and once round.
///
/// Right only for a source that does not wait for answers or outcomes: such a one does react, and so do our own retries. Neither must be counted.
public struct Switchback: Hashable, Sendable {
    public enum Verdict: Hashable, Sendable {
        /// The events follow from the edge's own runs.
        case loop
        /// No evidence in all windows.
        case noLoop
    }

    /// Windows of one length, and their share of alpha. The later stages are for ways round that take now more and now less time.
    struct Stage {
        let window: Nanoseconds
        let count: Int
        let share: Double
    }
    static let stages = [
        Stage(window: .milliseconds(1_500), count: 80, share: 0.6), Stage(window: .seconds(4), count: 36, share: 0.2),
        Stage(window: .seconds(10), count: 40, share: 0.2),
    ]
    /// No more windows than these are paused one after the other.
    public static let mostPaused = 3
    /// The longest way round that is looked for.
    public static let longestDelay: Nanoseconds = .seconds(36)
    /// The longest time from ``init(alpha:coin:at:)`` to a verdict.
    public static let longestTest = stages.reduce(0) { $0 + $1.window * UInt64($1.count) }

    private static let excessStakes = SIMD8(0.4, 0.9, 0, 0, 0, 0, 0, 0)
    private static let someStakes = SIMD8(0, 0, 0.5, 0.95, 0, 0, 0, 0)
    private static let shareStakes = SIMD8(0, 0, 0, 0, 0.3, 0.6, 0.8, 0.95)
    private static let parts = 4
    /// What a window's arrivals are compared with: the last so many windows.
    private static let memory = 8

    /// The highest chance of a false verdict `loop`.
    public let alpha: Double
    private var stage = 0
    private var start: Instant
    /// Arrivals in each quarter of a window since the stage began.
    private var arrivals: [UInt32] = []
    /// How many arrived before each of the quarters that are over.
    private var totals: [UInt32] = [0]
    /// 1 where the window ran by the coin, -1 where it was paused by it, 0 where there was no coin: those are not bet on.
    private var coins: [Int8] = []
    /// Which windows were paused; how many events could start in each, had it run; and how many wait for the next.
    private var waits: [Bool] = []
    private var startable: [Double] = []
    private var held = 0.0
    private var isPaused = false
    private var pausedInRow = 0
    private var gamblers: [Gambler] = []

    /// Bets on the coins by what arrived some quarters of a window later, with several stakes each on "more than usual follows a run", on "something at all follows a run", and on "what waited or
    /// came in a window comes back after a run".
    private struct Gambler: Hashable {
        let threshold: Double
        var wealth = SIMD8<Double>(repeating: 1)

        mutating func bet(on coin: Double, excess: Double, isSome: Bool, share: Double) {
            let gain = excess * Switchback.excessStakes + (isSome ? 1.0 : 0.0) * Switchback.someStakes + share * Switchback.shareStakes
            wealth *= 1 + coin * gain
        }
        var hasWon: Bool { wealth.sum() >= 8 * threshold }
    }

    /// Where a number lies between the least and the greatest of the last ones: -1 to 1.
    private struct Range {
        var (last, least, most, count) = (0.0, Double.infinity, -Double.infinity, 0)
        mutating func add(_ value: Double) {
            if count == 0 { last = value }
            (least, most, count) = (min(least, value), max(most, value), count + 1)
        }
        var place: Double { count >= Switchback.memory / 2 && most > least ? (2 * last - most - least) / (most - least) : 0 }
    }

    /// - Parameter coin: fair, and drawn for this call.
    public init(alpha: Double = 1e-4, coin: Bool, at now: Instant) {
        self.alpha = alpha
        start = now
        begin(stage: 0, coin: coin, at: now)
    }

    /// Windows whose turn was decided, in this stage.
    public var windows: Int { coins.count }

    /// Whether the edge is to be paused, until ``deadline``.
    public var pausesNow: Bool { isPaused }

    /// How long an event has to wait that comes while the edge is paused; then it may have to wait again. All wait equally long, and not until the pause ends: so they come back as
    /// far apart as they were, and a slow loop's next ones tell of many windows and not of a few.
    public var wait: Nanoseconds { Self.stages[stage].window }

    /// When ``advance(at:coin:)`` is due. Who is late loses power and nothing else: the windows stay where they are.
    public var deadline: Instant { start + Self.stages[stage].window * UInt64(coins.count) }

    /// An event came, whether it may start or has to wait.
    public mutating func arrived(at now: Instant) {
        let part = Int(clamping: (now - start) / (Self.stages[stage].window / UInt64(Self.parts)))
        guard part < arrivals.count else { return }
        arrivals[part] &+= 1
    }

    /// Ends the windows that are over and begins the next one, or gives the verdict.
    /// - Parameter coin: fair, and drawn for this call.
    public mutating func advance(at now: Instant, coin: Bool) -> Verdict? {
        guard now >= deadline else { return nil }
        let count = Self.stages[stage].count
        let current = Int(clamping: (now - start) / Self.stages[stage].window)
        while coins.count <= current, coins.count <= count {
            if judge(after: coins.count) { return .loop }
            if coins.count == count { break }
            if coins.count < current { skip() } else { toss(coin) }
        }
        guard current >= count else { return nil }
        guard stage + 1 < Self.stages.count else { return .noLoop }
        begin(stage: stage + 1, coin: coin, at: now)
        return nil
    }

    // MARK: helpers

    private mutating func begin(stage number: Int, coin: Bool, at now: Instant) {
        stage = number
        start = now
        let one = Self.stages[number]
        arrivals = [UInt32](repeating: 0, count: Self.parts * one.count)
        totals = [0]
        (coins, waits, startable, held) = ([], [], [], 0)
        let delays = Int(UInt64(Self.parts) * Self.longestDelay / one.window) + 1
        // The way round is more often short than long.
        let weights = (0..<delays).map { 1 / Double($0 + 1).squareRoot() }
        let sum = weights.reduce(0, +)
        gamblers = weights.map { Gambler(threshold: sum / ($0 * alpha * one.share)) }
        toss(coin)
    }

    /// A window for which nobody came: it went on as it was.
    private mutating func skip() {
        coins.append(0)
        waits.append(isPaused)
    }

    private mutating func toss(_ coin: Bool) {
        isPaused = coin && pausedInRow < Self.mostPaused
        // After the longest pause it runs in any case: that tells nothing.
        coins.append(pausedInRow >= Self.mostPaused ? 0 : isPaused ? -1 : 1)
        waits.append(isPaused)
        pausedInRow = isPaused ? pausedInRow + 1 : 0
    }

    /// Lets the gamblers bet on what is known when so many windows have ended. True where one has won.
    private mutating func judge(after ended: Int) -> Bool {
        while totals.count <= Self.parts * ended { totals.append(totals[totals.count - 1] &+ arrivals[totals.count - 1]) }
        while startable.count < ended {
            let window = startable.count
            startable.append(Double(totals[Self.parts * (window + 1)] &- totals[Self.parts * window]) + held)
            held = waits[window] ? startable[window] : 0
        }
        for delay in gamblers.indices {
            let window = ended - 1 - (delay + Self.parts - 1) / Self.parts
            guard window >= 0, coins[window] != 0, startable[window] > 0 else { continue }
            var (excess, share) = (Range(), Range())
            for other in stride(from: window, to: window - Self.memory, by: -1) {
                guard let found = count(other, delay) else { break }
                excess.add(found)
                if other >= 0, startable[other] > 0 { share.add(found / startable[other]) }
            }
            gamblers[delay].bet(
                on: Double(coins[window]), excess: excess.place, isSome: excess.least == 0 && excess.last > 0, share: share.place)
            if gamblers[delay].hasWon { return true }
        }
        return false
    }

    /// What arrived so many quarters after a window's beginning, but for its first quarter, where the effects of the window before may still arrive; nil before the stage.
    private func count(_ window: Int, _ delay: Int) -> Double? {
        let first = Self.parts * window + delay
        return first < 0 ? nil : Double(totals[first + Self.parts] &- totals[first + 1])
    }
}
