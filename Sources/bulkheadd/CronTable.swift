// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Synchronization

/// When which cron trigger fires. What has fired is remembered in a file, so that a node that was away makes up for at most one run of each.
final class CronTable: Sendable {
    struct Firing: Sendable {
        var edge: EdgeID
        /// Seconds since 1970.
        var time: Int64
        var payload: String
        var overlap: CronOverlap
        /// The event of the run before, where there was one.
        var previous: InvocationID?
        /// How often the clock was set back behind runs that had been.
        var era = 0
        /// After a crash it may be due again: it is one event. After the clock was set back the same time is another run.
        var key: String { era == 0 ? "cron:\(edge.trigger):\(time)" : "cron:\(edge.trigger):\(time):\(era)" }
    }
    /// So far back is a clock set that is only put right, in seconds: what has run is not run again for it.
    static let correction: Int64 = 60

    private struct Entry {
        var schedule: CronSchedule
        var zone: CivilZone
        var payload: String
        var overlap: CronOverlap
        var next: Int64?
    }
    private struct Memory: Codable, Hashable {
        var lastRun: Int64
        var event: InvocationID?
        /// ``Firing/era``; nil for none, and in what an older release stored.
        var era: Int?
    }
    private struct State {
        var entries: [EdgeID: Entry] = [:]
        var memory: [EdgeID: Memory] = [:]
        var isChanged = false
        var fired: UInt64 = 0
        var skipped: UInt64 = 0
        /// The latest time that was seen.
        var latest = Int64.min

        /// Where the clock was set back every trigger goes by the time that it is now: else none would fire until the old time comes again.
        mutating func see(_ now: Int64) {
            guard latest > Int64.min, now < latest - CronTable.correction else { return latest = max(latest, now) }
            latest = now
            for edge in Array(entries.keys) {
                let time = next(edge, now)
                entries[edge]?.next = time
            }
        }

        /// When the trigger fires next: after now, and after its last run unless the clock was set back behind that.
        mutating func next(_ edge: EdgeID, _ now: Int64) -> Int64? {
            guard let entry = entries[edge] else { return nil }
            if var memory = memory[edge], memory.lastRun > now + CronTable.correction {
                memory.lastRun = now
                memory.era = (memory.era ?? 0) + 1
                self.memory[edge] = memory
                isChanged = true
            }
            return entry.zone.next(entry.schedule, after: max(now, memory[edge]?.lastRun ?? now))
        }
    }

    private let state = Mutex(State())
    private let path: String

    init(path: String) {
        self.path = path
        guard let data = FileManager.default.contents(atPath: path),
            let found = try? JSONDecoder().decode([EdgeID: Memory].self, from: data)
        else { return }
        state.withLock { $0.memory = found }
    }

    /// The cron triggers of one tenant, all of them. One that stays the same keeps its next time.
    func set(_ tenant: Name, _ triggers: [(function: FunctionID, trigger: TriggerSpec)], now: Int64) {
        var entries: [EdgeID: Entry] = [:]
        for (function, trigger) in triggers {
            guard case .cron(let text, let zoneName, let payload, let overlap) = trigger.kind,
                let schedule = try? CronSchedule(parsing: text),
                let zone = CivilZone(zoneName)
            else { continue }
            entries[EdgeID(trigger: trigger.name, function: function)] = Entry(
                schedule: schedule, zone: zone, payload: payload, overlap: overlap, next: nil)
        }
        let found = entries
        state.withLock { state in
            for edge in state.entries.keys where edge.function.tenant == tenant && found[edge] == nil { state.entries[edge] = nil }
            for edge in state.memory.keys where edge.function.tenant == tenant && found[edge] == nil {
                state.memory[edge] = nil
                state.isChanged = true
            }
            for (edge, var entry) in found {
                if let old = state.entries[edge], old.schedule == entry.schedule {
                    entry.next = old.next
                } else if let memory = state.memory[edge],
                    let missed = entry.zone.catchUp(entry.schedule, lastRun: memory.lastRun, now: now)
                {
                    entry.next = missed
                } else {
                    state.entries[edge] = entry
                    entry.next = state.next(edge, now)
                }
                state.entries[edge] = entry
                // A trigger that has never fired begins now: what was before it is not made up for.
                if state.memory[edge] == nil {
                    state.memory[edge] = Memory(lastRun: now)
                    state.isChanged = true
                }
            }
        }
    }

    /// What is due; of several missed times the last.
    func due(_ now: Int64) -> [Firing] {
        state.withLock { state in
            state.see(now)
            var found: [Firing] = []
            for (edge, entry) in state.entries {
                guard let next = entry.next, next <= now else { continue }
                let time = entry.zone.catchUp(entry.schedule, lastRun: next - 1, now: now) ?? next
                found.append(
                    Firing(
                        edge: edge, time: time, payload: entry.payload, overlap: entry.overlap, previous: state.memory[edge]?.event,
                        era: state.memory[edge]?.era ?? 0))
            }
            return found.sorted { ($0.time, $0.edge.function, $0.edge.trigger) < ($1.time, $1.edge.function, $1.edge.trigger) }
        }
    }

    /// The firing has been dealt with; `event` is its event, nil where it was left out.
    func fired(_ firing: Firing, _ event: InvocationID?) {
        state.withLock { state in
            if event == nil { state.skipped += 1 } else { state.fired += 1 }
            guard let entry = state.entries[firing.edge] else { return }
            state.entries[firing.edge]?.next = entry.zone.next(entry.schedule, after: firing.time)
            let before = state.memory[firing.edge]
            state.memory[firing.edge] = Memory(lastRun: firing.time, event: event ?? before?.event, era: before?.era)
            state.isChanged = true
        }
    }

    /// Since the start.
    var counts: (fired: UInt64, skipped: UInt64) { state.withLock { ($0.fired, $0.skipped) } }

    /// When a trigger fires next, in seconds since 1970.
    func next(_ edge: EdgeID) -> Int64? { state.withLock { $0.entries[edge]?.next } }

    /// Blocks for the disk, where something has changed.
    func save() throws {
        let memory = state.withLock { state -> [EdgeID: Memory]? in
            guard state.isChanged else { return nil }
            state.isChanged = false
            return state.memory
        }
        guard let memory else { return }
        do { try JSONEncoder().encode(memory).write(to: URL(fileURLWithPath: path), options: .atomic) } catch {
            state.withLock { $0.isChanged = true }
            throw error
        }
    }
}
