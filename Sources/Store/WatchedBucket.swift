// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import Kernel

/// A watched directory in the tree of its bucket.
final class WatchedFolder {
    let id: FolderID
    unowned let bucket: WatchedBucket
    /// Nil for the bucket's own directory.
    weak var parent: WatchedFolder?
    var name: [UInt8]
    var children: [[UInt8]: WatchedFolder] = [:]

    init(id: FolderID, bucket: WatchedBucket, parent: WatchedFolder?, name: [UInt8]) {
        self.id = id
        self.bucket = bucket
        self.parent = parent
        self.name = name
    }

    /// Relative to the bucket; nil where a folder above is gone.
    var path: [UInt8]? {
        guard parent != nil || name.isEmpty else { return nil }
        var parts = [name], above = parent
        while let folder = above, !folder.name.isEmpty {
            guard folder.parent != nil else { return nil }
            parts.append(folder.name)
            above = folder.parent
        }
        return Array(parts.reversed().joined(separator: [0x2F]))
    }

    /// The path of an entry; nil where a folder above is gone.
    func path(of entry: [UInt8]) -> [UInt8]? { path.map { $0.isEmpty ? entry : $0 + [0x2F] + entry } }
}

/// A walk that looks for what the events did not say.
struct BucketScan {
    enum Purpose {
        /// Report what changed at or after this time (nanoseconds since 1970).
        case replay(since: UInt64)
        /// Report everything: a new folder.
        case fresh
        /// Everything has a new key; it had this path before.
        case renamed(from: [UInt8])
    }
    var purpose: Purpose
    var path: [UInt8]
    var walk: FolderWalk
    var hasBegun = false
    let beganAt: UInt64
    /// The oldest change among files that somebody was writing, where no event will say when they are done.
    var heldBack = UInt64.max

    init(_ purpose: Purpose, at path: [UInt8], now: UInt64) {
        self.purpose = purpose
        self.path = path
        walk = FolderWalk(from: path)
        beganAt = now
    }
}

/// One bucket under watch.
final class WatchedBucket {
    let id: BucketID
    var root: WatchedFolder?
    var scans: Deque<BucketScan> = []
    /// Of all that changed before, events were made (``lastSequence`` and lower).
    var seen: UInt64
    var lastSequence: UInt64 = 0
    /// What becomes durable as soon as so much is acknowledged.
    var candidate: (time: UInt64, sequence: UInt64)?
    var durable: UInt64
    var durableSequence: UInt64 = 0
    /// Its watermark stays, whatever is acknowledged.
    private(set) var isHeld = false
    /// More directories than can be watched: it is looked through again and again instead.
    var isPolled = false
    var nextPoll: UInt64 = 0
    /// Closed by their writer and then gone from their name before they could be looked at.
    var unfired: Set<[UInt8]> = []
    var oldUnfired: Set<[UInt8]> = []
    var folderCount = 0
    /// Its files among ``BucketWatcher/doubtful``.
    var doubtfulCount = 0

    init(id: BucketID, seen: UInt64) {
        self.id = id
        self.seen = seen
        durable = seen
    }

    func scan(_ purpose: BucketScan.Purpose, at path: [UInt8] = []) {
        // One walk over everything is never more than a thousand over parts.
        if scans.count >= 1000, !path.isEmpty { return rescan() }
        scans.append(BucketScan(purpose, at: path, now: FileClock.nanoseconds()))
    }

    /// Everything since the last time that all was known.
    func rescan() {
        // The one that reports everything stays right: what it has not met yet is reported, too.
        scans.removeAll()
        scan(.replay(since: seen > BucketWatch.margin ? seen - BucketWatch.margin : 0))
    }

    func set(_ mark: BucketWatch.Mark) {
        isHeld = mark == .held
        // One that would take in what is forgotten from now on.
        if isHeld { candidate = nil }
        if mark == .again {
            seen = durable
            rescan()
        }
    }

    func forgetUnfired() {
        oldUnfired = unfired
        unfired = []
    }

    func takeUnfired(_ path: [UInt8]) -> Bool { unfired.remove(path) != nil || oldUnfired.remove(path) != nil }
}
