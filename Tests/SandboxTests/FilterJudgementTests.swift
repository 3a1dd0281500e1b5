// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import SandboxKit

/// The compiled filter against ``FilterSpecification``, and against the policy's own words. What the kernel does with it in a worker is in ``FilterTests``.
@Suite struct FilterJudgementTests {
    private let policy: FilterPolicy

    init() throws {
        policy = try FilterPolicy(json: Array(try Data(contentsOf: URL(fileURLWithPath: top + "/Sandbox/policy/worker.json"))))
    }

    private func answer(_ action: FilterPolicy.Action) -> CompiledFilter.Answer {
        switch action {
        case .allow: .allow
        case .kill: .tripwire
        case .errno(let number): .errno(number)
        }
    }

    /// The rules of one filter.
    private func rules(_ network: Bool) -> [FilterPolicy.Rule] { policy.rules.filter { $0.network ?? network == network } }

    @Test(
        "calls that are judged by their arguments get what was written by hand, for every argument that is tried", arguments: [false, true])
    func arguments(network: Bool) throws {
        let filter = try CompiledFilter(policy, network: network)
        #expect(FilterSpecification.difference(filter, network: network) == nil)
        let judged = Set(policy.rules.filter { !$0.conditions.isEmpty }.map(\.call))
        #expect(judged == Set(FilterSpecification.calls.map(\.name)), "a call is judged by arguments that nobody wrote down")
    }

    @Test("a rule that loses a condition, or is lost, is noticed", arguments: [false, true])
    func mutations(network: Bool) throws {
        let judged = rules(network).filter { !$0.conditions.isEmpty }
        #expect(judged.count > 170)
        for rule in judged {
            // Conditions are added to the library call by call: the others change nothing.
            let own = rules(network).filter { $0.call == rule.call }
            let at = try #require(own.firstIndex(of: rule))
            var versions: [(String, [FilterPolicy.Rule])] = rule.conditions.indices.map { lost in
                var changed = own
                changed[at].conditions.remove(at: lost)
                return ("without its condition on argument \(rule.conditions[lost].argument)", changed)
            }
            versions.append(("left out", own.filter { $0 != rule }))
            for (what, version) in versions {
                var changed = policy
                changed.rules = version
                // One that the library refuses starts no worker.
                guard let filter = try? CompiledFilter(changed, network: network) else { continue }
                #expect(
                    FilterSpecification.difference(filter, network: network, only: rule.call) != nil,
                    "\(rule.call) \(rule.reason): the rule \(what) is not noticed")
            }
        }
    }

    @Test("every rule does what it says, and beside its conditions does not", arguments: [false, true])
    func rules(network: Bool) throws {
        let filter = try CompiledFilter(policy, network: network)
        let all = rules(network)
        var isFlipped = 0
        for rule in all {
            var meets = [UInt64](repeating: 0, count: 6)
            for condition in rule.conditions { meets[Int(condition.argument)] = condition.value }
            #expect(filter.answer(rule.number, meets) == answer(rule.action), "\(rule.call) \(rule.reason)")
            for condition in rule.conditions {
                for bit in 0..<64 where condition.mask & (1 << UInt64(bit)) != 0 {
                    var beside = meets
                    beside[Int(condition.argument)] ^= 1 << UInt64(bit)
                    let others = all.filter { other in
                        other.call == rule.call && other.conditions.allSatisfy { beside[Int($0.argument)] & $0.mask == $0.value }
                    }
                    let wanted = others.first.map { answer($0.action) } ?? .errno(FilterPolicy.defaultErrno)
                    #expect(filter.answer(rule.number, beside) == wanted, "\(rule.call) \(beside), beside: \(rule.reason)")
                    isFlipped += 1
                }
            }
        }
        #expect(all.count > 500 && isFlipped > 5000)
    }

    @Test("what must never be let through is not, no unlisted call is, and another ABI ends the process", arguments: [false, true])
    func never(network: Bool) throws {
        let filter = try CompiledFilter(policy, network: network)
        let fillings: [[UInt64]] = [[], Array(repeating: .max, count: 6), Array(repeating: 1, count: 6)]
        for name in FilterSpecification.never {
            let number = try #require(SyscallTable.number(name), "\(name)")
            for arguments in fillings { #expect(filter.answer(number, arguments) != .allow, "\(name) \(arguments)") }
        }
        let listed = Set(rules(network).map(\.number))
        for number in Int32(0)..<2000 {
            for arguments in fillings where !listed.contains(number) {
                #expect(filter.answer(number, arguments) == .errno(ENOSYS), "\(number)")
            }
            #expect(filter.answer(number, architecture: CompiledFilter.foreign) == .end, "\(number) of i386")
            // The numbers of x32, which the kernel takes for the native ABI.
            #expect(filter.answer(number | 0x4000_0000) == .end, "\(number) of x32")
        }
    }

    @Test("the reaper's filter lets a dozen calls through and nothing else")
    func reaper() throws {
        let filter = try #require(CompiledFilter.reaper())
        let calls = [
            "ppoll", "poll", "read", "recvmsg", "sendto", "waitid", "close", "kill", "ioctl", "exit_group", "restart_syscall",
            "rt_sigreturn",
        ]
        let allowed = Set(calls.compactMap { SyscallTable.number($0) })
        for number in Int32(0)..<2000 {
            #expect(filter.answer(number) == (allowed.contains(number) ? .allow : .errno(EPERM)), "\(number)")
            #expect(filter.answer(number | 0x4000_0000) == .end && filter.answer(number, architecture: CompiledFilter.foreign) == .end)
        }
    }
}
