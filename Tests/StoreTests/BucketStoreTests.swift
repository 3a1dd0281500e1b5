// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Synchronization
import Testing

@testable import Store

/// A folder with a bucket store and one bucket.
final class BucketFolder {
    let path: String
    let store: BucketStore
    let bucket: BucketID
    /// The bucket's own directory, as a worker sees it.
    var files: String { store.path(bucket) }

    init(quota: UInt64 = 1 << 30) throws {
        path = NSTemporaryDirectory() + "buckets-\(UUID().uuidString)"
        store = try BucketStore(directory: path, defaultQuota: quota)
        bucket = BucketID(tenant: try #require(Name("acme")), bucket: try #require(Name("photos")))
        try store.create(bucket)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    func key(_ text: String) throws -> ObjectKey { try #require(ObjectKey(text), "\(text)") }
    func put(_ text: String, _ key: String) throws { _ = try store.put(Array(text.utf8), self.key(key), in: bucket) }
    func get(_ key: String) throws -> String {
        let reader = try store.read(self.key(key), in: bucket)
        return String(decoding: try reader.read(at: 0, limit: 1 << 20), as: UTF8.self)
    }
    func keys(prefix: String = "", limit: Int = 1000) throws -> [String] {
        var keys: [String] = [], cursor: String?
        repeat {
            let page = try store.list(bucket, prefix: prefix, after: cursor, limit: limit)
            keys += page.objects.map(\.key.text)
            cursor = page.next
        } while cursor != nil
        return keys
    }
    /// As a worker would write it, with plain file calls.
    func worker(_ text: String, _ name: String) throws {
        let file = "\(files)/\(name)"
        try FileManager.default.createDirectory(atPath: (file as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
        // Not FileManager's, which writes another name first.
        let number = unsafe open(file, O_CREAT | O_WRONLY | O_TRUNC, 0o600)
        let bytes = Array(text.utf8)
        let written = unsafe write(number, bytes, bytes.count)
        #expect(written == bytes.count)
        close(number)
    }
    var incoming: [String] { (try? FileManager.default.contentsOfDirectory(atPath: "\(path)/acme/.photos.incoming")) ?? [] }
}

@Suite struct BucketStoreTests {
    @Test("an object comes back as it was put, is replaced whole, moved and removed")
    func objects() throws {
        let folder = try BucketFolder()
        try folder.put("one", "in/2026/a.txt")
        #expect(try folder.get("in/2026/a.txt") == "one")
        try folder.put("two", "in/2026/a.txt")
        #expect(try folder.get("in/2026/a.txt") == "two")
        try folder.store.move(folder.key("in/2026/a.txt"), to: folder.key("b/ä.txt"), in: folder.bucket)
        #expect(try folder.get("b/ä.txt") == "two")
        #expect(try folder.keys() == ["b/ä.txt"])
        #expect(throws: BucketError.noObject(folder.bucket, try folder.key("in/2026/a.txt"))) { try folder.get("in/2026/a.txt") }
        try folder.store.remove(folder.key("b/ä.txt"), in: folder.bucket)
        #expect(try folder.keys().isEmpty && folder.incoming.isEmpty)
    }

    @Test("what is written shows only when it is whole; what is given up leaves nothing")
    func partial() throws {
        let folder = try BucketFolder()
        try folder.put("old", "a")
        let writer = try folder.store.write(folder.key("a"), in: folder.bucket)
        try writer.write(Array("new".utf8))
        #expect(try folder.get("a") == "old" && folder.keys() == ["a"])
        #expect(folder.incoming.count == 1)
        writer.cancel()
        #expect(try folder.get("a") == "old" && folder.incoming.isEmpty)
        #expect(throws: BucketError.self) { try writer.commit() }
        do {
            let lost = try folder.store.write(folder.key("a"), in: folder.bucket)
            try lost.write([1])
        }
        #expect(folder.incoming.isEmpty, "a writer that is dropped is cancelled")
        #expect(folder.store.usage.usage(folder.bucket.tenant).used == 4096)
    }

    @Test("keys obey the rule")
    func keys() {
        for good in ["a", "a/b", ".a", "...", "a b", "ä/\u{1F600}", String(repeating: "x", count: 255), "a\\b", "%2e%2e"] {
            #expect(ObjectKey(good) != nil, "\(good)")
        }
        let long = Array(repeating: String(repeating: "y", count: 204), count: 5).joined(separator: "/")
        #expect(long.utf8.count == 1024 && ObjectKey(long) != nil && ObjectKey("x" + long) == nil)
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\nb", "a\u{0}", "a\u{7F}", "a\u{85}",
            String(repeating: "x", count: 256),
            Array(repeating: "a", count: 65).joined(separator: "/"),
        ] { #expect(ObjectKey(bad) == nil, "\(bad)") }
        #expect(ObjectKey(bytes: [0xFF]) == nil && ObjectKey(bytes: [0x61, 0xC0, 0xAF]) == nil)
        #expect(ObjectKey("\u{E9}") != ObjectKey("e\u{301}"), "two spellings are two files")
    }

    @Test("a link, a FIFO or a folder under a key is no object, and nothing outside is ever read or written")
    func kinds() throws {
        let folder = try BucketFolder()
        let secret = folder.path + "/secret"
        try "top secret".write(toFile: secret, atomically: false, encoding: .utf8)
        for (name, target) in [("link", secret), ("up", "../.."), ("self", "."), ("magic", "/proc/self/fd/0")] {
            try FileManager.default.createSymbolicLink(atPath: "\(folder.files)/\(name)", withDestinationPath: target)
        }
        #expect(unsafe mkfifo("\(folder.files)/fifo", 0o600) == 0)
        #expect(unsafe mkdir("\(folder.files)/dir", 0o700) == 0)
        for key in ["link", "up", "up/secret", "self/dir", "fifo", "dir", "magic"] {
            #expect(throws: BucketError.self, "\(key)") { try folder.get(key) }
        }
        #expect(try folder.keys().isEmpty)
        // A name that is a link is replaced; one that leads through a link is refused.
        try folder.put("mine", "link")
        #expect(try folder.get("link") == "mine")
        #expect(throws: BucketError.self) { try folder.put("x", "up/secret") }
        #expect(throws: BucketError.self) { try folder.put("x", "dir") }
        #expect(try String(contentsOfFile: secret, encoding: .utf8) == "top secret")
        #expect(throws: BucketError.self) { try folder.store.remove(folder.key("fifo"), in: folder.bucket) }
        #expect(folder.incoming.isEmpty)
    }

    @Test(
        "a key that is swapped for links, a FIFO, a folder and files while it is read gives an object or nothing, and never what lies outside"
    )
    func swapped() async throws {
        let folder = try BucketFolder()
        let files = folder.files
        try "top secret".write(toFile: folder.path + "/secret", atomically: false, encoding: .utf8)
        try FileManager.default.createDirectory(atPath: folder.path + "/outside", withIntermediateDirectories: true)
        try "top secret".write(toFile: folder.path + "/outside/a", atomically: false, encoding: .utf8)
        try folder.worker("mine", "d/a")
        // What the name is by turns: each is made beside it and moved over it, as a worker could; both the last part of a key and a folder on its way.
        let isOver = Mutex(false)
        let outside = folder.path
        let swaps = Mutex(0)
        Thread.detachNewThread {
            unsafe mkdir("\(files)/dir", 0o700)
            _ = FileManager.default.createFile(atPath: "\(files)/dir/a", contents: Data("mine".utf8))
            while !isOver.withLock({ $0 }) {
                let next = "\(files)/.next"
                for turn in 0..<4 {
                    switch turn {
                    case 0: unsafe symlink(outside + "/secret", next)
                    case 1: unsafe mkfifo(next, 0o600)
                    case 2: unsafe symlink("/proc/self/environ", next)
                    default: _ = FileManager.default.createFile(atPath: next, contents: Data("mine".utf8))
                    }
                    unsafe rename(next, "\(files)/a")
                }
                // The folder: exchanged with a link that leads out.
                unsafe unlink("\(files)/way")
                unsafe rename("\(files)/dir", "\(files)/way")
                unsafe rename("\(files)/way", "\(files)/dir")
                unsafe symlink(outside + "/outside", "\(files)/way")
                swaps.withLock { $0 += 1 }
            }
            isOver.withLock { $0 = false }
        }
        var found: [String: Int] = [:]
        let end = ContinuousClock.now + .seconds(60)
        // Until each has come true: an object was read, and one was refused; and for so many tries and swaps at least.
        func isEnough() -> Bool {
            found.values.reduce(0, +) >= 20_000 && found["mine"] != nil && found["refused"] != nil && swaps.withLock { $0 } > 100
        }
        while !isEnough(), ContinuousClock.now < end {
            for key in ["a", "way/a"] {
                let text: String
                do { text = try folder.get(key) } catch { text = "refused" }
                found[text, default: 0] += 1
            }
        }
        isOver.withLock { $0 = true }
        while isOver.withLock({ $0 }) { try await Task.sleep(for: .milliseconds(1)) }
        #expect(Set(found.keys) == ["mine", "refused"] && swaps.withLock { $0 } > 100, "\(found)")
    }

    @Test("names that are no keys are listed nowhere")
    func names() throws {
        let folder = try BucketFolder()
        let bad: [[UInt8]] = [[0xFF, 0xFE], Array("new\nline".utf8), [0x01], Array("c1\u{85}".utf8)]
        for name in bad {
            let number = unsafe (Array("\(folder.files)/".utf8) + name + [0]).withUnsafeBytes { bytes in
                unsafe open(bytes.bindMemory(to: CChar.self).baseAddress!, O_CREAT | O_WRONLY, 0o600)
            }
            #expect(number >= 0)
            close(number)
        }
        try folder.worker("x", "good")
        // 300 levels: deeper than a key may be, but not than a path.
        let deep = Array(repeating: "d", count: 300).joined(separator: "/")
        try folder.worker("x", deep + "/file")
        #expect(try folder.keys() == ["good"])
        folder.store.measure(folder.bucket)
        #expect(folder.store.usage.usage(folder.bucket).objects == 1)
        #expect(folder.store.usage.usage(folder.bucket).bytes >= 306 * 4096, "what is no object is paid for, too")
        #expect(!folder.store.usage.isOver(folder.bucket.tenant))
    }

    @Test("a tree deeper than any path counts as over, and a forced deletion removes it")
    func depth() throws {
        let folder = try BucketFolder()
        let script =
            "cd \(folder.files) && /usr/bin/python3 -c \"import os\nfor i in range(3000):\n os.mkdir('dd')\n os.chdir('dd')\nopen('f','w').close()\""
        #expect(unsafe system(script) == 0)
        folder.store.measure(folder.bucket)
        #expect(folder.store.usage.isOver(folder.bucket.tenant))
        #expect(throws: BucketError.self) { try folder.put("x", "a") }
        #expect(throws: BucketError.notEmpty(folder.bucket)) { try folder.store.delete(folder.bucket, force: false) }
        try folder.store.delete(folder.bucket, force: true)
        #expect(!folder.store.exists(folder.bucket) && !folder.store.usage.isOver(folder.bucket.tenant))
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path + "/acme").isEmpty)
    }

    @Test("folders that a worker locks are measured all the same", .enabled(if: getuid() == 0))
    func locked() async throws {
        let folder = try BucketFolder()
        try folder.worker(String(repeating: "x", count: 100_000), "a/b/c")
        for path in ["/a/b", "/a", ""] { #expect(unsafe chmod(folder.files + path, 0) == 0) }
        let isOwned = unsafe system("chown -R 12345 \(folder.path)") == 0
        #expect(isOwned)
        // Without the permissions of root, which hold for a thread. setfsuid(2).
        let store = folder.store
        typealias Call = @convention(c) (UInt32) -> Int32
        guard let symbol = unsafe dlsym(dlopen(nil, RTLD_NOW), "setfsuid") else {
            Issue.record("no setfsuid")
            return
        }
        let setfsuid = unsafe unsafeBitCast(symbol, to: Call.self)
        let text = try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Int, any Error>) in
            let (bucket, key) = (folder.bucket, ObjectKey("a/b/c"))
            Thread.detachNewThread {
                _ = setfsuid(12345)
                continuation.resume(
                    with: Result {
                        store.measure(bucket)
                        return try store.read(#require(key), in: bucket).read(at: 0, limit: 1 << 20).count
                    })
            }
        }
        #expect(text == 100_000)
        #expect(store.usage.usage(folder.bucket).bytes >= 100_000 + 2 * 4096 && !store.usage.isOver(folder.bucket.tenant))
    }
}
