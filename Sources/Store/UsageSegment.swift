// SPDX-License-Identifier: Apache-2.0
import Core
import Kernel

/// A file of the usage ledger that is being written: a header of one record's size and a fixed number of slots, mapped and filled in order.
///
/// Header: word 0 checksum of 1...4 (stored last), 1 magic, 2 format, 3 number, 4 slots, 5 the time it was last known that the daemon lives.
/// The number is given when the first record comes: numbers grow in the order in which segments are written, whatever the files are called.
struct UsageSegment {
    static let magic: UInt64 = 0x6275_6C6B_7573_6167
    static let format: UInt64 = 1
    static let suffix = ".segment"
    /// Records of the largest file.
    static let slotLimit = (1 << 18) - 1

    let path: String
    let slots: Int
    private let file: MappedFile
    private(set) var number: UInt32 = 0
    private(set) var used = 0

    /// Makes the file and takes its disk space.
    init(path: String, slots: Int) throws(StoreError) {
        do { file = try MappedFile(create: path, count: (slots + 1) * UsageRecord.words) } catch {
            throw StoreError("the usage ledger cannot grow: \(error). Make room on the disk and check that the directory is writable")
        }
        self.path = path
        self.slots = slots
    }

    var room: Int { slots - used }

    mutating func activate(number: UInt32) {
        self.number = number
        var header = InlineArray<5, UInt64>(repeating: 0)
        header[1] = Self.magic
        header[2] = Self.format
        header[3] = UInt64(number)
        header[4] = UInt64(slots)
        file.store(header.span.extracting(1..<5), at: 1)
        file.publish(UsageChecksum.of(header.span.extracting(1..<5)), at: 0)
    }

    func tick(_ wallMs: UInt64) { file.publish(wallMs, at: 5) }

    /// The record is there once this returns, also if the process is killed at the next instruction; before, it is there or it is not.
    mutating func append(_ record: UsageRecord) {
        let words = record.encoded(place: UsageRecord.place(segment: number, slot: used))
        let first = (used + 1) * UsageRecord.words
        file.store(words.span.extracting(1..<UsageRecord.words), at: first + 1)
        file.publish(words[0], at: first)
        used += 1
    }

    /// Makes so many slots after some ready to be filled without a wait. By any thread.
    func prepare(_ slots: Int, after used: Int) {
        file.prepare((used + 1) * UsageRecord.words..<(used + 1 + max(0, slots)) * UsageRecord.words)
    }

    /// What is in some slots that were filled.
    func contents(_ range: Range<Int>) -> UsageContents {
        let words = file.copy((range.lowerBound + 1) * UsageRecord.words..<(range.upperBound + 1) * UsageRecord.words)
        return UsageContents(words.span, number: number, firstSlot: range.lowerBound)
    }
}

/// What a row of slots holds.
struct UsageContents {
    private(set) var records: [UsageRecord] = []
    /// Slots without a whole record before one that has.
    private(set) var damaged = 0
    /// Slots after the last whole record whose checksum was stored and is wrong. A slot whose checksum was never stored is no record yet.
    private(set) var torn = 0

    init(_ words: Span<UInt64>, number: UInt32, firstSlot: Int) {
        var bad = 0
        var names = UsageRecord.Names()
        for slot in 0..<words.count / UsageRecord.words {
            let here = words.extracting(slot * UsageRecord.words..<(slot + 1) * UsageRecord.words)
            if let record = UsageRecord(here, place: UsageRecord.place(segment: number, slot: firstSlot + slot), names: &names) {
                records.append(record)
                damaged += bad
                bad = 0
                torn = 0
            } else {
                bad += 1
                torn += here[0] == 0 ? 0 : 1
            }
        }
    }
}

/// A segment that an earlier run left behind.
struct UsageRemains {
    let path: String
    /// Nil for a file that was made ahead and never written.
    private(set) var number: UInt32?
    private(set) var isDamaged = false
    private(set) var lastAlive: UInt64 = 0
    private var words: [UInt64]

    /// Throws for a file that cannot be read or that a newer release wrote.
    init(path: String) throws(StoreError) {
        self.path = path
        do { words = try MappedFile.words(of: path, limit: (UsageSegment.slotLimit + 1) * UsageRecord.words) } catch {
            throw StoreError("the usage ledger cannot be read: \(error)")
        }
        let size = UsageRecord.words
        guard words.count >= size else {
            // Killed while the file was made, or cut.
            isDamaged = words.contains { $0 != 0 }
            return
        }
        if words[0] == UsageChecksum.of(words.span.extracting(1..<5)), words[1] == UsageSegment.magic {
            guard words[2] == UsageSegment.format else {
                throw StoreError(
                    "\(path) was written by a newer release (format \(words[2]), this one knows \(UsageSegment.format)): install that release again, or use another state directory"
                )
            }
            number = UInt32(truncatingIfNeeded: words[3])
            isDamaged = words.count != (Int(clamping: words[4]) &+ 1) &* size
            lastAlive = words[5]
        } else if let place = firstPlace() {
            number = UInt32(place >> 32)
            isDamaged = true
        } else {
            isDamaged = words[0] != 0
        }
    }

    /// The place that a whole record names, where the header does not say the number.
    private func firstPlace() -> UInt64? {
        let size = UsageRecord.words
        return (1..<max(1, words.count / size)).lazy.compactMap { slot -> UInt64? in
            let here = words.span.extracting(slot * size..<(slot + 1) * size)
            let place = here[1]
            return place & 0xFFFF_FFFF == UInt64(slot - 1) && UsageRecord(here, place: place) != nil ? place : nil
        }.first
    }

    /// The records from a slot on.
    func contents(from slot: Int) -> UsageContents? {
        guard let number, words.count >= (slot + 1) * UsageRecord.words else { return nil }
        return UsageContents(words.span.extracting((slot + 1) * UsageRecord.words..<words.count), number: number, firstSlot: slot)
    }
}
