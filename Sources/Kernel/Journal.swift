// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// One line of a log with what the journal keeps of it.
public struct JournalEntry: Hashable, Sendable {
    /// 0 (emergency) to 7 (debug), syslog(3).
    public var priority: UInt8
    public var message: String
    /// Names of capital letters, in the order in which they are sent.
    public var fields: [Field]

    public struct Field: Hashable, Sendable {
        public var name: String
        public var value: String
        public init(_ name: String, _ value: String) { (self.name, self.value) = (name, value) }
    }

    public init(priority: UInt8, message: String, fields: [Field] = []) {
        (self.priority, self.message, self.fields) = (priority, message, fields)
    }

    /// For standard error: the journal takes `<4>` at the beginning of each line for its priority, sd-daemon(3).
    public var prefixed: [UInt8] {
        message.split(separator: "\n", omittingEmptySubsequences: false).flatMap { Array("<\(priority)>\($0)\n".utf8) }
    }

    /// As the journal's own socket takes it: `NAME=value`, or where the value has a line break its length before it (systemd's "Native Journal Protocol").
    public var datagram: [UInt8] {
        var out: [UInt8] = []
        for field in [Field("MESSAGE", message), Field("PRIORITY", "\(priority)")] + fields {
            let value = Array(field.value.utf8)
            out += Array(field.name.utf8)
            if value.contains(UInt8(ascii: "\n")) {
                out.append(UInt8(ascii: "\n"))
                var left = UInt64(value.count)
                for _ in 0..<8 {
                    out.append(UInt8(truncatingIfNeeded: left))
                    left >>= 8
                }
            } else {
                out.append(UInt8(ascii: "="))
            }
            out += value
            out.append(UInt8(ascii: "\n"))
        }
        return out
    }
}

/// The journal that reads this process's standard error, if one does.
///
/// Nothing here waits: a journal that is full, hangs or is gone costs lines, which are counted and named as soon as it takes lines again, and never time.
public final class Journal: Sendable {
    /// Where systemd's journal takes datagrams.
    public static let path = "/run/systemd/journal/socket"

    private let standardError: Int32
    private let address: String
    private let datagrams: Int32
    private let lost = Mutex(UInt64(0))

    /// Nil where `standardError` is not the stream that `JOURNAL_STREAM` names by device and inode (systemd.exec(5)): then whoever started this process reads plain lines.
    public init?(stream: String?, standardError: Int32 = 2, address: String = Journal.path) {
        let parts = stream?.split(separator: ":") ?? []
        var status = stat()
        guard parts.count == 2, let device = UInt64(parts[0]), let inode = UInt64(parts[1]), unsafe fstat(standardError, &status) == 0,
            UInt64(status.st_dev) == device, UInt64(status.st_ino) == inode
        else { return nil }
        self.standardError = standardError
        self.address = address
        datagrams = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    }

    deinit { if datagrams >= 0 { close(datagrams) } }

    /// With its fields, where the journal's socket takes it, else as lines of standard error, else not at all.
    public func write(_ entry: JournalEntry) {
        lost.withLock { lost in
            if lost > 0, send(JournalEntry(priority: 4, message: "\(lost) lines were lost: the journal took none")) { lost = 0 }
            if lost > 0 || !send(entry) { lost += 1 }
        }
    }

    /// What is said right before the end (2, critical) takes the stream: the journal knows whose it is, where a datagram's sender may be gone before it has looked.
    private func send(_ entry: JournalEntry) -> Bool {
        entry.priority > 2 ? send(entry.datagram) || lines(entry.prefixed) : lines(entry.prefixed) || send(entry.datagram)
    }

    private func send(_ bytes: [UInt8]) -> Bool {
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        guard datagrams >= 0, address.utf8.count < MemoryLayout.size(ofValue: name.sun_path) else { return false }
        unsafe withUnsafeMutableBytes(of: &name.sun_path) { unsafe $0.copyBytes(from: address.utf8) }
        // Named anew for each line: a journal that was started again has another socket at the same place.
        let length = socklen_t(MemoryLayout<sa_family_t>.size + address.utf8.count + 1)
        return unsafe withUnsafePointer(to: &name) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe sendto(datagrams, bytes, bytes.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL), $0, length) == bytes.count
            }
        }
    }

    /// The stream is a socket of the journal's, so that one call may refuse to wait without changing what others do with it.
    private func lines(_ bytes: [UInt8]) -> Bool {
        unsafe Glibc.send(standardError, bytes, bytes.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)) == bytes.count
    }
}
