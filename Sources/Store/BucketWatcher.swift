// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import Glibc
import Kernel
import Synchronization

/// The thread of a ``BucketWatch``.
final class BucketWatcher {
    let watch: BucketWatch
    let source: any FolderSource
    var buckets: [BucketID: WatchedBucket] = [:]
    var folders: [FolderID: WatchedFolder] = [:]
    var batch: [ObjectEvent] = []
    var lastSequence: UInt64 = 0
    var acknowledged: UInt64 = 0
    var figures = BucketWatch.Figures()
    /// Empty files that are so new that somebody may be about to open them, and when to look again.
    var doubtful: Deque<(bucket: WatchedBucket, path: [UInt8], at: UInt64)> = []
    private var marks: [BucketID: UInt64]
    private var hasNewMarks = false
    private var storedAt: UInt64 = 0

    init(_ watch: BucketWatch, _ source: any FolderSource) {
        self.watch = watch
        self.source = source
        marks = Watermarks.load(watch.watermarkFile)
    }

    /// Events that may be made before somebody acknowledges.
    var room: Int { Int(clamping: watch.options.window) - Int(clamping: lastSequence - acknowledged) }

    func run() {
        guard var everything = try? Poller(), var blocked = try? Poller() else { return }
        try? everything.add(watch.wake.descriptor.rawValue, token: 0)
        try? everything.add(source.descriptor, token: 1)
        try? blocked.add(watch.wake.descriptor.rawValue, token: 0)
        while true {
            watch.wake.clear()
            let isStopping = obey()
            var isBusy = false
            if room > 0 { isBusy = read() }
            if room > 0 { isBusy = search() || isBusy }
            flush()
            settle(force: isStopping)
            watch.requests.withLock { $0.figures = figures }
            if isStopping { return }
            if room <= 0 { _ = blocked.wait(milliseconds: 1000) } else { _ = everything.wait(milliseconds: isBusy ? 0 : patience) }
        }
    }

    /// Until something has to be done that no event announces.
    private var patience: Int32 {
        if !doubtful.isEmpty { return 50 }
        return hasNewMarks || buckets.values.contains { $0.isPolled || $0.root == nil || $0.lastSequence > $0.durableSequence }
            ? 500 : 30_000
    }

    private func obey() -> Bool {
        let (orders, isStopping) = watch.requests.withLock { requests in
            defer {
                requests.watch = []
                requests.unwatch = []
                requests.marks = []
            }
            acknowledged = max(acknowledged, min(requests.acknowledged, lastSequence))
            return (requests, requests.isStopping)
        }
        for bucket in orders.unwatch { forget(bucket) }
        for (bucket, since) in orders.watch where buckets[bucket] == nil {
            let before = marks[bucket]
            let watched = WatchedBucket(id: bucket, seen: before ?? since ?? 0)
            buckets[bucket] = watched
            (watched.lastSequence, watched.durableSequence) = (lastSequence, lastSequence)
            if before != nil { watched.rescan() } else { watched.scan(.replay(since: watched.seen)) }
            if before == nil {
                marks[bucket] = watched.seen
                hasNewMarks = true
            }
        }
        for (bucket, mark) in orders.marks { buckets[bucket]?.set(mark) }
        return isStopping
    }

    private func forget(_ id: BucketID) {
        marks[id] = nil
        hasNewMarks = true
        guard let bucket = buckets.removeValue(forKey: id) else { return }
        doubtful.removeAll { $0.bucket === bucket }
        if let root = bucket.root { drop(root, unmarks: true) }
    }

    /// Forgets a folder and all below.
    func drop(_ folder: WatchedFolder, unmarks: Bool) {
        if unmarks, let path = folder.path, let top = try? HostileFiles.top("\(watch.root)/\(folder.bucket.id)"),
            let place = try? HostileFiles.folder(path, in: top)
        {
            source.unmark(folder.id, place)
        }
        for child in folder.children.values { drop(child, unmarks: unmarks) }
        folder.parent?.children[folder.name] = nil
        folder.parent = nil
        if folders[folder.id] === folder {
            folders[folder.id] = nil
            folder.bucket.folderCount -= 1
        }
        if folder.bucket.root === folder { folder.bucket.root = nil }
    }

    // MARK: events

    /// Reads what waits, not without end; whether there may be more.
    private func read() -> Bool {
        let began = FileClock.nanoseconds()
        for _ in 0..<64 where room > 0 {
            guard let events = try? source.next() else { return false }
            if events.isEmpty {
                drained(at: began)
                return false
            }
            for event in events { take(event) }
        }
        return true
    }

    /// All that happened before `time` has been read.
    private func drained(at time: UInt64) {
        for bucket in buckets.values {
            bucket.forgetUnfired()
            guard bucket.scans.isEmpty, bucket.root != nil, !bucket.isPolled, bucket.doubtfulCount == 0 else { continue }
            bucket.seen = time
        }
    }

    private func take(_ event: FolderEvent) {
        if event.kinds.contains(.overflow) {
            figures.overflows += 1
            for bucket in buckets.values { bucket.rescan() }
            return
        }
        let previous = event.previous.flatMap { place in folders[place.folder].map { ($0, place.name) } }
        guard let folder = folders[event.place.folder] else {
            // Renamed to where nobody watches.
            if let (folder, name) = previous { left(folder, name, event) }
            return
        }
        guard let path = folder.path(of: event.place.name) else { return }
        if event.kinds.contains(.isDirectory) { return takeFolder(event, folder, path, previous) }
        if event.kinds.contains(.renamed), let (before, name) = previous, let old = before.path(of: name) {
            if before.bucket === folder.bucket { return renamed(folder.bucket, old, path, event.writer) }
            left(before, name, event)
        }
        let isNew = !event.kinds.isDisjoint(with: [.closeWrite, .created, .movedTo, .renamed])
        if isNew {
            switch created(folder.bucket, path, event.writer, isNewName: event.kinds.isDisjoint(with: [.closeWrite, .movedTo, .renamed])) {
            case .reported, .unfinished: return
            case .gone: if event.kinds.isDisjoint(with: [.removed, .movedFrom]) { folder.bucket.unfired.insert(path) }
            }
        }
        if !event.kinds.isDisjoint(with: [.removed, .movedFrom]) { emit(folder.bucket, path, .removed, nil, nil, event.writer) }
    }

