// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel
import Testing

/// Needs root, as making the queue does; reading it as another user is the business of the end-to-end test.
@Suite(.enabled(if: geteuid() == 0)) struct FileEventsTests {
    /// A folder of its own, open; removed with everything in it.
    private final class Folder {
        let path: String
        let descriptor: Int32

        init(_ parent: String) throws {
            var template = Array("\(parent)/bulkhead-events-XXXXXX".utf8CString)
            let isMade = unsafe template.withUnsafeMutableBufferPointer { buffer in
                guard let base = buffer.baseAddress else { return false }
                return unsafe mkdtemp(base) != nil
            }
            try #require(isMade)
            path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            descriptor = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            try #require(descriptor >= 0)
        }
        deinit {
            close(descriptor)
            empty(path)
        }
        private func empty(_ path: String) {
            if let entries = unsafe opendir(path) {
                while let entry = unsafe readdir(entries) {
                    let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) {
                        unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
                    }
                    guard name != ".", name != ".." else { continue }
                    if unsafe unlink(path + "/" + name) != 0 { empty(path + "/" + name) }
                }
                unsafe closedir(entries)
            }
            unsafe rmdir(path)
        }
        func write(_ name: String) throws {
            let file = unsafe openat(descriptor, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
            try #require(file >= 0)
            close(file)
        }
    }

    private func all(_ events: borrowing FileEvents) throws -> [FileEvent] {
        var list: [FileEvent] = []
        while true {
            let some = try events.next()
            guard !some.isEmpty else { return list }
            list += some
        }
    }

    @Test("every change of a watched directory comes with its directory, name and process", arguments: ["/tmp", "/dev/shm"])
    func changes(_ parent: String) throws {
        let events = try FileEvents()
        let folder = try Folder(parent)
        let identity = try events.mark(folder.descriptor)
        #expect(try DirectoryIdentity(folder.descriptor) == identity)
        #expect(try events.next().isEmpty)
        func latest() throws -> FileEvent {
            let list = try all(events)
            try #require(list.count == 1, "\(list)")
            #expect(list[0].place.directory == identity && list[0].writer?.pid == getpid())
            #expect(list[0].writer?.cgroups == Writer.cgroups(of: getpid()) && list[0].writer?.cgroups.isEmpty == false)
            return list[0]
        }
        try folder.write("one")
        #expect(try latest().kinds.contains([.created, .closeWrite]))
        try folder.write("one")
        #expect(try latest().kinds == .closeWrite)
        try #require(unsafe renameat(folder.descriptor, "one", folder.descriptor, "zwei\u{00E9}") == 0)
        let renamed = try latest()
        #expect(renamed.kinds == .renamed && renamed.place.name == Array("zwei\u{00E9}".utf8))
        #expect(renamed.previous == FileEvent.Place(directory: identity, name: Array("one".utf8)))
        try #require(unsafe unlinkat(folder.descriptor, "zwei\u{00E9}", 0) == 0)
        #expect(try latest().kinds == .removed)
        try #require(unsafe mkdirat(folder.descriptor, "deep", 0o700) == 0)
        let made = try latest()
        #expect(made.kinds == [.created, .isDirectory] && made.place.name == Array("deep".utf8))
        try #require(unsafe openat(folder.descriptor, "one", O_RDONLY) < 0)
        #expect(try all(events).isEmpty)
        events.unmark(folder.descriptor)
        try folder.write("unseen")
        #expect(try all(events).isEmpty)
    }

    @Test("a rename over the border of what is watched is one half of it, and between two watched directories a whole one")
    func borders() throws {
        let events = try FileEvents()
        let (inside, outside) = (try Folder("/tmp"), try Folder("/tmp"))
        let identity = try events.mark(inside.descriptor)
        try outside.write("a")
        try #require(unsafe renameat(outside.descriptor, "a", inside.descriptor, "b") == 0)
        var list = try all(events)
        #expect(list.map(\.kinds) == [.movedTo] && list.first?.place == FileEvent.Place(directory: identity, name: Array("b".utf8)))
        try #require(unsafe renameat(inside.descriptor, "b", outside.descriptor, "c") == 0)
        list = try all(events)
        #expect(list.map(\.kinds) == [.movedFrom] && list.first?.place == FileEvent.Place(directory: identity, name: Array("b".utf8)))
        #expect(list.first?.previous == nil)
        let other = try events.mark(outside.descriptor)
        #expect(other != identity)
        try #require(unsafe renameat(outside.descriptor, "c", inside.descriptor, "d") == 0)
        list = try all(events)
        #expect(list.map(\.kinds) == [.renamed] && list.first?.place.directory == identity && list.first?.previous?.directory == other)
    }

    @Test("who has ended is nobody, and not the one that has its number now")
    func ended() throws {
        let events = try FileEvents()
        let folder = try Folder("/tmp")
        try events.mark(folder.descriptor)
        // A process that changes something and is waited for.
        var child: pid_t = 0
        let (program, path) = unsafe (strdup("touch"), strdup(folder.path + "/by-another"))
        defer {
            unsafe free(program)
            unsafe free(path)
        }
        var words = unsafe [program, path, nil]
        try #require(unsafe posix_spawn(&child, "/usr/bin/touch", nil, nil, &words, nil) == 0)
        waitpid(child, nil, 0)
        let list = try all(events)
        #expect(!list.isEmpty && list.allSatisfy { $0.writer == nil && $0.place.name == Array("by-another".utf8) }, "\(list)")
    }

    @Test("a full queue says that something is lost")
    func overflow() throws {
        let events = try FileEvents()
        let folder = try Folder("/dev/shm")
        try events.mark(folder.descriptor)
        let most = Int(SmallFile.integer("/proc/sys/fs/fanotify/max_queued_events") ?? 16_384)
        for number in 0...most { try folder.write("f\(number)") }
        #expect(try all(events).contains { $0.kinds == .overflow && $0.writer == nil })
        try folder.write("after")
        #expect(try all(events).map(\.place.name) == [Array("after".utf8)])
    }
}
