// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc
import SystemPackage

/// The kernel's own name of a directory: the same for as long as the directory exists, whatever it is called, and never given to another one.
public struct DirectoryIdentity: Hashable, Sendable {
    private let bytes: [UInt8]

    init(_ place: ck_place) {
        bytes = unsafe withUnsafeBytes(of: place.identity) { unsafe Array($0.prefix(Int(place.identity_length))) }
    }

    /// That of an open directory. Throws where its file system gives none. name_to_handle_at(2).
    public init(_ directory: Int32) throws(KernelError) {
        var place = ck_place()
        guard unsafe ck_place_of(directory, &place) == 0 else { throw KernelError("name a directory") }
        self.init(place)
    }
}

/// Something happened to an entry of a watched directory. Several things that one process does to one name come as one event.
public struct FileEvent: Sendable {
    public struct Kinds: OptionSet, Sendable, Hashable {
        public let rawValue: UInt64
        public init(rawValue: UInt64) { self.rawValue = rawValue }
        /// Somebody who had it open for writing closed it.
        public static let closeWrite = Kinds(rawValue: CK_FILE_CLOSE_WRITE)
        /// The name is new: a directory, a file that is being written, or a link to a whole one, which nobody closes afterwards.
        public static let created = Kinds(rawValue: CK_FILE_CREATED)
        public static let removed = Kinds(rawValue: CK_FILE_REMOVED)
        /// Renamed to a place that is not watched.
        public static let movedFrom = Kinds(rawValue: CK_FILE_MOVED_FROM)
        /// Renamed from a place that is not watched.
        public static let movedTo = Kinds(rawValue: CK_FILE_MOVED_TO)
        /// Renamed between watched directories or in one; ``FileEvent/previous`` is where it was. Before Linux 5.17 it comes as `movedFrom` and `movedTo`.
        public static let renamed = Kinds(rawValue: CK_FILE_RENAMED)
        /// The entry is a directory. A new one is not watched yet, and what happened in it before it is will not be said.
        public static let isDirectory = Kinds(rawValue: CK_FILE_DIRECTORY)
        /// The queue was full and events are lost: look at everything again. The event has nothing else.
        public static let overflow = Kinds(rawValue: CK_FILE_OVERFLOW)
    }
    /// An entry: its directory and its name, which need not be text.
    public struct Place: Hashable, Sendable {
        public let directory: DirectoryIdentity
        public let name: [UInt8]
        public init(directory: DirectoryIdentity, name: [UInt8]) {
            self.directory = directory
            self.name = name
        }
    }
    public let kinds: Kinds
    public let place: Place
    public let previous: Place?
    /// Who did it; nil where that process had ended before its cgroup could be read.
    public let writer: Writer?
}

/// The process behind a ``FileEvent``.
public struct Writer: Hashable, Sendable {
    public let pid: Int32
    /// Its cgroup in every hierarchy, without the hierarchies' names, as `/proc/PID/cgroup` has them.
    public let cgroups: Set<String>

    /// Whether it is in a cgroup whose path ends so; of a worker, the spawner says this end. Starts with `/`.
    public func isIn(_ suffix: String) -> Bool { cgroups.contains { $0.hasSuffix(suffix) } }

    /// The cgroups of a process; empty where it is gone. Right only if the process is known to be alive afterwards: its number may have been given to another.
    public static func cgroups(of pid: Int32) -> Set<String> {
        Set(
            (SmallFile.read("/proc/\(pid)/cgroup") ?? "").split(separator: "\n").compactMap { line in
                // `number:controllers:path`; the path may have colons.
                let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
                return fields.count == 3 ? String(fields[2]) : nil
            })
    }
}

/// The kernel's word about who changes files in watched directories (fanotify(7)). Making one takes privilege; watching own directories and reading does not, so
/// the spawner makes it and the daemon uses it. The queue is bounded (`fs.fanotify.max_queued_events`): a worker that writes faster than the daemon reads must
/// not fill the kernel's memory. What is lost then is said (``FileEvent/Kinds/overflow``).
public struct FileEvents: ~Copyable, Sendable {
    /// Readable where events wait; non-blocking.
    public let descriptor: OwnedFD

    /// A new group; for root. Throws where the kernel has none that names processes (Linux 5.15).
    public init() throws(KernelError) {
        let number = ck_file_events_make()
        guard number >= 0 else { throw KernelError("make a file event queue") }
        descriptor = OwnedFD(number)
    }

    /// Takes over one that another process made.
    public init(_ descriptor: consuming OwnedFD) { self.descriptor = descriptor }

    public consuming func release() -> Int32 { descriptor.release() }

    /// Watches the entries of an open directory that the caller may read; not those of its subdirectories. Again for one that is watched already changes nothing.
    @discardableResult public func mark(_ directory: Int32) throws(KernelError) -> DirectoryIdentity {
        guard ck_file_events_mark(descriptor.rawValue, directory, 1) == 0 else { throw KernelError("watch a directory") }
        return try DirectoryIdentity(directory)
    }

    /// Ends the watch. A directory that is removed takes its watch along.
    public func unmark(_ directory: Int32) { _ = ck_file_events_mark(descriptor.rawValue, directory, 0) }

    /// Some of the events that wait, in their order; empty where none does. Never blocks. Call until it is empty. Throws where the descriptor is no queue.
    public func next() throws(KernelError) -> [FileEvent] {
        // Every event brings a pidfd, so this also bounds how many descriptors one call takes: about 60.
        var bytes = [UInt64](repeating: 0, count: 512)
        let length = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor.rawValue, $0.baseAddress, $0.count) }
        guard length >= 0 else {
            if errno == EAGAIN || errno == EINTR { return [] }
            throw KernelError("read file events")
        }
        var events: [FileEvent] = []
        var offset = 0
        var raw = ck_file_event()
        while unsafe bytes.withUnsafeBytes({ unsafe ck_file_event_next($0.baseAddress, length, &offset, &raw) }) == 1 {
            events.append(
                FileEvent(
                    kinds: FileEvent.Kinds(rawValue: raw.kinds), place: Self.place(raw.place),
                    previous: raw.has_previous == 1 ? Self.place(raw.previous) : nil, writer: Self.writer(pid: raw.pid, pidfd: raw.pidfd)))
        }
        return events
    }

    /// The pidfd says, after the cgroup was read, that the number still meant the process of the event.
    private static func writer(pid: Int32, pidfd: Int32) -> Writer? {
        guard pidfd >= 0 else { return nil }
        defer { close(pidfd) }
        let cgroups = Writer.cgroups(of: pid)
        return !cgroups.isEmpty && ck_pidfd_is_alive(pidfd) == 1 ? Writer(pid: pid, cgroups: cgroups) : nil
    }

    private static func place(_ raw: ck_place) -> FileEvent.Place {
        FileEvent.Place(
            directory: DirectoryIdentity(raw),
            name: unsafe withUnsafeBytes(of: raw.name) { unsafe Array($0.prefix(Int(raw.name_length))) })
    }
}
