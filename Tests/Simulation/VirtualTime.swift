// SPDX-License-Identifier: Apache-2.0
import Core

/// Numbers that a seed decides: SplitMix64.
public struct SeededNumbers: RandomNumberGenerator, Sendable {
    private var state: UInt64
    public init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Von Neumann 1951: an exponential of mean 1 from comparisons alone, since no mathematical library is imported.
    public mutating func exponential() -> Double {
        var whole = 0.0
        while true {
            let first = Double.random(in: 0..<1, using: &self)
            var last = first
            var length = 1
            while true {
                let next = Double.random(in: 0..<1, using: &self)
                if next >= last { break }
                last = next
                length += 1
            }
            if length % 2 == 1 { return whole + first }
            whole += 1
        }
    }
}

/// What happens when, first in time and then first come: a binary heap.
struct Agenda<What> {
    private var heap: [(time: Double, number: Int, what: What)] = []
    private var number = 0

    var isEmpty: Bool { heap.isEmpty }
    /// When the next one happens, in seconds.
    var next: Double? { heap.first?.time }

    mutating func add(_ what: What, at time: Double) {
        number += 1
        heap.append((time, number, what))
        var place = heap.count - 1
        while place > 0, isBefore(place, (place - 1) / 2) {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    mutating func take() -> What {
        heap.swapAt(0, heap.count - 1)
        let what = heap.removeLast().what
        var place = 0
        while true {
            var least = place
            for child in [2 * place + 1, 2 * place + 2] where child < heap.count && isBefore(child, least) { least = child }
            if least == place { return what }
            heap.swapAt(place, least)
            place = least
        }
    }

    private func isBefore(_ a: Int, _ b: Int) -> Bool { (heap[a].time, heap[a].number) < (heap[b].time, heap[b].number) }
}

/// Seconds of virtual time as an instant; it does not begin at zero.
func instant(_ seconds: Double) -> Core.Instant { Core.Instant(nanoseconds: 1_000_000_000_000 + UInt64(seconds * 1e9)) }

func seconds(_ time: Core.Instant) -> Double { Double(time.nanoseconds - 1_000_000_000_000) / 1e9 }
