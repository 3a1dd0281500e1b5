// SPDX-License-Identifier: Apache-2.0

/// Which lineage wrote which object: an object event finds its cause here when the writer itself is gone, and so it does after a rename.
///
/// Bounded in space and in time: the newest ``capacity`` writes, the newest `lineageBytes` of different lineages, and nothing older than ``lifetime``. What falls out makes
/// an event that has no known cause, for which there is ``inferred(_:prefix:function:at:)``; it never makes a wrong one, but for two keys whose 64 bits of keyed hash (SipHash) are equal.
/// Both are rings: a write costs O(1), nothing is ever swept. Memory grows with use up to about 40 bytes a write, and the lineages.
public struct WriteLedger: Sendable {
    /// The content of a file that has its own identity, whatever it is called.
    public struct File: Hashable, Sendable {
        public var inode: UInt64
        public var size: UInt64
        /// Nanoseconds since 1970.
        public var modified: UInt64
        public init(inode: UInt64, size: UInt64, modified: UInt64) {
            self.inode = inode
            self.size = size
            self.modified = modified
        }
    }

    private struct Entry {
        var key: UInt64
        var file: UInt64
        /// Where in ``lineages`` its lineage begins.
        var lineage: UInt64
        /// Tenths of a second since ``born``.
        var time: UInt32
        /// The entry before with the same low bits of the hash, as a number of ``count``; 0 for none.
        var sameKey: UInt32
        var sameFile: UInt32
    }
    private struct Recent: Sendable {
        var function: FunctionKey
        var folder: [UInt8]
        var lineage: UInt64
        var at: Instant
    }

    public static let lifetime = Nanoseconds.seconds(900)
    /// How long a write makes others under the same prefix suspect.
    public static let neighbourhood = Nanoseconds.seconds(60)
    /// How many of a hash chain are looked at: more have the same low bits only where somebody writes one key again and again.
    private static let chainLimit = 64
    private static let recentLimit = 16
    private static let bucketLimit = 4096
    private static let internLimit = 1 << 16

    public let capacity: Int
    private let lineageBytes: Int
    private var last: Instant?
    private var born: Instant?
    /// Writes so far; number n is at index (n - 1) % capacity.
    private var count: UInt64 = 0
    private var entries: [Entry] = []
    private var keyHeads = [UInt32](repeating: 0, count: 1024)
    private var fileHeads = [UInt32](repeating: 0, count: 1024)
    /// A ring of bytes: two for the length, then the encoded lineage.
    private var lineages: [UInt8] = []
    private var lineageEnd: UInt64 = 0
    /// Lineages that were stored lately, by their hash.
    private var interned: [Int: UInt64] = [:]
    private var recent: [BucketID: [Recent]] = [:]

    /// - Parameter capacity: at most 2^31.
    public init(capacity: Int = 1_000_000, lineageBytes: Int = 64 << 20) {
        self.capacity = max(1, min(capacity, 1 << 31))
        self.lineageBytes = max(Lineage.maximumEncodedSize + 2, lineageBytes)
    }

    /// Bytes of memory, about.
    public var memory: Int {
        entries.capacity * MemoryLayout<Entry>.stride + (keyHeads.capacity + fileHeads.capacity) * 4 + lineages.capacity + interned.capacity
            * 17
            + recent.values.reduce(0) { $0 + $1.capacity * (MemoryLayout<Recent>.stride + 64) }
    }

    /// Everything in it is too old.
    public func isStale(at now: Instant) -> Bool { last.map { now - $0 > Self.lifetime } ?? true }

    // MARK: writing

    /// Somebody wrote an object. `function`: the writer's, where it is known.
    public mutating func record(
        _ bucket: BucketID, _ key: ObjectKey, _ file: File?, by function: FunctionKey?, _ lineage: Lineage, at now: Instant
    ) {
        let start = born ?? now
        born = start
        last = now
        let place = store(lineage.encoded)
        if count == UInt64(UInt32.max) - 1 { forgetAll() }
        count += 1
        let number = UInt32(count)
        var entry = Entry(
            key: Self.hash(bucket, key), file: file.map(Self.hash) ?? 0, lineage: place,
            time: UInt32(clamping: (now - start) / .milliseconds(100)), sameKey: 0, sameFile: 0)
        link(&entry, number)
        let index = Int((count - 1) % UInt64(capacity))
        if index < entries.count { entries[index] = entry } else { entries.append(entry) }
        if entries.count > keyHeads.count, keyHeads.count < capacity { grow() }
        if let function { note(bucket, key, function, place, now) }
    }

    private mutating func link(_ entry: inout Entry, _ number: UInt32) {
        let keySlot = Int(truncatingIfNeeded: entry.key) & (keyHeads.count - 1)
        entry.sameKey = keyHeads[keySlot]
        keyHeads[keySlot] = number
        guard entry.file != 0 else { return }
        let fileSlot = Int(truncatingIfNeeded: entry.file) & (fileHeads.count - 1)
        entry.sameFile = fileHeads[fileSlot]
        fileHeads[fileSlot] = number
    }

