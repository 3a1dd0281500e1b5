// SPDX-License-Identifier: Apache-2.0

/// Whether the events of an edge come because the edge runs: a randomised switchback.
///
/// Time is cut into pairs of windows; in one of each pair, by a fair coin, the edge is paused (events wait, none is lost). D = (run - pause) / (run + pause) of the arrivals in the two. If the source does not
/// react to us, D is as likely to be positive as negative given its size, whatever the arrivals are (bursts, trends, periods), since only the coin said which window is which. So the mean
/// over several stakes s of the products of (1 + s D) is a non-negative martingale that begins at 1, and by Ville's inequality the chance that it ever reaches 1 / alpha is at most alpha, at whatever pair one
/// stops. A loop has D near 1 and is found after about 16 pairs.
///
/// Right only for a source that does not wait for answers: a sync caller and our own retries do react, and must not be tested.
public struct Switchback: Hashable, Sendable {
    public enum Verdict: Hashable, Sendable {
        /// The events follow from the edge's own runs.
        case loop
        /// No evidence in all pairs.
        case noLoop
    }

    public static let stakes = [0.25, 0.5, 0.75, 0.95]
    public static let maximumPairs = 64
    /// A window is at least so long.
    public static let shortestWindow: Nanoseconds = .seconds(2)

    public let window: Nanoseconds
    /// The highest chance of a false verdict `loop`.
    public let alpha: Double
    public private(set) var pairs = 0
    private var start: Instant
    private var pausesFirst: Bool
    private var run = 0
    private var pause = 0
    private var wealth = [Double](repeating: 1, count: Self.stakes.count)

    /// - Parameters:
    ///   - window: at least twice the usual run time and the trigger's latency, so that what one window caused arrives in it.
    ///   - coin: fair, and drawn after everything that the arrivals may depend on.
    public init(window: Nanoseconds, alpha: Double = 1e-4, coin: Bool, at now: Instant) {
        self.window = max(window, Self.shortestWindow)
        self.alpha = alpha
        start = now
        pausesFirst = coin
    }

    /// The mean of the products: evidence against "does not react", at most 1 on average if it does not.
    public var evidence: Double { wealth.reduce(0, +) / Double(wealth.count) }

    /// Whether the edge is to be paused now. After the pair it runs until ``advance(at:coin:)`` begins another.
    public func isPaused(at now: Instant) -> Bool {
        let place = (now - start) / window
        return place == 0 ? pausesFirst : place == 1 && !pausesFirst
    }

    /// When the edge is to be switched or the pair ends.
    public func deadline(after now: Instant) -> Instant { now < start + window ? start + window : start + 2 * window }

    /// An event came, whether it may start or has to wait. The first quarter of a window is not counted: there the other window's effects still arrive.
    public mutating func arrived(at now: Instant) {
        let (place, offset) = (now - start).quotientAndRemainder(dividingBy: window)
        guard place < 2, offset >= window / 4 else { return }
        if (place == 0) == pausesFirst { pause += 1 } else { run += 1 }
    }

    /// Ends a pair that is over and begins the next one, or gives the verdict.
    public mutating func advance(at now: Instant, coin: Bool) -> Verdict? {
        guard now >= start + 2 * window else { return nil }
        pairs += 1
        if run + pause > 0 {
            let difference = Double(run - pause) / Double(run + pause)
            for index in wealth.indices { wealth[index] *= 1 + Self.stakes[index] * difference }
        }
        if evidence >= 1 / alpha { return .loop }
        if pairs >= Self.maximumPairs { return .noLoop }
        (run, pause) = (0, 0)
        start = now
        pausesFirst = coin
        return nil
    }
}
