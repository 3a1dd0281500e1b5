// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Kernel
import Synchronization
import Testing

@testable import Store

/// What a watch delivered, acknowledged at once unless told otherwise.
final class WatchLog: Sendable {
    private let events = Mutex<[ObjectEvent]>([])
    var all: [ObjectEvent] { events.withLock { $0 } }
    private let created = Mutex<Set<ObjectKey>>([])
    func add(_ more: [ObjectEvent]) {
        created.withLock { $0.formUnion(more.filter { $0.change == .created }.map(\.key)) }
        events.withLock { $0 += more }
    }
    /// How many files the watch had looked at when a key was told of.
    private let scans = Mutex<[String: UInt64]>([:])
    func note(_ events: [ObjectEvent], scanned: UInt64) { scans.withLock { for event in events { $0[event.key.text] = scanned } } }
    func scanned(_ key: String) -> UInt64 { scans.withLock { $0[key] ?? .max } }
    var last: UInt64 { events.withLock { $0.last?.sequence ?? 0 } }
    /// Different keys that were created.
    var keys: Int { created.withLock { $0.count } }
    func reset() { events.withLock { $0 = [] } }
    /// `created a`, `renamed a>b`, in order, each once.
    var words: [String] {
        var seen: Set<String> = []
        return all.map { "\($0.change) \($0.from.map { "\($0)>" } ?? "")\($0.key)" }.filter { seen.insert($0).inserted }
    }
    func wait(for words: [String]) async throws {
        let end = ContinuousClock.now + .seconds(60)
        // The last look is after the last rest: among other tests' threads that may be long.
        while !Set(words).isSubset(of: self.words) {
            guard ContinuousClock.now < end else {
                Issue.record("wanted \(words), got \(self.words)")
                return
            }
            try await Task.sleep(for: .milliseconds(10))
        }
    }
}

enum WatchKind: CaseIterable { case inotify, fanotify }

extension BucketFolder {
    var marks: String { path + ".marks" }

    /// - Parameter acknowledges: at once, on the watch's thread.
    func watch(
        _ kind: WatchKind = .inotify, _ log: WatchLog, acknowledges: Bool = true, _ change: (inout BucketWatch.Options) -> Void = { _ in }
    )
        throws -> BucketWatch
    {
        var options = BucketWatch.Options()
        change(&options)
        // What was there before the watch is older than the clock's last tick.
        usleep(50_000)
        let itself = Mutex<BucketWatch?>(nil)
        nonisolated(unsafe) let box = Box(itself)
        let source: any FolderSource
        switch kind {
        case .inotify: source = try PlainFolderSource()
        case .fanotify: source = NamedFolderSource(try FileEvents())
        }
        let watch = try BucketWatch(root: path, source: source, watermarkFile: marks, options: options) { events in
            log.note(events, scanned: unsafe box.watch.withLock { $0?.figures.scanned ?? 0 })
            log.add(events)
            if acknowledges, let last = events.last { unsafe box.watch.withLock { $0?.acknowledge(upTo: last.sequence) } }
        }
        unsafe box.watch.withLock { $0 = watch }
        watch.watch(bucket)
        return watch
    }

    final class Box {
        let watch: Mutex<BucketWatch?>
        init(_ watch: consuming Mutex<BucketWatch?>) { self.watch = watch }
    }

    /// Until what was there is known: a file of the worker's is seen.
    func settle(_ log: WatchLog) async throws {
        try worker("x", "settled")
        try await log.wait(for: ["created settled"])
        log.reset()
    }
}

/// Files of the largest bucket: more than the kernel's queue holds. `BULKHEAD_BUCKET_FILES=1000000` for the bound that is promised.
private let bucketFiles = max(17_000, Int(ProcessInfo.processInfo.environment["BULKHEAD_BUCKET_FILES"] ?? "") ?? 0)

