// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Glibc
import Synchronization
import Wire

/// Puts the files of `tenants.d` into one file for the daemon. Those that the former bundle has with the same stamp are taken from there and not read.
struct TenantBundling {
    /// The administrator's.
    let source: Directory
    /// Who reads the copy owns the former bundle, too: what it wrote there it can show nobody but itself, and a start takes none of it.
    let former: FormerBundle?

    /// One file: read, or in the former bundle.
    private enum Content {
        case read([UInt8])
        case former(Range<Int>)
    }
    private typealias Found = [(entry: TenantBundle.Entry, content: Content)]

    /// Writes the bundle as a new file.
    ///
    /// - Throws: ``FileError`` of the first file that cannot be read, ``Failure`` where there are too many.
    func write(_ name: String, in folder: Directory, owner: UInt32, group: UInt32) throws {
        let names = try source.names().filter { $0.hasSuffix(".yaml") && !$0.hasPrefix(".") }
        guard names.count <= TenantBundle.maximumEntries else {
            throw Failure.usage("\(escaped(source.path)) holds \(names.count) tenants; at most \(TenantBundle.maximumEntries) fit a node.")
        }
        let found = try read(names)
        let head: [UInt8]
        do { head = try TenantBundle.encode(found.map(\.entry)) } catch {
            throw Failure.failed("configuration", "The files in \(escaped(source.path)) cannot be copied: \(error).")
        }
        try folder.create(name, [head[...]] + parts(found), owner: owner, group: group)
    }

    /// All files, by as many threads as there are processors.
    private func read(_ names: [String]) throws -> Found {
        let share = 128
        let now = time(nil)
        let total = Atomic(0)
        let parts = Mutex<[Int: Result<Found, any Error>]>([:])
        let (source, former) = (source, former)
        DispatchQueue.concurrentPerform(iterations: (names.count + share - 1) / share) { part in
            let result = Result<Found, any Error> {
                try names[part * share..<min((part + 1) * share, names.count)].map {
                    name -> (entry: TenantBundle.Entry, content: Content) in
                    if let stamp = source.stamp(name, now: now), let (entry, range) = former?[name], entry.stamp == stamp {
                        return (entry, Content.former(range))
                    }
                    let (bytes, stamp) = try source.settledRead(name, limit: TenantBundle.maximumLength, now: now)
                    guard total.wrappingAdd(bytes.count, ordering: .relaxed).newValue <= TenantBundle.maximumContents else {
                        throw Failure.usage(
                            "The files in \(escaped(source.path)) are too large; at most \(TenantBundle.maximumContents >> 20) MiB are taken."
                        )
                    }
                    return (TenantBundle.Entry(name: name, stamp: stamp, length: bytes.count), Content.read(bytes))
                }
            }
            parts.withLock { $0[part] = result }
        }
        let all = parts.withLock { $0 }
        return try all.keys.sorted().flatMap { try all[$0]?.get() ?? [] }
    }

    /// The contents in few pieces: files that lie side by side in the former bundle are one.
    private func parts(_ found: Found) -> [ArraySlice<UInt8>] {
        var parts: [ArraySlice<UInt8>] = []
        var run = 0..<0
        var fresh: [UInt8] = []
        func endRun() {
            if !run.isEmpty, let former { parts.append(former.bytes[run]) }
            run = 0..<0
        }
        func endFresh() {
            if !fresh.isEmpty { parts.append(fresh[...]) }
            fresh = []
        }
        for (_, content) in found {
            switch content {
            case .read(let bytes):
                endRun()
                fresh += bytes
                if fresh.count > 1 << 20 { endFresh() }
            case .former(let range):
                endFresh()
                if run.upperBound != range.lowerBound || run.isEmpty {
                    endRun()
                    run = range
                } else {
                    run = run.lowerBound..<range.upperBound
                }
            }
        }
        endFresh()
        endRun()
        return parts
    }
}

/// A bundle that a former reload wrote.
struct FormerBundle: Sendable {
    let bytes: [UInt8]
    private let known: [String: (entry: TenantBundle.Entry, range: Range<Int>)]

    /// Nil where there is none, or what is there is none: then everything is read.
    init?(_ name: String, in folder: Directory?) {
        let limit = TenantBundle.headLength + TenantBundle.maximumIndex + TenantBundle.maximumContents
        guard let folder, (try? folder.status(name))??.kind == .file, let bytes = try? folder.read(name, limit: limit),
            let head = try? TenantBundle.head(bytes.prefix(TenantBundle.headLength))
        else { return nil }
        let start = TenantBundle.headLength + head.indexLength
        guard bytes.count >= start,
            let entries = try? TenantBundle.entries(bytes[TenantBundle.headLength..<start], head, contents: bytes.count - start)
        else { return nil }
        var known: [String: (TenantBundle.Entry, Range<Int>)] = Dictionary(minimumCapacity: entries.count)
        var place = start
        for entry in entries {
            known[entry.name] = (entry, place..<place + entry.length)
            place += entry.length
        }
        self.bytes = bytes
        self.known = known
    }

    subscript(_ name: String) -> (entry: TenantBundle.Entry, range: Range<Int>)? { known[name] }
}
