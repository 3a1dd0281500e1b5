// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc

@testable import SandboxKit

/// A filter as the kernel gets it, run here: exact, fast, and no call is made for it.
struct CompiledFilter {
    enum Answer: Hashable { case allow, errno(Int32), tripwire, end, unknown(UInt32) }
    private struct Instruction {
        var code: UInt16
        var ifTrue: UInt8
        var ifFalse: UInt8
        var value: UInt32
    }
    private let instructions: [Instruction]
    static let native: UInt32 = 0xC000_003E
    /// AUDIT_ARCH_I386
    static let foreign: UInt32 = 0x4000_0003

    init(_ policy: FilterPolicy, network: Bool) throws { unsafe self.init(try policy.compiled(network: network)) }

    /// The reaper's, which is in the code and not in a policy.
    static func reaper() -> CompiledFilter? {
        var filter = unsafe sbx_filter()
        return unsafe sbx_reaper_filter(&filter) == 0 ? unsafe CompiledFilter(filter) : nil
    }

    private init(_ filter: sbx_filter) {
        let bytes = unsafe UnsafeRawBufferPointer(start: filter.instructions, count: Int(filter.count) * 8)
        instructions = (0..<Int(unsafe filter.count)).map { at in
            unsafe Instruction(
                code: bytes.loadUnaligned(fromByteOffset: at * 8, as: UInt16.self), ifTrue: bytes[at * 8 + 2], ifFalse: bytes[at * 8 + 3],
                value: bytes.loadUnaligned(fromByteOffset: at * 8 + 4, as: UInt32.self))
        }
        unsafe free(filter.instructions)
    }

    /// What the filter says of a call; arguments that are not given are 0. seccomp(2), and linux/filter.h for the words of the machine.
    func answer(_ number: Int32, _ arguments: [UInt64] = [], architecture: UInt32 = native) -> Answer {
        // struct seccomp_data as 32-bit words: number, architecture, instruction pointer, six arguments with the lower half first.
        var data: [UInt32] = [UInt32(bitPattern: number), architecture, 0, 0]
        for place in 0..<6 {
            let value = place < arguments.count ? arguments[place] : 0
            data += [UInt32(truncatingIfNeeded: value), UInt32(value >> 32)]
        }
        var accumulator: UInt32 = 0
        var at = 0
        while at < instructions.count {
            let step = instructions[at]
            at += 1
            switch step.code {
            case 0x20: accumulator = data[Int(step.value) / 4]
            case 0x54: accumulator &= step.value
            case 0x05: at += Int(step.value)
            case 0x15: at += Int(accumulator == step.value ? step.ifTrue : step.ifFalse)
            case 0x25: at += Int(accumulator > step.value ? step.ifTrue : step.ifFalse)
            case 0x35: at += Int(accumulator >= step.value ? step.ifTrue : step.ifFalse)
            case 0x45: at += Int(accumulator & step.value != 0 ? step.ifTrue : step.ifFalse)
            case 0x06: return Self.answer(step.value)
            default: return .unknown(UInt32(step.code))
            }
        }
        return .unknown(0)
    }

    private static func answer(_ value: UInt32) -> Answer {
        switch value & 0xFFFF_0000 {
        case 0x7FFF_0000: .allow
        case 0x0005_0000: .errno(Int32(value & 0xFFFF))
        case 0x7FC0_0000: .tripwire
        case 0x8000_0000: .end
        default: .unknown(value)
        }
    }
}
