// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel
import Testing

@Suite struct JournalTests {
    /// The journal's two ends: a stream that is somebody's standard error, and a socket for datagrams.
    final class Fake {
        let folder = "/var/tmp/bulkhead-journal-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        var address: String { folder + "/socket" }
        var datagrams: Int32 = -1
        /// What the process writes to, and what the journal reads from.
        var stream: [Int32] = [-1, -1]

        init(listens: Bool = true) {
            unsafe mkdir(folder, 0o700)
            unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &stream)
            if listens { listen() }
        }

        func listen() {
            datagrams = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var name = sockaddr_un()
            name.sun_family = sa_family_t(AF_UNIX)
            unsafe withUnsafeMutableBytes(of: &name.sun_path) { unsafe $0.copyBytes(from: address.utf8) }
            _ = unsafe withUnsafePointer(to: &name) {
                unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe bind(datagrams, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                }
            }
        }

        /// The journal of a process whose standard error is the stream.
        func journal() -> Journal? {
            var status = stat()
            guard unsafe fstat(stream[0], &status) == 0 else { return nil }
            return Journal(stream: "\(status.st_dev):\(status.st_ino)", standardError: stream[0], address: address)
        }

        func read(_ descriptor: Int32) -> String? {
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            let count = unsafe recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
            return count < 0 ? nil : String(decoding: bytes.prefix(count), as: UTF8.self)
        }

        deinit {
            for descriptor in stream + [datagrams] where descriptor >= 0 { close(descriptor) }
            unsafe unlink(address)
            unsafe rmdir(folder)
        }
    }

    @Test("a line is written as sd-daemon(3) has it, each part of it with its priority")
    func prefixed() {
        #expect(JournalEntry(priority: 3, message: "a\nb").prefixed == Array("<3>a\n<3>b\n".utf8))
    }

    @Test("a datagram has fields, and the length of those that have line breaks")
    func datagram() {
        let entry = JournalEntry(priority: 4, message: "one\ntwo", fields: [.init("TENANT", "acme"), .init("FUNCTION", "acme/f")])
        let length: [UInt8] = [7, 0, 0, 0, 0, 0, 0, 0]
        #expect(entry.datagram == Array("MESSAGE\n".utf8) + length + Array("one\ntwo\nPRIORITY=4\nTENANT=acme\nFUNCTION=acme/f\n".utf8))
        // No value makes a field of its own.
        let forged = JournalEntry(priority: 4, message: "m", fields: [.init("TENANT", "acme\nPRIORITY=0")])
        #expect(
            forged.datagram == Array("MESSAGE=m\nPRIORITY=4\nTENANT\n".utf8) + [15, 0, 0, 0, 0, 0, 0, 0] + Array("acme\nPRIORITY=0\n".utf8))
    }

    @Test("there is a journal where standard error is the stream that it names, and nowhere else")
    func stream() throws {
        let fake = Fake()
        #expect(fake.journal() != nil)
        for stream in [nil, "", "1", "1:2", "x:y", "1:2:3"] { #expect(Journal(stream: stream, standardError: fake.stream[0]) == nil) }
        var status = stat()
        try #require(unsafe fstat(fake.stream[1], &status) == 0)
        #expect(Journal(stream: "\(status.st_dev):\(status.st_ino)", standardError: fake.stream[0]) == nil, "the other end")
        #expect(Journal(stream: "\(status.st_dev):\(status.st_ino)", standardError: -1) == nil, "standard error is closed")
    }

    @Test("fields go to the journal's socket; where that is gone, lines to standard error; a new one is found again")
    func ways() throws {
        let fake = Fake()
        let journal = try #require(fake.journal())
        journal.write(JournalEntry(priority: 5, message: "hello", fields: [.init("TENANT", "acme")]))
        #expect(fake.read(fake.datagrams) == "MESSAGE=hello\nPRIORITY=5\nTENANT=acme\n")
        #expect(fake.read(fake.stream[1]) == nil, "nothing is said twice")
        close(fake.datagrams)
        unsafe unlink(fake.address)
        journal.write(JournalEntry(priority: 5, message: "without fields"))
        #expect(fake.read(fake.stream[1]) == "<5>without fields\n")
        fake.listen()
        journal.write(JournalEntry(priority: 6, message: "again"))
        #expect(fake.read(fake.datagrams) == "MESSAGE=again\nPRIORITY=6\n")
        journal.write(JournalEntry(priority: 2, message: "the end"))
        #expect(fake.read(fake.stream[1]) == "<2>the end\n", "the stream's owner is known when this process is gone")
    }

    @Test("a journal that takes nothing holds nobody up, and what was lost is said once", .timeLimit(.minutes(1)))
    func full() throws {
        let fake = Fake()
        let journal = try #require(fake.journal())
        let long = JournalEntry(priority: 6, message: String(repeating: "x", count: 4000))
        // More than either socket keeps: a write that waited would wait for ever, for nobody reads.
        for _ in 0..<3000 { journal.write(long) }
        var kept = 0
        while fake.read(fake.datagrams) != nil { kept += 1 }
        var streamed = 0
        while let text = fake.read(fake.stream[1]) { streamed += text.utf8.count }
        #expect(kept > 0 && streamed > 0)
        journal.write(JournalEntry(priority: 6, message: "after"))
        let lost = 3000 - kept - streamed / 4004
        #expect(fake.read(fake.datagrams) == "MESSAGE=\(lost) lines were lost: the journal took none\nPRIORITY=4\n")
        #expect(fake.read(fake.datagrams) == "MESSAGE=after\nPRIORITY=6\n")
    }

    @Test("a journal that is gone altogether ends nobody")
    func gone() throws {
        let fake = Fake(listens: false)
        let journal = try #require(fake.journal())
        close(fake.stream[1])
        fake.stream[1] = -1
        // EPIPE, and no SIGPIPE.
        for _ in 0..<3 { journal.write(JournalEntry(priority: 6, message: "to nobody")) }
        fake.listen()
        journal.write(JournalEntry(priority: 6, message: "back"))
        #expect(fake.read(fake.datagrams)?.hasPrefix("MESSAGE=3 lines were lost") == true)
    }
}
