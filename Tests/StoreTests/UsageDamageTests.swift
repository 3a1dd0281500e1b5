// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Store
import Testing

private let base: UInt64 = 1_700_006_400_000
private let hello = FunctionIDs.sample
private let tenant = Name("acme")
private let size = 256

private func invocation(_ number: Int) -> InvocationID { InvocationID(milliseconds: base, random: (0, UInt64(number))) }

/// Six invocations of 100 each, reserved 1000, in slots 0...11 of the first segment; then the process is gone.
private func filled() throws -> LedgerFolder {
    let folder = try LedgerFolder()
    let ledger = try UsageLedger(directory: folder.path, now: base, segmentRecords: 31)
    try fill(ledger, 0..<6)
    return folder
}

private func fill(_ ledger: UsageLedger, _ numbers: Range<Int>) throws {
    for number in numbers {
        try ledger.begin(invocation(number), try #require(hello), reserved: 1000, memoryBytes: 1 << 30, wallMs: base)
        ledger.settle(invocation(number), .ok, charged: 100, durationUs: 1, cpuUs: 1, wallMs: base)
    }
}

private func total(_ ledger: UsageLedger) throws -> UsageRow { try #require(try ledger.usage(UsageQuery(tenant: tenant)).first) }

@Suite struct UsageDamageTests {
    @Test("one changed bit in any word of any record: no other record is lost, and the invocation counts", arguments: 0..<12)
    func flips(slot: Int) throws {
        var generator = SystemRandomNumberGenerator()
        for word in 0..<32 {
            let folder = try filled()
            let bit = UInt8(1) << UInt8.random(in: 0...7, using: &generator)
            try folder.edit("usage-0.segment") { $0[(slot + 1) * size + word * 8 + Int.random(in: 0...7, using: &generator)] ^= bit }
            let ledger = try UsageLedger(directory: folder.path, now: base + 10)
            let sum = try total(ledger)
            #expect(sum.invocations == 6, "word \(word)")
            // An end that cannot be read: charged for the time until the crash, which is none here.
            #expect(sum.microGBSeconds == (slot % 2 == 0 ? 600 : 500), "word \(word)")
            #expect(ledger.warnings.count == 1)
            #expect(folder.names(".damaged").count == (slot == 11 ? 0 : 1), "the tail is torn, the middle is damaged")
        }
    }

    @Test(
        "a file that is cut anywhere: what is before the cut counts, and the cut is told",
        arguments: Array(stride(from: 0, through: 32 * 256, by: 200)))
    func cut(length: Int) throws {
        let folder = try filled()
        try folder.edit("usage-0.segment") { $0.removeLast($0.count - length) }
        let ledger = try UsageLedger(directory: folder.path, now: base)
        let whole = max(0, min(12, length / size - 1))
        let sum = try ledger.usage(UsageQuery()).first
        #expect(sum?.invocations ?? 0 == UInt64((whole + 1) / 2) && sum?.microGBSeconds ?? 0 == UInt64(whole / 2 * 100))
        #expect(ledger.warnings.count == (length == 0 || length == 32 * size ? 0 : 1), "\(ledger.warnings)")
        #expect(folder.names(".damaged").count == ledger.warnings.count)
    }

    @Test("a header with a changed bit takes no record with it", arguments: 0..<40)
    func header(byte: Int) throws {
        let folder = try filled()
        try folder.edit("usage-0.segment") { $0[byte] ^= 0x10 }
        let ledger = try UsageLedger(directory: folder.path, now: base)
        #expect(try total(ledger).microGBSeconds == 600)
        #expect(ledger.warnings.count == 1 && folder.names(".damaged").count == 1)
        // The next start finds nothing to tell.
        try fill(ledger, 6..<7)
        #expect(try total(ledger).microGBSeconds == 700)
    }

    @Test("a record in another place is no record")
    func moved() throws {
        let folder = try filled()
        try folder.edit("usage-0.segment") { bytes in
            for index in 0..<2 * size { bytes[13 * size + index] = bytes[size + index] }
        }
        let ledger = try UsageLedger(directory: folder.path, now: base)
        #expect(try total(ledger).invocations == 6)
    }

    @Test("a newer format is refused by name, and left alone")
    func version() throws {
        let folder = try filled()
        // The checksum of the header is made anew: see UsageChecksum.
        try folder.edit("usage-0.segment") { bytes in
            bytes[16] = 2
            var sum: UInt64 = 0x6275_6C6B_6865_6164
            for word in 1..<5 {
                let value = (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[word * 8 + $1]) << UInt64($1 * 8) }
                sum = (sum ^ value) &* 0x9E37_79B9_7F4A_7C15
                sum ^= sum >> 32
            }
            for byte in 0..<8 { bytes[byte] = UInt8(truncatingIfNeeded: sum >> UInt64(byte * 8)) }
        }
        let error = #expect(throws: StoreError.self) { try UsageLedger(directory: folder.path, now: base) }
        #expect(error?.description.contains("newer release") == true)
        #expect(folder.names("usage-0.segment").count == 1)
    }

    @Test("a database that is none is refused with a sentence")
    func database() throws {
        let folder = try LedgerFolder()
        try Data(repeating: 7, count: 8192).write(to: URL(fileURLWithPath: folder.path + "/usage.sqlite"))
        let error = #expect(throws: StoreError.self) { try UsageLedger(directory: folder.path, now: base) }
        #expect(error?.description.contains("cannot be opened") == true)
    }

    @Test("a folder that is missing is refused with a sentence")
    func missing() {
        let error = #expect(throws: StoreError.self) { try UsageLedger(directory: "/nonexistent/ledger", now: base) }
        #expect(error?.description.contains("writable") == true)
    }
}

/// A small file system of its own, for tests that need one that is full or read-only.
private final class SmallDisk {
    let path = NSTemporaryDirectory() + "disk-\(UUID().uuidString)"
    init(bytes: Int) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        let result = unsafe mount("tmpfs", path, "tmpfs", 0, "size=\(bytes)")
        try #require(result == 0, "mount tmpfs")
    }
    func makeReadOnly() throws {
        let result = unsafe mount(nil, path, nil, UInt(MS_REMOUNT | MS_RDONLY), nil)
        try #require(result == 0, "remount")
    }
    deinit {
        unsafe umount2(path, Int32(MNT_DETACH))
        unsafe rmdir(path)
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts a file system, which needs root")) struct UsageDiskTests {
    @Test("a full disk: no start without room for its end, every running one can end, nothing is lost, and it goes on when there is room")
    func full() throws {
        let disk = try SmallDisk(bytes: 2 << 20)
        var ended = 0
        do {
            let ledger = try UsageLedger(directory: disk.path, now: base, segmentRecords: 63)
            try fill(ledger, 0..<10)
            ended = 10
            let ballast = disk.path + "/ballast"
            let file = unsafe open(ballast, O_WRONLY | O_CREAT, 0o600)
            let zeros = [UInt8](repeating: 0, count: 4096)
            while unsafe write(file, zeros, zeros.count) > 0 {}
            close(file)
            var running: [Int] = []
            let function = try #require(hello)
            var refusal: StoreError?
            for number in 1000..<2000 {
                do throws(StoreError) {
                    try ledger.begin(invocation(number), function, reserved: 1000, memoryBytes: 1 << 30, wallMs: base)
                    running.append(number)
                } catch {
                    refusal = error
                    break
                }
            }
            #expect(refusal?.description.contains("cannot grow") == true)
            #expect(running.count > 30)
            for number in running {
                #expect(ledger.settle(invocation(number), .ok, charged: 100, durationUs: 1, cpuUs: 1, wallMs: base) == 100)
            }
            ended += running.count
            _ = try? ledger.checkpoint()
            unsafe unlink(ballast)
            try fill(ledger, 3000..<3100)
            ended += 100
            #expect(try total(ledger).invocations == UInt64(ended))
        }
        let ledger = try UsageLedger(directory: disk.path, now: base, segmentRecords: 63)
        let sum = try total(ledger)
        #expect(sum.invocations == UInt64(ended) && sum.microGBSeconds == UInt64(ended * 100))
        #expect(ledger.warnings.isEmpty)
    }

    @Test("a disk that is full at the start, and one that is read-only: a sentence")
    func start() throws {
        let small = try SmallDisk(bytes: 64 << 10)
        let full = #expect(throws: StoreError.self) { try UsageLedger(directory: small.path, now: base) }
        #expect(full?.description.contains("room on the disk") == true || full?.description.contains("disk has room") == true)
        let disk = try SmallDisk(bytes: 8 << 20)
        do { try fill(UsageLedger(directory: disk.path, now: base, segmentRecords: 63), 0..<3) }
        try disk.makeReadOnly()
        let fixed = #expect(throws: StoreError.self) { try UsageLedger(directory: disk.path, now: base) }
        #expect(fixed?.description.contains("writable") == true)
    }
}
