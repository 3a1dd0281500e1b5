// SPDX-License-Identifier: Apache-2.0
public import Core

/// Times by bounds that do not change: as much memory whatever happens.
public struct FixedHistogram: Sendable {
    /// Upper bounds in nanoseconds.
    public static let decisions: [Nanoseconds] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 20_000].map { $0 * 1_000 }
    public static let waits: [Nanoseconds] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000].map {
        $0 * 1_000_000
    }

    public let bounds: [Nanoseconds]
    /// One a bound, and one beyond the last.
    public private(set) var counts: [UInt64]
    public private(set) var seconds = 0.0

    public init(_ bounds: [Nanoseconds]) {
        self.bounds = bounds
        counts = Array(repeating: 0, count: bounds.count + 1)
    }

    public mutating func add(_ time: Nanoseconds) {
        counts[bounds.firstIndex { time <= $0 } ?? bounds.count] += 1
        seconds += Double(time) / 1e9
    }
}

/// The parts of a worker's start.
public enum StartStage: String, CaseIterable, Sendable {
    /// Until its sandbox is made, or a spare's is given the function's code.
    case sandbox
    /// Until its runtime has said hello; a prewarmed one has before.
    case runtime
    /// Until the function's code is loaded.
    case code

    public struct Key: Hashable, Sendable {
        public var kind: StartKind
        public var stage: StartStage
        public init(kind: StartKind, stage: StartStage) {
            self.kind = kind
            self.stage = stage
        }
    }
}

/// What has happened to one function since the daemon started: for metrics and `top`.
public struct FunctionFigures: Sendable {
    /// Upper bounds of the histogram's buckets, in seconds.
    public static let bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

    /// By the outcome's place in `Outcome.allCases`.
    public var outcomes = [UInt64](repeating: 0, count: Outcome.allCases.count)
    public var refusals: [Level: UInt64] = [:]
    public var starts: [StartKind: UInt64] = [:]
    /// Runs by duration, one count a bound and one beyond the last.
    public var durations = [UInt64](repeating: 0, count: bounds.count + 1)
    public var durationSeconds = 0.0
    public var queueSeconds = 0.0
    public var cpuMicroseconds: UInt64 = 0
    /// Runs by duration, for quantiles.
    public var latency = LatencyHistogram()
    /// What was charged, in millionths of a GB-second.
    public var microGBSeconds: UInt64 = 0

    public var invocations: UInt64 { outcomes.reduce(0, +) }
    public var refused: UInt64 { refusals.values.reduce(0, +) }

    mutating func ended(_ verdict: Verdict, start: StartKind?, queued: Nanoseconds, ran: Nanoseconds) {
        outcomes[verdict.outcome.ordinal] += 1
        if case .refused(let refusal) = verdict { refusals[refusal.level, default: 0] += 1 }
        guard let start else { return }
        starts[start, default: 0] += 1
        let seconds = Double(ran) / 1e9
        durations[Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count] += 1
        durationSeconds += seconds
        latency.add(ran)
        queueSeconds += Double(queued) / 1e9
    }
}
