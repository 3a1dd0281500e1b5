// SPDX-License-Identifier: Apache-2.0
import Core
import DequeModule
import Glibc
import Kernel

/// Walks over buckets: they set the watches, and find what no event said.
extension BucketWatcher {
    /// How new an empty file is that somebody may be about to write: created, and not yet opened. Nanoseconds.
    private static let doubt: UInt64 = 1_000_000_000

    /// A slice of each bucket's first walk; whether there is more to do.
    func search() -> Bool {
        let now = FileClock.nanoseconds()
        while let first = doubtful.first, first.at <= now {
            doubtful.removeFirst()
            first.bucket.doubtfulCount -= 1
            _ = created(first.bucket, first.path, nil)
        }
        var isBusy = false
        for bucket in buckets.values {
            if bucket.scans.isEmpty { schedule(bucket, now) }
            guard room > 0, !bucket.scans.isEmpty else { continue }
            advance(bucket)
            isBusy = isBusy || !bucket.scans.isEmpty
        }
        return isBusy
    }

    /// Buckets that nobody can watch, and those that were not there when they were to be watched.
    private func schedule(_ bucket: WatchedBucket, _ now: UInt64) {
        guard bucket.isPolled || bucket.root == nil, now >= bucket.nextPoll else { return }
        bucket.nextPoll = now + (bucket.isPolled ? watch.options.poll : 500_000_000)
        bucket.rescan()
    }

    private func advance(_ bucket: WatchedBucket) {
        guard var scan = bucket.scans.first else { return }
        bucket.scans.removeFirst()
        guard let top = try? HostileFiles.top("\(watch.root)/\(bucket.id)") else {
            // The bucket is gone, or not made yet.
            if let root = bucket.root { drop(root, unmarks: false) }
            return
        }
        if !scan.hasBegun {
            scan.hasBegun = true
            if scan.path.isEmpty { bucket.isPolled = false }
            // Marked before it is read: what comes in between is said twice and not never.
            mark(scan.path, bucket, top)
        }
        var walk = scan.walk
        walk.step(in: top, limit: watch.options.slice) { path, _ in
            guard ObjectKey(bytes: path) != nil else { return .skip }
            mark(path, bucket, top)
            return .descend
        } file: { path, facts in
            figures.scanned += 1
            meet(path, facts, bucket, &scan, top)
            return room > 0
        }
        scan.walk = walk
        if !walk.isDone {
            bucket.scans.prepend(scan)
        } else if bucket.isPolled, case .replay = scan.purpose, scan.path.isEmpty {
            bucket.seen = min(scan.beganAt, scan.heldBack)
            let now = FileClock.nanoseconds()
            bucket.nextPoll = now + max(watch.options.poll, (now - min(now, scan.beganAt)) * 10)
        }
    }

    private func meet(_ path: [UInt8], _ facts: FileFacts, _ bucket: WatchedBucket, _ scan: inout BucketScan, _ top: borrowing OwnedFD) {
        guard facts.isRegular else { return }
        guard ObjectKey(bytes: path) != nil else {
            figures.nameless += 1
            return
        }
        if case .replay(let since) = scan.purpose, facts.changed < since { return }
        if case .renamed(let old) = scan.purpose { return renamed(bucket, old + path.dropFirst(scan.path.count), path, nil) }
        let now = FileClock.nanoseconds()
        if facts.size == 0, facts.changed + Self.doubt > now, doubtful.count < 10_000 {
            bucket.doubtfulCount += 1
            return doubtful.append((bucket, path, facts.changed + Self.doubt))
        }
        if created(bucket, path, nil) == .unfinished { scan.heldBack = min(scan.heldBack, facts.changed) }
    }

    /// Watches a folder and puts it in its place of the tree, wherever it was before.
    private func mark(_ path: [UInt8], _ bucket: WatchedBucket, _ top: borrowing OwnedFD) {
        guard !bucket.isPolled, let place = try? HostileFiles.folder(path, in: top) else { return }
        guard bucket.folderCount < watch.options.folders, let id = try? source.mark(place) else {
            bucket.isPolled = true
            return
        }
        let name = path.lastIndex(of: 0x2F).map { Array(path[($0 + 1)...]) } ?? path
        let parent = path.isEmpty ? nil : folder(at: path.dropLast(name.count + (name.count < path.count ? 1 : 0)), bucket)
        // One whose parent is not known moved meanwhile; its parent's event says where to.
        guard path.isEmpty || parent != nil else { return }
        let known = folders[id]
        if let known, known.bucket === bucket, known.parent === parent, known.name == name { return }
        if let other = parent?.children[name], other.id != id { drop(other, unmarks: false) }
        if path.isEmpty, let root = bucket.root, root.id != id { drop(root, unmarks: false) }
        let folder: WatchedFolder
        if let known, known.bucket === bucket {
            known.parent?.children[known.name] = nil
            known.parent = parent
            known.name = name
            folder = known
        } else {
            if let known { drop(known, unmarks: false) }
            folder = WatchedFolder(id: id, bucket: bucket, parent: parent, name: name)
            folders[id] = folder
            bucket.folderCount += 1
        }
        if let parent { parent.children[name] = folder } else { bucket.root = folder }
    }

    private func folder(at path: ArraySlice<UInt8>, _ bucket: WatchedBucket) -> WatchedFolder? {
        var here = bucket.root
        for part in path.split(separator: 0x2F) { here = here?.children[Array(part)] }
        return here
    }
}