    private mutating func grow() {
        keyHeads = [UInt32](repeating: 0, count: keyHeads.count * 2)
        fileHeads = keyHeads
        // Before the ring is full number n is at index n - 1.
        for index in entries.indices {
            var entry = entries[index]
            entry.sameFile = 0
            link(&entry, UInt32(index + 1))
            entries[index] = entry
        }
    }

    private mutating func forgetAll() { self = WriteLedger(capacity: capacity, lineageBytes: lineageBytes) }

    private mutating func note(_ bucket: BucketID, _ key: ObjectKey, _ function: FunctionKey, _ place: UInt64, _ now: Instant) {
        if recent[bucket] == nil, recent.count >= Self.bucketLimit {
            recent = recent.filter { now - ($0.value.last?.at ?? now) <= Self.neighbourhood }
            if recent.count >= Self.bucketLimit { return }
        }
        let folder = key.folder
        var list = recent[bucket] ?? []
        list.removeAll { ($0.function == function && $0.folder == folder) || now - $0.at > Self.neighbourhood }
        if list.count >= Self.recentLimit { list.removeFirst() }
        list.append(Recent(function: function, folder: folder, lineage: place, at: now))
        recent[bucket] = list
    }

    private mutating func store(_ bytes: [UInt8]) -> UInt64 {
        let hash = bytes.hashValue
        if let place = interned[hash], read(place) == bytes { return place }
        let framed = [UInt8(bytes.count >> 8), UInt8(bytes.count & 0xff)] + bytes
        let place = lineageEnd
        for byte in framed {
            let index = Int(lineageEnd % UInt64(lineageBytes))
            if index < lineages.count { lineages[index] = byte } else { lineages.append(byte) }
            lineageEnd += 1
        }
        if interned.count >= Self.internLimit { interned.removeAll(keepingCapacity: true) }
        interned[hash] = place
        return place
    }

    private func read(_ place: UInt64) -> [UInt8]? {
        guard place + UInt64(lineageBytes) >= lineageEnd, place + 2 <= lineageEnd else { return nil }
        func byte(_ offset: UInt64) -> UInt8 { lineages[Int((place + offset) % UInt64(lineageBytes))] }
        let length = Int(byte(0)) << 8 | Int(byte(1))
        return (0..<length).map { byte(UInt64($0) + 2) }
    }

    // MARK: asking

    /// The lineage of the last write of a key.
    public func lineage(of key: ObjectKey, in bucket: BucketID, at now: Instant) -> Lineage? {
        let hash = Self.hash(bucket, key)
        return find(keyHeads[Int(truncatingIfNeeded: hash) & (keyHeads.count - 1)], now, { $0.key == hash }, { $0.sameKey })
    }

    /// The lineage of whoever wrote the file, under whatever name: a rename keeps inode, size and time of change.
    public func lineage(of file: File, at now: Instant) -> Lineage? {
        let hash = Self.hash(file)
        return find(fileHeads[Int(truncatingIfNeeded: hash) & (fileHeads.count - 1)], now, { $0.file == hash }, { $0.sameFile })
    }

    /// The lineage of a write of `function` into a folder of the bucket that can hold keys with this prefix, at most ``neighbourhood`` ago, flagged as inferred.
    public func inferred(_ bucket: BucketID, prefix: String, function: FunctionKey, at now: Instant) -> Lineage? {
        let prefix = Array(prefix.utf8)
        let found = recent[bucket]?.last { write in
            let folder = write.folder.isEmpty ? [] : write.folder + [0x2F]
            return write.function == function && now - write.at <= Self.neighbourhood
                && (folder.starts(with: prefix) || prefix.starts(with: folder))
        }
        guard let found, var lineage = read(found.lineage).flatMap({ Lineage(encoded: $0) }) else { return nil }
        lineage.flags.insert(.inferred)
        return lineage
    }

    private func find(_ head: UInt32, _ now: Instant, _ matches: (Entry) -> Bool, _ next: (Entry) -> UInt32) -> Lineage? {
        guard let born else { return nil }
        var number = UInt64(head), steps = 0
        // A link to what the ring has overwritten ends the chain: everything behind it is older still.
        while number > 0, number + UInt64(capacity) > count, steps < Self.chainLimit {
            let entry = entries[Int((number - 1) % UInt64(capacity))]
            if matches(entry) {
                guard now - (born + UInt64(entry.time) * .milliseconds(100)) <= Self.lifetime else { return nil }
                return read(entry.lineage).flatMap { Lineage(encoded: $0) }
            }
            number = UInt64(next(entry))
            steps += 1
        }
        return nil
    }

    private static func hash(_ bucket: BucketID, _ key: ObjectKey) -> UInt64 {
        var hasher = Hasher()
        hasher.combine(bucket)
        hasher.combine(key)
        return UInt64(bitPattern: Int64(hasher.finalize()))
    }

    private static func hash(_ file: File) -> UInt64 {
        var hasher = Hasher()
        hasher.combine(file)
        // 0 stands for none.
        return max(1, UInt64(bitPattern: Int64(hasher.finalize())))
    }
}