    private func left(_ folder: WatchedFolder, _ name: [UInt8], _ event: FolderEvent) {
        if event.kinds.contains(.isDirectory) {
            if let child = folder.children[name] { drop(child, unmarks: false) }
        } else if let path = folder.path(of: name) {
            emit(folder.bucket, path, .removed, nil, nil, event.writer)
        }
    }

    private func takeFolder(_ event: FolderEvent, _ folder: WatchedFolder, _ path: [UInt8], _ previous: (WatchedFolder, [UInt8])?) {
        let name = event.place.name
        if event.kinds.contains(.renamed), let (before, oldName) = previous, let child = before.children[oldName],
            let old = before.path(of: oldName),
            before.bucket === folder.bucket
        {
            if let replaced = folder.children[name], replaced !== child { drop(replaced, unmarks: false) }
            before.children[oldName] = nil
            child.parent = folder
            child.name = name
            folder.children[name] = child
            return folder.bucket.scan(.renamed(from: old), at: path)
        }
        if let (before, oldName) = previous, let child = before.children[oldName] { drop(child, unmarks: false) }
        if !event.kinds.isDisjoint(with: [.created, .movedTo, .renamed]) {
            // Only what can hold objects is looked into; a folder that is gone by then is no loss.
            if ObjectKey(bytes: path) != nil { folder.bucket.scan(.fresh, at: path) }
        } else if let child = folder.children[name] {
            drop(child, unmarks: false)
        }
    }

    enum Finding { case reported, unfinished, gone }

    /// - Parameter isNewName: nobody closed it: it is a further name of a file, or somebody is about to write it.
    func created(_ bucket: WatchedBucket, _ path: [UInt8], _ writer: Writer?, isNewName: Bool = false) -> Finding {
        guard ObjectKey(bytes: path) != nil else {
            figures.nameless += 1
            return .reported
        }
        guard let top = try? HostileFiles.top("\(watch.root)/\(bucket.id)"), let file = try? HostileFiles.open(path, in: top) else {
            return .gone
        }
        if isNewName, file.facts.size == 0 { return .unfinished }
        if HostileFiles.isWritten(file.descriptor) { return .unfinished }
        emit(bucket, path, .created, nil, file.facts, writer)
        return .reported
    }

    func renamed(_ bucket: WatchedBucket, _ old: [UInt8], _ path: [UInt8], _ writer: Writer?) {
        guard ObjectKey(bytes: path) != nil else { return emit(bucket, old, .removed, nil, nil, writer) }
        guard let top = try? HostileFiles.top("\(watch.root)/\(bucket.id)"), let file = try? HostileFiles.open(path, in: top) else {
            // Renamed or removed once more; that event follows.
            if bucket.takeUnfired(old) { bucket.unfired.insert(path) }
            return
        }
        // Its close will say that it is whole, under the name that it has then.
        if HostileFiles.isWritten(file.descriptor) { return }
        let key = bucket.takeUnfired(old) ? nil : ObjectKey(bytes: old)
        emit(bucket, path, key == nil ? .created : .renamed, key, file.facts, writer)
    }

    func emit(_ bucket: WatchedBucket, _ path: [UInt8], _ change: ObjectChange, _ from: ObjectKey?, _ facts: FileFacts?, _ writer: Writer?)
    {
        guard let key = ObjectKey(bytes: path) else { return }
        lastSequence += 1
        bucket.lastSequence = lastSequence
        var event = ObjectEvent(
            bucket: bucket.id, key: key, change: change, from: from, size: facts?.size ?? 0, modified: facts?.modified ?? 0,
            inode: facts?.inode ?? 0, pid: writer?.pid, cgroups: writer?.cgroups ?? [], sequence: lastSequence)
        event.changed = facts?.changed ?? 0
        batch.append(event)
        if batch.count >= watch.options.batch { flush() }
    }

    private func flush() {
        guard !batch.isEmpty else { return }
        figures.delivered += UInt64(batch.count)
        let events = batch
        batch = []
        watch.deliver(events)
    }

    // MARK: watermarks

    private func settle(force: Bool) {
        let now = FileClock.nanoseconds()
        for bucket in buckets.values where !bucket.isHeld {
            // Without events it moves on, too, lest an old one bring back what everybody has forgotten.
            if bucket.candidate == nil, bucket.seen > bucket.durable,
                bucket.lastSequence > bucket.durableSequence || bucket.seen - bucket.durable > 1_000_000_000
            {
                bucket.candidate = (bucket.seen, bucket.lastSequence)
            }
            if let candidate = bucket.candidate, acknowledged >= candidate.sequence {
                (bucket.durable, bucket.durableSequence) = (candidate.time, candidate.sequence)
                bucket.candidate = nil
                marks[bucket.id] = candidate.time
                hasNewMarks = true
            }
        }
        guard hasNewMarks, force || now > storedAt + 1_000_000_000 else { return }
        storedAt = now
        hasNewMarks = !Watermarks.store(marks, watch.watermarkFile)
    }
}
