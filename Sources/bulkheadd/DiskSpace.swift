// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Logging
import Supervision
import Synchronization

/// What is left of the file system that keeps the state, for a user that is not root (statvfs(3)).
struct DiskSpace: Hashable, Sendable {
    /// That may still be written.
    var freeBytes: UInt64
    /// Written and free ones, without those that are root's alone: what `df` takes its share of.
    var totalBytes: UInt64

    var freeRatio: Double { totalBytes == 0 ? 0 : Double(freeBytes) / Double(totalBytes) }

    /// Nil where the kernel does not say. May wait for a slow disk.
    static func of(_ directory: String) -> DiskSpace? {
        var status = statvfs()
        guard unsafe statvfs(directory, &status) == 0, status.f_blocks > 0 else { return nil }
        let (block, free) = (UInt64(status.f_frsize), UInt64(status.f_bavail))
        return DiskSpace(freeBytes: free * block, totalBytes: (UInt64(status.f_blocks) - UInt64(status.f_bfree) + free) * block)
    }
}

/// When a disk counts as full: below a tenth, until an eighth is free again, so that it does not come and go.
struct DiskRule: Hashable, Sendable {
    static let raisedBelow = 0.10
    static let overFrom = 0.125
    private(set) var isRaised = false

    /// Whether the alarm is on after this; nil where that has not changed.
    mutating func judge(_ space: DiskSpace) -> Bool? {
        guard isRaised ? space.freeRatio >= Self.overFrom : space.freeRatio < Self.raisedBelow else { return nil }
        isRaised.toggle()
        return isRaised
    }
}

/// What was seen of the disk last, and whether there is an alarm.
struct DiskWatch: Sendable {
    var last: DiskSpace?
    var rule = DiskRule()
}

extension Daemon {
    /// In its turn on the disk's queue: a disk that hangs holds up what time brings, which waits for it anyway, and no call.
    func lookAtDisk() async {
        let directory = stateFolder
        guard let space = (try? await onDisk { DiskSpace.of(directory) }) ?? nil else { return }
        let turn = diskWatch.withLock { watch -> Bool? in
            watch.last = space
            return watch.rule.judge(space)
        }
        guard let isRaised = turn else { return }
        let alarm = Self.diskAlarm(space, directory, isRaised: isRaised)
        logger.log(
            level: isRaised ? .error : .notice, "\(isRaised ? "alarm" : "alarm over")",
            metadata: ["alarm": "\(alarm.kind.rawValue)", "subject": "\(alarm.subject)", "what": "\(alarm.text)"])
        notify(alarm)
    }

    static func diskAlarm(_ space: DiskSpace, _ directory: String, isRaised: Bool) -> Alarm {
        let share = "\(Int(space.freeRatio * 100)) % (\(space.freeBytes >> 20) MiB) of the disk of \(directory) are free"
        return Alarm(
            kind: .disk, tenant: nil, subject: "disk",
            text: isRaised ? "the disk is nearly full: \(share)" : "the disk has room again: \(share)",
            isRecovery: !isRaised)
    }
}
