// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store
import Synchronization

/// An event store under load. The clients live on one queue, as they would on an event loop.
final class EventBench: Sendable {
    private let folder: String
    private let store: EventStore
    private let clients = DispatchQueue(label: "clients")
    private let numbers = Atomic<UInt64>(0)
    private static let base: UInt64 = 1_700_000_000_000
    private static let tenants = (0..<16).compactMap { Name("tenant-\($0)") }
    private static let payload = [UInt8](repeating: 7, count: 256)

    init(folder: String) throws {
        self.folder = folder
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        store = try EventStore(directory: folder, now: Self.base)
    }

    private func draft() -> EventDraft {
        let number = numbers.add(1, ordering: .relaxed).newValue
        return EventDraft(
            id: InvocationID(milliseconds: Self.base + number / 16, random: (UInt16(number % 16), number)),
            function: FunctionID(tenant: Self.tenants[Int(number % 16)], function: .unnamed), payload: Self.payload, createdAt: Self.base)
    }

    private struct Running {
        var sample = Sample()
        var open = 0
    }

    /// Each client submits again as soon as it is answered.
    func enqueue(clients count: Int, seconds: Double) -> Sample {
        let start = ticks()
        let end = start + UInt64(seconds * 1e9)
        let running = Shared(Running(sample: Sample(), open: count))
        let done = DispatchSemaphore(value: 0)
        @Sendable func submit() {
            let begin = ticks()
            store.enqueue(draft()) { [clients] result in
                guard case .success = result else { fatalError("\(result)") }
                let now = ticks()
                clients.async {
                    let isOver = running.value.withLock { running in
                        running.sample.latencies.append(now - begin)
                        running.sample.operations += 1
                        if now >= end { running.open -= 1 }
                        return running.open == 0
                    }
                    if now < end { submit() } else if isOver { done.signal() }
                }
            }
        }
        clients.async { for _ in 0..<count { submit() } }
        done.wait()
        var sample = running.value.withLock { $0.sample }
        sample.seconds = Double(ticks() - start) / 1e9
        return sample
    }

    /// Events that went all the way, a second: clients submit while one loop claims and settles.
    func cycle(clients count: Int, seconds: Double) throws -> Double {
        let ended = Shared(0)
        let isOver = Atomic<Bool>(false)
        let finished = DispatchGroup()
        finished.enter()
        let worker = Thread { [store] in
            while !isOver.load(ordering: .relaxed) {
                guard let claim = try? store.wait({ store.claim(limit: 256, ClaimPermission(), at: Self.base, completion: $0) }) else {
                    break
                }
                for lease in claim.leases {
                    store.settle(lease.id, token: lease.token, .done(result: []), at: Self.base) { result in
                        if case .success(true) = result { ended.value.withLock { $0 += 1 } }
                    }
                }
            }
            finished.leave()
        }
        worker.start()
        let begin = ticks()
        _ = enqueue(clients: count, seconds: seconds)
        let perSecond = Double(ended.value.withLock { $0 }) / (Double(ticks() - begin) / 1e9)
        isOver.store(true, ordering: .relaxed)
        finished.wait()
        return perSecond
    }

    /// Fills the store with so many ready events, in tenths, and says how long it takes to open it again, and to hand out its first events.
    func opening(_ count: Int) throws -> (text: String, json: String) {
        let rates = (0..<10).map { _ in fill(count / 10) }
        let backlog = try timed { _ = try store.backlog() }
        let bytes = (try? FileManager.default.attributesOfItem(atPath: folder + "/events.sqlite")[.size] as? Int) ?? 0
        store.close()
        let begin = ticks()
        let opened = try EventStore(directory: folder, now: Self.base)
        let opening = Double(ticks() - begin) / 1e6
        let claim = ticks()
        let leases = try opened.wait { opened.claim(limit: 256, ClaimPermission(), at: Self.base, completion: $0) }.leases
        let claiming = Double(ticks() - claim) / 1e6
        let received = try opened.counts().received
        opened.close()
        guard received == UInt64(count / 10 * 10), leases.count == min(256, count / 10 * 10) else {
            throw StoreError("the store has lost events")
        }
        return (
            String(
                format:
                    "fill to %d: first tenth %.0f a second, last tenth %.0f (%.2f); to count what waits: %.1f ms\nopen with %d queued events (%d MiB): %.1f ms, then the first claim of 256: %.1f ms",
                count, rates[0], rates[9], rates[9] / rates[0], backlog, count, bytes >> 20, opening, claiming),
            String(
                format: "{\"queued\":%d,\"fill_first\":%.0f,\"fill_last\":%.0f,\"backlog_ms\":%.1f,\"open_ms\":%.1f,\"claim_ms\":%.1f}",
                count, rates[0], rates[9], backlog, opening, claiming)
        )
    }

    /// Stores so many events, up to 4,096 at a time, and returns how many a second.
    private func fill(_ count: Int) -> Double {
        let begin = ticks()
        let room = DispatchSemaphore(value: 0)
        for number in 0..<count {
            // The semaphore ends as it began: one that is destroyed below its first value ends the process.
            if number >= 4_096 { room.wait() }
            store.enqueue(draft()) { _ in room.signal() }
        }
        for _ in 0..<min(count, 4_096) { room.wait() }
        return Double(count) / (Double(ticks() - begin) / 1e9)
    }

    private func timed(_ body: () throws -> Void) rethrows -> Double {
        let begin = ticks()
        try body()
        return Double(ticks() - begin) / 1e6
    }
}

final class Shared<T: Sendable>: Sendable {
    let value: Mutex<T>
    init(_ value: T) { self.value = Mutex(value) }
}
