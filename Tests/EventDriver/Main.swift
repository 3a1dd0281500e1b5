// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Store

/// Submits, claims and settles events until it is killed: `event-driver DIRECTORY LOG SEED RUN [NORMAL]`.
///
/// LOG gets one line for everything that was confirmed, by one write(2) each, so that it outlives the process: `open RECOVERED`, `new ID BYTES`,
/// `lease ID TOKEN`, `end ID STATE`, and `refused SENTENCE`, `failed SENTENCE`.
@main struct Main {
    static let base: UInt64 = 1_700_000_000_000

    static func main() throws {
        let words = CommandLine.arguments
        guard words.count >= 5, let seed = UInt64(words[3]), let run = UInt64(words[4]) else { exit(2) }
        let log = Log(path: words[2])
        let now = base + run * 1_000
        let store = try EventStore(directory: words[1], now: now, synchronous: words.count > 5 ? words[5] : "FULL") {
            log.add("failed \($0)")
        }
        log.add("open \(store.recovered)")
        for number in 0..<4 as Range<UInt64> {
            Thread { submit(store, log, Random(state: seed &* 31 &+ run &* 7 &+ number), now, UInt16(number)) }.start()
        }
        Thread { work(store, log, Random(state: seed ^ run), now) }.start()
        while true { sleep(100) }
    }

    private static func submit(_ store: EventStore, _ log: Log, _ random: Random, _ now: UInt64, _ thread: UInt16) {
        var random = random
        var count: UInt64 = 0
        while true {
            count += 1
            let tenant = Name("tenant-\(random.below(5))") ?? .unnamed
            var draft = EventDraft(
                id: InvocationID(milliseconds: now, random: (thread, count)), function: FunctionID(tenant: tenant, function: .unnamed),
                createdAt: now)
            let length = random.below(40) == 0 ? 65_537 + random.below(30_000) : random.below(2_000)
            draft.payload = [UInt8](repeating: UInt8(count % 251), count: Int(length))
            draft.destination = random.below(2) == 0 ? [1] : []
            // Some keys come again, from another thread or another run.
            if random.below(4) == 0 { draft.key = "key-\(random.below(50))" }
            do throws(StoreError) {
                let receipt = try store.wait { store.enqueue(draft, completion: $0) }
                if !receipt.isDuplicate { log.add("new \(receipt.id) \(length)") }
            } catch { return log.add("refused \(error)") }
        }
    }

    private static func work(_ store: EventStore, _ log: Log, _ random: Random, _ now: UInt64) {
        var random = random
        while true {
            guard let claim = try? store.wait({ store.claim(limit: 12, ClaimPermission(), at: now, completion: $0) }) else { return }
            for lease in claim.leases { log.add("lease \(lease.id) \(lease.token)") }
            for lease in claim.leases {
                let how: EventSettlement
                var state: EventState?
                switch random.below(10) {
                case 0: how = .retry(.functionError, afterMs: 0, reason: "error")
                case 1: how = .retry(.system, afterMs: 0, reason: "throttled")
                case 2: (how, state) = (.dead(reason: "gave up", result: []), .dead)
                case 3: (how, state) = (.park(reason: "loop"), .parked)
                // Left to the next run.
                case 4: continue
                default: (how, state) = (.done(result: [1]), .done)
                }
                // Without waiting, so that settlements and submits share their commits.
                let end = state
                store.settle(lease.id, token: lease.token, how, at: now) { result in
                    if let end, case .success(true) = result { log.add("end \(lease.id) \(end.rawValue)") }
                }
            }
        }
    }
}

struct Random {
    var state: UInt64
    mutating func below(_ bound: UInt64) -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return (z ^ z >> 31) % bound
    }
}

struct Log: Sendable {
    private let file: Int32
    init(path: String) { file = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600) }
    func add(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        _ = unsafe write(file, bytes, bytes.count)
    }
}
