// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Foundation
import Gateway
import Glibc
import NodeConfiguration
import Store

/// Copies of the whole state for a backup, made while the node works.
///
/// Each database is consistent in itself. Between them: what remembers that something was started (schedules, marks of watched buckets) is copied first, then the
/// events, then functions and use. So nothing is missed and a schedule may fire once more; an event whose function was deleted between the two copies becomes a
/// dead letter with that reason after a restore. Everything that was confirmed before the call is in the copy.
extension Daemon {
    private static let snapshotAge: TimeInterval = 6 * 3600
    var stateFolder: String { loopsPath.replacing("/loops.json", with: "") }

    func makeSnapshot(buckets: Bool, logs: Bool = true) async throws -> SnapshotReply {
        try await withSnapshot { id, root in
            let data = root + "/data"
            try FileManager.default.createDirectory(
                atPath: data, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            if buckets { try await copyBuckets(to: data + "/buckets") }
            let schemas = try await copyState(to: data, withMarks: !buckets)
            let kept = self.logs
            // Last: what the events and calls of the copy have printed is in it.
            if logs { try await apartFromAll { try kept.snapshot(into: data + "/logs") } }
            if let directory = configurationDirectory, FileManager.default.fileExists(atPath: directory) {
                try Snapshot.copy(directory, to: root + "/config")
                try TenantCopy.unpack(root + "/config/tenants.d")
            }
            return SnapshotReply(id: id, release: Self.version, schemas: schemas)
        }
    }

    /// Makes a copy in a new folder, or nothing.
    func withSnapshot<T>(_ body: (_ id: String, _ root: String) async throws -> T) async throws -> T {
        let all = stateFolder + "/snapshots"
        removeOldSnapshots(all)
        let id = String(format: "%016lx", UInt64.random(in: 0...UInt64.max))
        let root = "\(all)/\(id)"
        do {
            try FileManager.default.createDirectory(
                atPath: root, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            return try await body(id, root)
        } catch {
            try? FileManager.default.removeItem(atPath: root)
            throw error is Problem ? error : Problem.storage("\(error)")
        }
    }

    /// Before all else: an object that is in the copy has told its event by the time events are copied.
    private func copyBuckets(to folder: String) async throws {
        let buckets = buckets
        try await apartFromAll {
            for tenant in buckets.tenants() {
                for bucket in buckets.buckets(tenant) { try buckets.copy(bucket, to: "\(folder)/\(tenant)/\(bucket.bucket)") }
            }
        }
    }

    /// - Parameter withMarks: where watching went on; not beside copies of the objects, all of which would be new to it.
    private func copyState(to data: String, withMarks: Bool) async throws -> [String: Int] {
        let (state, events, ledger, store, code) = (stateFolder, events, ledger, store, code)
        let small = ["cron.json", "loops.json"] + (withMarks ? ["watermarks"] : [])
        try await onDisk {
            for name in small { try Snapshot.copy("\(state)/\(name)", to: "\(data)/\(name)") }
        }
        // Not on the disk's queue: many events take long, and deploys need not wait for them.
        let eventSchema = try await apartFromAll { try events.snapshot(of: state + "/events", into: data + "/events") }
        return try await onDisk {
            _ = try ledger.checkpoint()
            let usage = try ledger.snapshot(of: state + "/usage", into: data + "/usage")
            let functions = try store.snapshot(of: state + "/bulkhead.sqlite", code: code, into: data)
            try Snapshot.copy(state + "/audit", to: data + "/audit")
            return ["data/bulkhead.sqlite": functions, "data/events/events.sqlite": eventSchema, "data/usage/usage.sqlite": usage]
        }
    }

    func apartFromAll<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global().async { continuation.resume(with: Result { try body() }) }
        }
    }

    func removeSnapshot(_ id: String) async throws {
        let path = "\(stateFolder)/snapshots/\(id)"
        guard id.count == 16, id.allSatisfy(\.isHexDigit), FileManager.default.fileExists(atPath: path) else {
            throw Problem.notFound("snapshot \(id.prefix(40))")
        }
        try await apartFromAll { try FileManager.default.removeItem(atPath: path) }
    }

    /// Those of backups that were broken off.
    private func removeOldSnapshots(_ all: String) {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: all)) ?? [] {
            let made = (try? FileManager.default.attributesOfItem(atPath: "\(all)/\(name)"))?[.modificationDate] as? Date
            if let made, -made.timeIntervalSinceNow > Self.snapshotAge { try? FileManager.default.removeItem(atPath: "\(all)/\(name)") }
        }
    }
}
