// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Glibc
public import Kernel
import Synchronization

/// Turns what happens to files in buckets into ``ObjectEvent``s, on a thread of its own.
///
/// `created`: a file was closed by whoever wrote it, was moved in from elsewhere, or got a further name. A file that anybody still has open for writing is not reported; its close is.
/// `renamed`: an object that was reported has another key; one that was not yet reported is `created` under its new key. Which of them a rename is for a trigger with a filter:
/// ``ObjectEvent/meaning(prefix:suffix:changes:)``. `removed`: the name is gone; said of links and other things that were no objects, too.
///
/// Every event comes at least once, and one that comes again has the same bucket, key, inode and time of change. Lost events of a full queue are made up for by a walk over the
/// bucket, and so is the time in which nobody watched: reported is what changed since the watermark, which is stored once everything before it is acknowledged. Neither can tell what was
/// removed meanwhile, nor which objects a renamed folder had; and what a worker had still open when the daemon ended is known by its last write, not by its close.
public final class BucketWatch: Sendable {
    /// File times are those of the last clock tick, and the clock may be set back a little. Nanoseconds.
    static let margin: UInt64 = 2_000_000_000

    public struct Figures: Hashable, Sendable {
        public var delivered: UInt64 = 0
        /// How often the kernel dropped events, each made up for by a walk.
        public var overflows: UInt64 = 0
        /// Files whose path is no key.
        public var nameless: UInt64 = 0
        public var scanned: UInt64 = 0
    }
    /// Whether a bucket's watermark goes on with what is acknowledged.
    public enum Mark: Hashable, Sendable {
        /// It stays where it is, also over a restart: what is acknowledged from now on may be forgotten.
        case held
        /// It goes on.
        case moving
        /// Everything since is reported again, and then it goes on.
        case again
    }
    struct Requests {
        var watch: [(bucket: BucketID, since: UInt64?)] = []
        var unwatch: [BucketID] = []
        var marks: [(bucket: BucketID, mark: Mark)] = []
        var acknowledged: UInt64 = 0
        var isStopping = false
        var hasEnded = false
        var figures = Figures()
    }
    struct Options: Sendable {
        /// Events that may be unacknowledged before reading stops; then the kernel's bounded queue fills, and at last a walk finds the rest.
        var window: UInt64 = 4096
        var batch = 256
        /// Directories of one bucket under watch.
        var folders = 10_000
        /// Names that one walk looks at before the next one's turn.
        var slice = 512
        /// Between walks over a bucket that has too many directories; also ten times what the last one took. Nanoseconds.
        var poll: UInt64 = 5_000_000_000
    }

    let root: String
    let watermarkFile: String
    let options: Options
    let requests = Mutex(Requests())
    let wake: WakeUp
    let deliver: @Sendable ([ObjectEvent]) -> Void

    /// - Parameters:
    ///   - root: the directory of ``BucketStore``.
    ///   - events: fanotify's queue; nil for inotify, which does not say who.
    ///   - deliver: gets events in order, on the watch's thread; it should only hand them on. Each is acknowledged later, by ``acknowledge(upTo:)``.
    public convenience init(
        root: String, events: consuming FileEvents?, watermarkFile: String, deliver: @escaping @Sendable ([ObjectEvent]) -> Void
    ) throws(KernelError) {
        var source: any FolderSource
        if let events { source = NamedFolderSource(events) } else { source = try PlainFolderSource() }
        try self.init(root: root, source: source, watermarkFile: watermarkFile, options: Options(), deliver: deliver)
    }

    init(
        root: String, source: sending any FolderSource, watermarkFile: String, options: Options,
        deliver: @escaping @Sendable ([ObjectEvent]) -> Void
    ) throws(KernelError) {
        self.root = root
        self.watermarkFile = watermarkFile
        self.options = options
        self.deliver = deliver
        wake = try WakeUp()
        // Used by the new thread alone from here on.
        nonisolated(unsafe) let handed = source
        Thread.detachNewThread { [self] in
            unsafe BucketWatcher(self, handed).run()
            requests.withLock { $0.hasEnded = true }
        }
    }

    /// Reports what happens to the bucket from now on; of one that was watched in an earlier run, also what happened since.
    public func watch(_ bucket: BucketID) {
        let now = FileClock.nanoseconds()
        // A file's time is that of the last tick of the kernel's clock.
        request { $0.watch.append((bucket, now - 10_000_000)) }
    }

    /// Ends the reports, and forgets how far they had come.
    public func unwatch(_ bucket: BucketID) {
        request { requests in
            requests.watch.removeAll { $0.bucket == bucket }
            requests.unwatch.append(bucket)
        }
    }

    /// The events up to this one are safe with their receiver. Those that are not come again after a restart.
    public func acknowledge(upTo sequence: UInt64) { request { $0.acknowledged = max($0.acknowledged, sequence) } }

    /// For a receiver that cannot keep one bucket's events: it acknowledges them all the same, so that no other bucket's wait, and here says that it has to be told again.
    public func setMark(_ bucket: BucketID, _ mark: Mark) { request { $0.marks.append((bucket, mark)) } }

    /// Ends the thread, with the watermarks stored.
    public func stop() {
        request { $0.isStopping = true }
        while !requests.withLock({ $0.hasEnded }) { usleep(1000) }
    }

    public var figures: Figures { requests.withLock { $0.figures } }

    private func request(_ change: (inout Requests) -> Void) {
        requests.withLock { change(&$0) }
        wake.signal()
    }
}

/// How far each bucket's events are acknowledged, in nanoseconds since 1970: one line each, written whole or not at all.
enum Watermarks {
    static func load(_ path: String) -> [BucketID: UInt64] {
        var found: [BucketID: UInt64] = [:]
        for line in String(decoding: FileManager.default.contents(atPath: path) ?? Data(), as: UTF8.self).split(separator: "\n") {
            let words = line.split(separator: " ")
            let names = words.first?.split(separator: "/") ?? []
            guard words.count == 2, names.count == 2, let tenant = Name(names[0]), let bucket = Name(names[1]), let time = UInt64(words[1])
            else { continue }
            found[BucketID(tenant: tenant, bucket: bucket)] = time
        }
        return found
    }

    static func store(_ marks: [BucketID: UInt64], _ path: String) -> Bool {
        let text = marks.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)\n" }.joined()
        let folder = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
        let name = Array(path.utf8.dropFirst(folder.utf8.count + 1))
        do {
            let place = try HostileFiles.top(folder)
            try? HostileFiles.remove(name + Array(".new".utf8), in: place)
            let file = try HostileFiles.create(name + Array(".new".utf8), in: place)
            try HostileFiles.write(Array(text.utf8), to: file)
            try HostileFiles.flush(file)
            try HostileFiles.rename(name + Array(".new".utf8), in: place, to: name, in: place)
            try HostileFiles.flush(place)
            return true
        } catch { return false }
    }
}
