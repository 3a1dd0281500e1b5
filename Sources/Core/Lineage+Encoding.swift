// SPDX-License-Identifier: Apache-2.0

/// How a lineage is stored beside its event: version, flags, root, then numbers as LEB128, times as nanoseconds after birth, the visits, and 32 bits of FNV-1a over
/// all of it. 50 bytes for the first hop, about 130 for a straight path through eight functions.
extension Lineage {
    static let encodingVersion: UInt8 = 1
    /// No encoding is longer.
    public static let maximumEncodedSize = 2 + 16 + 10 + 5 + 10 + 5 + 1 + pathCapacity * (8 + 5 + 5 + 10 + 10) + 4

    public var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.encodingVersion, flags.rawValue]
        bytes.reserveCapacity(64 + 14 * path.count)
        Self.put(fixed: root.high, into: &bytes)
        Self.put(fixed: root.low, into: &bytes)
        Self.put(born.nanoseconds, into: &bytes)
        Self.put(UInt64(hops), into: &bytes)
        Self.put(hopBucket.fullAt - born, into: &bytes)
        Self.put(UInt64(floor), into: &bytes)
        bytes.append(UInt8(path.count))
        for visit in path {
            Self.put(fixed: visit.function.bits, into: &bytes)
            Self.put(UInt64(visit.count), into: &bytes)
            Self.put(UInt64(visit.waiting), into: &bytes)
            Self.put(visit.bucket.fullAt - born, into: &bytes)
            Self.put(visit.enteredAt - born, into: &bytes)
        }
        let check = Self.check(bytes[...])
        for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: check >> shift)) }
        return bytes
    }

    /// Nil unless `bytes` are what ``encoded`` writes.
    public init?(encoded bytes: some Collection<UInt8>) {
        guard bytes.count <= Self.maximumEncodedSize else { return nil }
        let all = Array(bytes)
        guard all.count > 6, Self.check(all.dropLast(4)) == Self.little(all.suffix(4)) else { return nil }
        var reader = Reader(bytes: all.dropLast(4))
        guard reader.byte() == Self.encodingVersion, let flags = reader.byte(), Flags.all.isSuperset(of: Flags(rawValue: flags)),
            let high = reader.fixed(), let low = reader.fixed(), let born = reader.number(), let hops = reader.small(),
            let hopDebt = reader.time(after: born), let floor = reader.small(), let count = reader.byte(), count <= Self.pathCapacity
        else { return nil }
        let root = InvocationID(milliseconds: high >> 16, random: (UInt16(truncatingIfNeeded: high), low))
        self.init(root: root, born: Instant(nanoseconds: born), flags: Flags(rawValue: flags))
        self.hops = hops
        self.floor = floor
        hopBucket = TokenBucket(fullAt: hopDebt)
        path.reserveCapacity(Int(count))
        for _ in 0..<count {
            guard let visit = reader.visit(born), index(of: visit.function) == nil else { return nil }
            path.append(visit)
        }
        guard reader.bytes.isEmpty else { return nil }
    }

    private static func put(fixed value: UInt64, into bytes: inout [UInt8]) {
        for shift in stride(from: UInt64(0), to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value >> shift)) }
    }

    private static func put(_ value: UInt64, into bytes: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    /// Every step is a bijection of the state, so that no change of one byte goes unseen.
    private static func check(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.reduce(0x811c_9dc5) { ($0 ^ UInt32($1)) &* 0x0100_0193 }
    }

    private static func little(_ bytes: ArraySlice<UInt8>) -> UInt32 { bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) } }

    private struct Reader {
        var bytes: ArraySlice<UInt8>

        mutating func byte() -> UInt8? { bytes.popFirst() }

        mutating func fixed() -> UInt64? {
            guard bytes.count >= 8 else { return nil }
            defer { bytes.removeFirst(8) }
            return bytes.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }

        /// One spelling for each number: the last of several bytes is not 0.
        mutating func number() -> UInt64? {
            var value: UInt64 = 0
            for shift in stride(from: UInt64(0), to: 64, by: 7) {
                guard let next = bytes.popFirst() else { return nil }
                let part = UInt64(next & 0x7f)
                guard (part << shift) >> shift == part, next != 0 || shift == 0 else { return nil }
                value |= part << shift
                if next < 0x80 { return value }
            }
            return nil
        }

        mutating func small() -> UInt32? { number().flatMap { UInt32(exactly: $0) } }

        mutating func time(after born: UInt64) -> Instant? {
            guard let offset = number() else { return nil }
            let (sum, overflow) = born.addingReportingOverflow(offset)
            return overflow ? nil : Instant(nanoseconds: sum)
        }

        mutating func visit(_ born: UInt64) -> Visit? {
            guard let function = fixed(), let count = small(), count > 0, let waiting = small(), waiting <= count,
                let fullAt = time(after: born), let enteredAt = time(after: born)
            else { return nil }
            return Visit(
                function: FunctionKey(bits: function), count: count, waiting: waiting, bucket: TokenBucket(fullAt: fullAt),
                enteredAt: enteredAt)
        }
    }
}
