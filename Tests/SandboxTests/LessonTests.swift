// SPDX-License-Identifier: Apache-2.0
import SandboxKit
import Testing

@Suite struct LessonTests {
    private func call(_ number: Int32, _ arguments: UInt64...) -> LearnedCall {
        LearnedCall(number: number, arguments: arguments + Array(repeating: 0, count: 6 - arguments.count))
    }

    @Test("what was learned is told as rules that a policy takes, each need once, with the arguments that the policy looks at")
    func lines() throws {
        var lesson = try FilterLesson(file: top + "/Sandbox/policy/worker.json", network: false)
        // io_uring_setup twice, AF_INET with high bits, TIOCSTI of two descriptors, a number that nobody has given.
        let calls = [
            call(425, 1), call(41, 0x1_0000_0002, 1), call(425, 8), call(16, 0, 0x5412), call(16, 1, 0x5412), call(9999),
        ]
        for call in calls { lesson.note(call) }
        let policy = try FilterPolicy(json: Array(("[\n" + lesson.lines.joined(separator: "\n") + "\n]\n").utf8))
        #expect(policy.rules.map(\.call) == ["io_uring_setup", "socket", "ioctl"])
        #expect(policy.rules.allSatisfy { $0.action == .allow && $0.reason.contains("WHY") })
        #expect(policy.rules[0].conditions.isEmpty && policy.rules[0].reason.contains("2 times"))
        #expect(policy.rules[1].conditions.map(\.value) == [2] && policy.rules[1].reason.contains("errno:EAFNOSUPPORT"))
        #expect(policy.rules[2].conditions.map(\.value) == [0x5412] && policy.rules[2].conditions.map(\.argument) == [1])
        #expect(lesson.unnamed == [9999] && lesson.dropped == 0)
    }

    @Test("a program that calls anything with anything fills no memory")
    func bound() throws {
        var lesson = try FilterLesson(file: top + "/Sandbox/policy/worker.json", network: true)
        for number in 0..<UInt64(FilterLesson.limit + 500) { lesson.note(call(16, 0, number)) }
        #expect(lesson.lines.count == FilterLesson.limit && lesson.dropped == 500)
    }
}