@Suite(.serialized, .enabled(if: getuid() == 0, "fanotify needs root")) struct BucketWatchTests {
    @Test("files that are written, linked, moved and removed, at any depth", arguments: WatchKind.allCases)
    func changes(kind: WatchKind) async throws {
        let folder = try BucketFolder(), log = WatchLog()
        try folder.worker("old", "before/it")
        let watch = try folder.watch(kind, log)
        defer { watch.stop() }
        try await folder.settle(log)
        try folder.worker("x", "a")
        try folder.worker("x", "in/2026/deep/b")
        try folder.put("by the store", "c")
        try await log.wait(for: ["created a", "created in/2026/deep/b", "created c"])
        #expect(unsafe link("\(folder.files)/a", "\(folder.files)/in/linked") == 0)
        #expect(unsafe rename("\(folder.files)/a", "\(folder.files)/in/2026/a2") == 0)
        #expect(unsafe unlink("\(folder.files)/c") == 0)
        try await log.wait(for: ["created in/linked", "renamed a>in/2026/a2", "removed c"])
        // A folder takes its objects along, and is still watched.
        #expect(unsafe rename("\(folder.files)/in/2026", "\(folder.files)/moved") == 0)
        try await log.wait(for: ["renamed in/2026/a2>moved/a2", "renamed in/2026/deep/b>moved/deep/b"])
        try folder.worker("y", "moved/deep/c")
        try await log.wait(for: ["created moved/deep/c"])
        #expect(!log.words.contains("created before/it") && !log.words.contains { $0.contains("2026/deep/c") })
        let event = try #require(log.all.first { $0.key.text == "moved/deep/c" })
        #expect(event.size == 1 && event.inode > 0 && event.modified > 0)
        #expect(kind == .inotify ? event.pid == nil : event.pid == getpid())
    }

    @Test("nothing fires while somebody still writes; the close does, under the name of that moment", arguments: WatchKind.allCases)
    func partial(kind: WatchKind) async throws {
        let folder = try BucketFolder(), log = WatchLog()
        let watch = try folder.watch(kind, log)
        defer { watch.stop() }
        try await folder.settle(log)
        let first = unsafe open("\(folder.files)/w", O_CREAT | O_WRONLY, 0o600), second = unsafe open("\(folder.files)/w", O_WRONLY)
        #expect(unsafe write(first, "half", 4) == 4)
        #expect(unsafe link("\(folder.files)/w", "\(folder.files)/w2") == 0)
        #expect(unsafe rename("\(folder.files)/w2", "\(folder.files)/w3") == 0)
        close(first)
        // A walk looks at it, too.
        #expect(unsafe mkdir("\(folder.files)/new", 0o700) == 0)
        #expect(unsafe link("\(folder.files)/w", "\(folder.files)/new/w4") == 0)
        try folder.worker("x", "new/mark")
        try await log.wait(for: ["created new/mark"])
        try folder.worker("x", "mark")
        try await log.wait(for: ["created mark"])
        #expect(!log.words.contains { $0.contains("w") && !$0.contains("new/mark") })
        #expect(unsafe rename("\(folder.files)/w", "\(folder.files)/done") == 0)
        close(second)
        try await log.wait(for: ["created done"])
        #expect(!log.words.contains("created w"))
        let store = try folder.store.write(folder.key("put"), in: folder.bucket)
        try store.write([1, 2])
        try folder.worker("x", "mark2")
        try await log.wait(for: ["created mark2"])
        #expect(!log.words.contains { $0.contains("put") })
        try store.commit()
        try await log.wait(for: ["created put"])
        #expect(log.all.first { $0.key.text == "put" }?.size == 2)
    }

    @Test("a file that is renamed before anybody looked is created under its new name")
    func renamedAtOnce() async throws {
        let folder = try BucketFolder(), log = WatchLog()
        // Blocked by its window, so that both events wait in the queue.
        let watch = try folder.watch(.inotify, log, acknowledges: false) { $0.window = 1 }
        defer { watch.stop() }
        try folder.worker("x", "first")
        try await log.wait(for: ["created first"])
        try folder.worker("x", "out.part")
        #expect(unsafe rename("\(folder.files)/out.part", "\(folder.files)/out.jpg") == 0)
        watch.acknowledge(upTo: 1_000)
        try await log.wait(for: ["created out.jpg"])
        #expect(!log.words.contains { $0.contains("part") })
    }

    @Test("hostile names and things that are no files make no event and no harm", arguments: WatchKind.allCases)
    func hostile(kind: WatchKind) async throws {
        let folder = try BucketFolder(), log = WatchLog()
        let watch = try folder.watch(kind, log)
        defer { watch.stop() }
        try await folder.settle(log)
        let script = """
            import os
            os.chdir('\(folder.files)')
            for name in [b'\\xff', b'new\\nline', b'\\x01']:
                open(name, 'w').write('x')
                os.mkdir(name + b'd')
                open(name + b'd/file', 'w').write('x')
            os.mkfifo('fifo')
            os.symlink('/etc/passwd', 'link')
            os.symlink('/etc', 'linkd')
            os.symlink('.', 'loop')
            for i in range(70): os.mkdir('d'); os.chdir('d')
            open('deep', 'w').write('x')
            """
        #expect(try run(script) == 0)
        try folder.worker("x", "end")
        try await log.wait(for: ["created end"])
        #expect(Set(log.words).subtracting(["created settled"]) == ["created end"])
        // Swapped while it is looked at: never anything but a regular file's facts, and the thread goes on.
        #expect(
            try run(
                """
                import os
                os.chdir('\(folder.files)')
                for i in range(3000):
                    open('s', 'w').write('x'); os.unlink('s'); os.mkfifo('s'); os.unlink('s'); os.symlink('/etc/passwd', 's'); os.unlink('s'); os.mkdir('s'); os.rmdir('s')
                """) == 0)
        try folder.worker("x", "end2")
        try await log.wait(for: ["created end2"])
        #expect(log.all.filter { $0.key.text == "s" && $0.change == .created }.allSatisfy { $0.size <= 1 })
        #expect(Set(log.all.map(\.key.text)).isSubset(of: ["settled", "end", "end2", "s"]))
    }

    private func run(_ script: String) throws -> Int32 {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        process.arguments = ["-c", script]
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }

    @Test("what the kernel dropped is found by a walk", arguments: WatchKind.allCases)
    func overflow(kind: WatchKind) async throws {
        let folder = try BucketFolder(), log = WatchLog()
        #expect(unsafe mkdir("\(folder.files)/a", 0o700) == 0)
        #expect(unsafe mkdir("\(folder.files)/a/b", 0o700) == 0)
        let watch = try folder.watch(kind, log, acknowledges: false) { $0.window = 4 }
        defer { watch.stop() }
        try folder.worker("x", "a/b/seen")
        try await log.wait(for: ["created a/b/seen"])
        for number in 0..<4 { try folder.worker("x", "f\(number)") }
        // Its window is full: it reads no more.
        while watch.figures.delivered < 4 { try await Task.sleep(for: .milliseconds(5)) }
        let count = bucketFiles
        #expect(
            try run(
                "import os\nos.chdir('\(folder.files)')\nfor i in range(\(count)): open('a/b/%d' % i, 'w').write('x')")
                == 0)
        // On a thread of its own: thousands of turns, and each one is waited for among all tests.
        let isOver = Mutex(false)
        let (ended, signal) = AsyncStream<Void>.makeStream()
        Thread.detachNewThread {
            while !isOver.withLock({ $0 }) {
                watch.acknowledge(upTo: log.last)
                usleep(200)
            }
            signal.finish()
        }
        let end = ContinuousClock.now + .seconds(180 + count / 100)
        while ContinuousClock.now < end, log.keys < count + 5 { try await Task.sleep(for: .milliseconds(20)) }
        isOver.withLock { $0 = true }
        for await _ in ended {}
        #expect(watch.figures.overflows > 0)
        #expect(Set(log.all.filter { $0.change == .created }.map(\.key)).count == count + 5)
    }

    /// The stored mark, when it is there and fits.
    private func mark(_ folder: BucketFolder, where fits: (UInt64) -> Bool) async throws -> UInt64 {
        for _ in 0..<1_000 {
            if let mark = Watermarks.load(folder.marks)[folder.bucket], fits(mark) { return mark }
            try await Task.sleep(for: .milliseconds(30))
        }
        throw StoreError("the mark of \(folder.bucket) does not come so far")
    }

    @Test("a mark that is held stays, whatever is acknowledged; what came since is told again when asked for, and after a restart")
    func heldMark() async throws {
        let folder = try BucketFolder(), log = WatchLog()
        var watch = try folder.watch(.inotify, log)
        try await folder.settle(log)
        watch.setMark(folder.bucket, .held)
        try folder.worker("x", "forgotten")
        try await log.wait(for: ["created forgotten"])
        // Beyond the margin, and as long as a mark takes to be stored.
        try await Task.sleep(for: .seconds(6))
        log.reset()
        let before = FileClock.nanoseconds()
        watch.setMark(folder.bucket, .again)
        try await log.wait(for: ["created forgotten"])
        let moved = try await mark(folder) { $0 > before }
        watch.setMark(folder.bucket, .held)
        try folder.worker("x", "forgotten again")
        try await log.wait(for: ["created forgotten again"])
        let held = FileClock.nanoseconds()
        try await Task.sleep(for: .seconds(6))
        watch.stop()
        let stopped = try #require(Watermarks.load(folder.marks)[folder.bucket])
        #expect(stopped >= moved && stopped <= held + 1_000_000_000, "it went on")
        log.reset()
        watch = try folder.watch(.inotify, log)
        try await log.wait(for: ["created forgotten again"])
        watch.stop()
    }

    @Test("after a restart comes what happened meanwhile and what was not acknowledged, as itself; nothing else")
    func restart() async throws {
        let folder = try BucketFolder(), log = WatchLog()
        try folder.worker("x", "ancient")
        var watch = try folder.watch(.inotify, log)
        try await folder.settle(log)
        try folder.worker("x", "acknowledged")
        try await log.wait(for: ["created acknowledged"])
        // The watermark is behind it by the margin at least.
        try await Task.sleep(for: .milliseconds(3500))
        watch.stop()
        log.reset()
        watch = try folder.watch(.inotify, log, acknowledges: false)
        try folder.worker("x", "unacknowledged")
        try await log.wait(for: ["created unacknowledged"])
        let identity = Set(log.all.map { [$0.inode, $0.modified] })
        try await Task.sleep(for: .milliseconds(3000))
        watch.stop()
        try folder.worker("x", "meanwhile/deep")
        log.reset()
        watch = try folder.watch(.inotify, log)
        try await log.wait(for: ["created unacknowledged", "created meanwhile/deep"])
        #expect(log.words.count == 2, "\(log.words)")
        #expect(Set(log.all.filter { $0.key.text == "unacknowledged" }.map { [$0.inode, $0.modified] }) == identity)
        watch.unwatch(folder.bucket)
        watch.stop()
        #expect(Watermarks.load(folder.marks).isEmpty)
    }

    @Test("a bucket with more folders than can be watched is looked through again and again")
    func polled() async throws {
        let folder = try BucketFolder(), log = WatchLog()
        let watch = try folder.watch(.inotify, log) {
            $0.folders = 3
            $0.poll = 50_000_000
        }
        defer { watch.stop() }
        for index in 0..<6 { try folder.worker("x", "d\(index)/a") }
        try await log.wait(for: (0..<6).map { "created d\($0)/a" })
        try folder.worker("x", "d5/e/b")
        let file = unsafe open("\(folder.files)/d5/open", O_CREAT | O_WRONLY, 0o600)
        #expect(unsafe write(file, "half", 4) == 4)
        try await log.wait(for: ["created d5/e/b"])
        try await Task.sleep(for: .milliseconds(2500))
        #expect(!log.words.contains("created d5/open"))
        close(file)
        try await log.wait(for: ["created d5/open"])
    }

    @Test("a bucket of 100,000 files is walked in slices, and another one is served meanwhile")
    func large() async throws {
        let folder = try BucketFolder(), log = WatchLog()
        #expect(
            try run(
                "import os\nos.chdir('\(folder.files)')\nfor d in range(10):\n os.mkdir(str(d))\n for i in range(10000): os.close(os.open('%d/%d' % (d, i), os.O_CREAT | os.O_WRONLY))"
            ) == 0)
        let other = BucketID(tenant: try #require(Name("globex")), bucket: try #require(Name("small")))
        try folder.store.create(other)
        let clock = ContinuousClock()
        let began = clock.now
        let watch = try folder.watch(.inotify, log)
        defer { watch.stop() }
        watch.watch(other)
        var (answered, between) = (Duration.zero, UInt64(0))
        for index in 0..<20 {
            let at = clock.now
            _ = try folder.store.put([1], folder.key("k\(index)"), in: other)
            let before = watch.figures.scanned
            try await log.wait(for: ["created k\(index)"])
            answered = max(answered, clock.now - at)
            let then = log.scanned("k\(index)")
            between = max(between, then > before ? then - before : 0)
        }
        while watch.figures.scanned < 100_000 { try await Task.sleep(for: .milliseconds(5)) }
        let scan = clock.now - began
        let measured = clock.measure { folder.store.measure(folder.bucket) }
        print(
            "bucket scan: 100,000 files watched in \(scan), measured in \(measured); slowest event of another bucket meanwhile \(answered)")
        // In files, not in seconds: a busy machine makes these longer.
        #expect(between < 20_000, "another bucket's event waited for \(between) files")
        #expect(folder.store.usage.usage(folder.bucket).objects == 100_000)
        #expect(log.all.allSatisfy { $0.bucket == other })
    }
}
