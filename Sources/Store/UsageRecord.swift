// SPDX-License-Identifier: Apache-2.0
import Core

/// One line of the usage ledger: 32 words of 64 bits, complete in itself, so that damage to another record takes nothing from it.
///
/// | word | content |
/// | --- | --- |
/// | 0 | checksum of the others, never zero; stored last, so a record is there as a whole or not at all |
/// | 1 | the segment's number x 2^32 + slot: a record is valid in its own place only |
/// | 2 | kind, outcome, length of the tenant's and of the function's name, a byte each from the lowest |
/// | 3, 4 | the invocation's id |
/// | 5 | milliseconds since 1970 |
/// | 6, 7 | reserved and charged, in millionths of a GB-second |
/// | 8, 9 | duration and processor time, in microseconds |
/// | 10 | memory limit in bytes |
/// | 12...19, 20...27 | the names, UTF-8 |
struct UsageRecord: Hashable, Sendable {
    enum Kind: UInt8 {
        case begin = 1, settle, void
        /// Processor time of a function's workers, of no invocation.
        case processor
    }

    static let words = 32
    private static let tenantWord = 12
    private static let functionWord = 20

    var kind: Kind
    var id: InvocationID
    var function: FunctionID
    var wallMs: UInt64
    var reserved: UInt64
    var charged: UInt64 = 0
    var durationUs: UInt64 = 0
    var cpuUs: UInt64 = 0
    var memoryBytes: UInt64 = 0
    var outcome: Outcome = .ok

    init(kind: Kind, id: InvocationID, function: FunctionID, wallMs: UInt64, reserved: UInt64, memoryBytes: UInt64) {
        self.kind = kind
        self.id = id
        self.function = function
        self.wallMs = wallMs
        self.reserved = reserved
        self.memoryBytes = memoryBytes
    }

    /// What the bytes on disk mean: only ever add at the end.
    private static let outcomes: [Outcome] = [
        .ok, .functionError, .timedOut, .outOfMemory, .crashed, .throttled, .overBudget, .overloaded, .loop, .cancelled, .expired,
        .internal,
    ]

    static func place(segment: UInt32, slot: Int) -> UInt64 { UInt64(segment) << 32 | UInt64(slot) }

    /// The words of the record at its place, word 0 included.
    func encoded(place: UInt64) -> InlineArray<32, UInt64> {
        var words = InlineArray<32, UInt64>(repeating: 0)
        let tenant = function.tenant.text.utf8
        let name = function.function.text.utf8
        words[1] = place
        let code = UInt64(Self.outcomes.firstIndex(of: outcome) ?? 255)
        words[2] = UInt64(kind.rawValue) | code << 8 | UInt64(tenant.count) << 16 | UInt64(name.count) << 24
        words[3] = id.high
        words[4] = id.low
        words[5] = wallMs
        words[6] = reserved
        words[7] = charged
        words[8] = durationUs
        words[9] = cpuUs
        words[10] = memoryBytes
        Self.pack(tenant, into: &words, at: Self.tenantWord)
        Self.pack(name, into: &words, at: Self.functionWord)
        words[0] = UsageChecksum.of(words.span.extracting(1..<Self.words))
        return words
    }

    private static func pack(_ text: String.UTF8View, into words: inout InlineArray<32, UInt64>, at first: Int) {
        var index = 0
        for byte in text {
            words[first + index / 8] |= UInt64(byte) << UInt64(index % 8 * 8)
            index += 1
        }
    }

    /// The names of the record that was read before: most of a row are of the same function, and to make a name costs more than everything else.
    struct Names {
        fileprivate var words = [UInt64](repeating: 0, count: UsageRecord.words - UsageRecord.tenantWord)
        fileprivate var lengths: UInt64 = 0
        fileprivate var function: FunctionID?

        fileprivate mutating func read(_ record: Span<UInt64>) -> FunctionID? {
            let lengths = record[2] >> 16 & 0xFFFF
            if let function, lengths == self.lengths, words.indices.allSatisfy({ words[$0] == record[UsageRecord.tenantWord + $0] }) {
                return function
            }
            guard let tenant = UsageRecord.name(record, at: UsageRecord.tenantWord, length: Int(lengths & 0xFF)),
                let name = UsageRecord.name(record, at: UsageRecord.functionWord, length: Int(lengths >> 8))
            else { return nil }
            for index in words.indices { words[index] = record[UsageRecord.tenantWord + index] }
            self.lengths = lengths
            function = FunctionID(tenant: tenant, function: name)
            return function
        }
    }

    init?(_ words: Span<UInt64>, place: UInt64) {
        var names = Names()
        self.init(words, place: place, names: &names)
    }

    /// Nil unless the words are a whole record of this place.
    init?(_ words: Span<UInt64>, place: UInt64, names: inout Names) {
        guard words.count == Self.words, words[1] == place, words[0] == UsageChecksum.of(words.extracting(1..<Self.words)),
            let kind = Kind(rawValue: UInt8(truncatingIfNeeded: words[2])), let function = names.read(words)
        else { return nil }
        self.init(
            kind: kind, id: InvocationID(milliseconds: words[3] >> 16, random: (UInt16(truncatingIfNeeded: words[3]), words[4])),
            function: function, wallMs: words[5], reserved: words[6], memoryBytes: words[10])
        charged = words[7]
        durationUs = words[8]
        cpuUs = words[9]
        let code = Int(words[2] >> 8 & 0xFF)
        outcome = Self.outcomes.indices.contains(code) ? Self.outcomes[code] : .internal
    }

    private static func name(_ words: Span<UInt64>, at first: Int, length: Int) -> Name? {
        guard length <= Name.maximumLength else { return nil }
        return Name(
            String(decoding: (0..<length).map { UInt8(truncatingIfNeeded: words[first + $0 / 8] >> UInt64($0 % 8 * 8)) }, as: UTF8.self))
    }
}

/// Tells damage, not malice. Every step maps the sums one to one, so a change within one word is always seen, and any other is missed
/// once in 2^63. A word a step: a third of the time of a table-driven CRC.
enum UsageChecksum {
    static func of(_ words: Span<UInt64>) -> UInt64 {
        var sum: UInt64 = 0x6275_6C6B_6865_6164
        for index in words.indices {
            sum = (sum ^ words[index]) &* 0x9E37_79B9_7F4A_7C15
            sum ^= sum >> 32
        }
        return sum == 0 ? 1 : sum
    }
}
