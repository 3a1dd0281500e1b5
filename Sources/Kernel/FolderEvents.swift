// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// A watched directory, by whatever its source tells directories apart.
public enum FolderID: Hashable, Sendable {
    case watch(Int32)
    case identity(DirectoryIdentity)
}

/// Something happened to an entry of a watched directory; of either source.
public struct FolderEvent: Sendable {
    public struct Place: Sendable {
        public var folder: FolderID
        public var name: [UInt8]
    }
    public var kinds: FileEvent.Kinds
    public var place: Place
    public var previous: Place?
    public var writer: Writer?
}

/// Where ``FolderEvent``s come from. Used by one thread.
public protocol FolderSource: AnyObject {
    /// Readable where events wait.
    var descriptor: Int32 { get }
    /// Watches the entries of an open directory. Throws where the kernel's limit of watches is reached, too.
    func mark(_ folder: borrowing OwnedFD) throws(KernelError) -> FolderID
    func unmark(_ id: FolderID, _ folder: borrowing OwnedFD)
    /// Some of what waits; empty where nothing does.
    func next() throws(KernelError) -> [FolderEvent]
}

/// By fanotify: says which process did it.
public final class NamedFolderSource: FolderSource {
    private let events: FileEvents
    public init(_ events: consuming FileEvents) { self.events = events }
    public var descriptor: Int32 { events.descriptor.rawValue }
    public func mark(_ folder: borrowing OwnedFD) throws(KernelError) -> FolderID { .identity(try events.mark(folder.rawValue)) }
    public func unmark(_ id: FolderID, _ folder: borrowing OwnedFD) { events.unmark(folder.rawValue) }
    public func next() throws(KernelError) -> [FolderEvent] {
        try events.next().map { event in
            FolderEvent(
                kinds: event.kinds, place: Self.place(event.place), previous: event.previous.map(Self.place), writer: event.writer)
        }
    }
    private static func place(_ place: FileEvent.Place) -> FolderEvent.Place {
        FolderEvent.Place(folder: .identity(place.directory), name: place.name)
    }
}

/// By inotify(7): needs no privilege, and does not say who.
public final class PlainFolderSource: FolderSource {
    private let file: OwnedFD
    /// The first half of a rename whose second may still come, with its cookie.
    private var half: (cookie: UInt32, event: FolderEvent)?

    public init() throws(KernelError) {
        let number = ck_inotify_make()
        guard number >= 0 else { throw KernelError("make an inotify instance") }
        file = OwnedFD(number)
    }

    public var descriptor: Int32 { file.rawValue }

    public func mark(_ folder: borrowing OwnedFD) throws(KernelError) -> FolderID {
        let watch = ck_inotify_add(file.rawValue, folder.rawValue)
        guard watch >= 0 else { throw KernelError("watch a directory") }
        return .watch(watch)
    }

    public func unmark(_ id: FolderID, _ folder: borrowing OwnedFD) {
        if case .watch(let watch) = id { ck_inotify_remove(file.rawValue, watch) }
    }

    public func next() throws(KernelError) -> [FolderEvent] {
        var notices = [ck_notice](repeating: ck_notice(), count: 64)
        let count = unsafe ck_inotify_read(file.rawValue, &notices, Int32(notices.count))
        guard count >= 0 else { throw KernelError("read file events") }
        var events: [FolderEvent] = []
        for index in 0..<Int(count) { take(&notices[index], &events) }
        // The second half lies directly behind the first, so it is there by the next call.
        if count == 0, let half {
            events.append(half.event)
            self.half = nil
        }
        return events
    }

    private func take(_ notice: inout ck_notice, _ events: inout [FolderEvent]) {
        let mask = notice.mask
        func has(_ bit: Int) -> Bool { mask & UInt32(bit) != 0 }
        let name = unsafe withUnsafeBytes(of: &notice.name) { bytes in
            unsafe Array(bytes.prefix(unsafe bytes.firstIndex(of: 0) ?? bytes.count))
        }
        var event = FolderEvent(kinds: [], place: FolderEvent.Place(folder: .watch(notice.watch), name: name))
        if has(0x4000) { event.kinds = .overflow }  // IN_Q_OVERFLOW
        if has(0x8) { event.kinds.insert(.closeWrite) }
        if has(0x100) { event.kinds.insert(.created) }
        if has(0x200) { event.kinds.insert(.removed) }
        if has(0x4000_0000) { event.kinds.insert(.isDirectory) }
        if has(0x80), let half, half.cookie == notice.cookie {
            event.kinds.insert(.renamed)
            event.previous = half.event.place
            self.half = nil
        } else {
            if has(0x80) { event.kinds.insert(.movedTo) }
            if let half { events.append(half.event) }
            half = nil
        }
        if has(0x40) {
            event.kinds.insert(.movedFrom)
            half = (notice.cookie, event)
            return
        }
        if !event.kinds.subtracting(.isDirectory).isEmpty { events.append(event) }
    }
}

/// Wakes a thread that waits with a ``Poller``.
public struct WakeUp: ~Copyable, Sendable {
    public let descriptor: OwnedFD
    public init() throws(KernelError) {
        let number = ck_event_make()
        guard number >= 0 else { throw KernelError("make an event descriptor") }
        descriptor = OwnedFD(number)
    }
    public func signal() { ck_event_signal(descriptor.rawValue) }
    public func clear() { ck_event_clear(descriptor.rawValue) }
}

/// The time of day that file times are in: clock_gettime(2), CLOCK_REALTIME, in nanoseconds since 1970.
public enum FileClock {
    public static func nanoseconds() -> UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(max(0, time.tv_sec)) * 1_000_000_000 + UInt64(max(0, time.tv_nsec))
    }
}
