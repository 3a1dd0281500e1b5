// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Kernel

/// What a start does with the segments that the last run left.
struct UsageRecovery {
    private var remains: [UsageRemains] = []
    private(set) var position: UsageDatabase.Position
    private(set) var warnings: [String] = []
    private let counted: UInt64

    /// One ledger a directory: a second one would count and remove what the first still writes.
    static func lock(_ directory: String) throws(StoreError) -> OwnedFD {
        let number = unsafe open("\(directory)/usage.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard number >= 0 else {
            throw StoreError(
                "the usage ledger in \(directory) cannot be opened: \(KernelError("lock it")). Check that the directory is writable")
        }
        let file = OwnedFD(number)
        guard ProcessControl.lockExclusively(number, patience: 2_000) else {
            throw StoreError("the usage ledger in \(directory) is in use by another process: stop it, or use another state directory")
        }
        return file
    }

    init(directory: String, database: UsageDatabase) throws(StoreError) {
        (position, counted) = try database.position()
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: directory) else {
            throw StoreError("the directory \(directory) cannot be listed")
        }
        for name in names where name.hasSuffix(UsageSegment.suffix) {
            remains.append(try UsageRemains(path: "\(directory)/\(name)"))
        }
        remains.sort { ($0.number ?? 0) < ($1.number ?? 0) }
    }

    /// Counts what is not counted yet, ends what was running, and removes the files. Returns the time to go on from.
    mutating func fold(into database: UsageDatabase, now: UInt64) throws(StoreError) -> UInt64 {
        var batch = UsageBatch()
        batch.clock = counted
        var alive: UInt64 = 0
        for file in remains {
            let number = file.number ?? 0
            let isNew = number > position.segment
            guard file.number == nil || isNew || number == position.segment else { continue }
            let contents = file.contents(from: isNew ? 0 : position.slot)
            for record in contents?.records ?? [] { batch.add(record) }
            alive = max(alive, file.lastAlive)
            let lost = (contents?.damaged ?? 0) + (contents?.torn ?? 0)
            // Cut short, a header that is wrong, or a hole: the file is kept for whoever wants to look.
            if file.isDamaged || (contents?.damaged ?? 0) > 0 {
                warnings.append(Self.quarantine(file.path, lost: lost))
            } else if lost > 0 {
                warnings.append(
                    "the last \(lost) records of \(file.path) were torn and are not counted; what they end is charged as if it had run on")
            }
        }
        let last = max(position.segment, remains.compactMap(\.number).max() ?? 0)
        // `alive` is one word without a checksum; a time that has not come yet is not believed.
        let crash = max(batch.clock, min(alive, now))
        position = .init(segment: last, slot: UsageDatabase.Position.end)
        try database.fold(batch, to: position, crashedAt: crash)
        for file in remains { Self.remove(file.path) }
        return max(crash, now)
    }

    /// Keeps a damaged file under another name. A link and not a move: until its readable records are counted the file must be found.
    static func quarantine(_ path: String, lost: Int) -> String {
        var kept = ""
        var result: Int32 = -1
        for attempt in 1...1000 {
            kept = "\(path.dropLast(UsageSegment.suffix.count)).damaged-\(attempt)"
            result = unsafe link(path, kept)
            if result == 0 || errno != EEXIST { break }
        }
        let what = "the usage ledger's \(path) is damaged: \(lost) records cannot be read, the others are counted; "
        return what + (result == 0 ? "kept as \(kept)" : "it could not be kept: \(KernelError("link"))")
    }

    static func remove(_ path: String) { unsafe unlink(path) }
}
