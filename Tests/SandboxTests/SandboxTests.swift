// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import SandboxKit
import Testing

/// Root, a compiler and the driver: without one of them nothing here can run, and the reason is shown.
let isRoot = geteuid() == 0

/// The package's own top folder.
let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path

enum Driver {
    /// The folder of code with the test program, made once.
    static let code: String = {
        let folder = NSTemporaryDirectory() + "sandbox-code-\(getpid())"
        try? FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
        _ = try? run("/usr/bin/cc", ["-O1", "-static", "-w", "-o", folder + "/program", top + "/Tests/SandboxTests/Resources/program.c"])
        _ = try? run("/usr/bin/cc", ["-O1", "-static", "-w", "-o", folder + "/bucket", top + "/Tests/SandboxTests/Resources/bucket.c"])
        return folder
    }()

    static func run(_ program: String, _ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let pipe = Pipe()
        let errors = Pipe()
        process.standardOutput = pipe
        process.standardError = errors
        try process.run()
        let data = pipe.fileHandleForReading.readDataToEndOfFile()
        let said = errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        // Why a program did not run stands there alone.
        return String(decoding: data.isEmpty ? said : data, as: UTF8.self)
    }

    static func drive(_ words: String...) throws -> String { try run(driver(), arguments(words)) }

    static func arguments(_ words: [String]) -> [String] {
        let scratch = NSTemporaryDirectory() + "sandbox-scratch-\(getpid())-\(UUID().uuidString)"
        try? FileManager.default.createDirectory(atPath: scratch, withIntermediateDirectories: true)
        return [top + "/Sandbox", scratch, code] + words
    }

    /// Built beside the test bundle.
    static func driver() throws -> String {
        let folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        let candidates = [
            folder, Bundle.main.bundleURL, URL(fileURLWithPath: top + "/.build-core/debug"), URL(fileURLWithPath: top + "/.build/debug"),
        ]
        return try #require(
            candidates.map { $0.appendingPathComponent("sandbox-driver").path }.first { FileManager.default.isExecutableFile(atPath: $0) })
    }
}

@Suite(.serialized, .enabled(if: isRoot, "needs root")) struct SandboxTests {
    @Test("every stage, made to fail, aborts the start with its own number and leaves no process, cgroup, descriptor or mount")
    func stages() throws {
        try BucketFolder.make()
        let lines = try Driver.drive("stages").split(separator: "\n")
        for stage in SandboxFailure.allStages {
            let line = try #require(lines.last { $0.hasPrefix("stage \(stage): ") })
            #expect(line.contains("refused at \(stage) true") || line.contains("failed at \(stage) true") || stage == 43, "\(line)")
            #expect(!line.contains("exited with code 0") || stage == 43, "\(line)")
        }
        let after = lines.filter { $0.hasPrefix("after ") }
        #expect(after.count == SandboxFailure.allStages.count + 2, "each stage, 0, and 43 for the second time")
        for line in after { #expect(line.hasSuffix(": nothing is left"), "\(line)") }
        #expect(lines.contains { $0.hasPrefix("stage 0: ended: exited with code 0") }, "without a failure the same start succeeds")
        #expect(lines.contains { $0.hasPrefix("stage 43: failed at 43 true") }, "a sealed start fails at its order")
    }

    @Test("the document, the header and the code name the same stages")
    func document() throws {
        let text = try String(contentsOfFile: top + "/Sandbox/README.md", encoding: .utf8)
        for stage in SandboxFailure.allStages {
            let name = try #require(SandboxFailure.stageName(stage))
            #expect(text.contains("| \(stage) | \(name)"), "Sandbox/README.md does not list stage \(stage): \(name)")
        }
        let listed = text.split(separator: "\n").compactMap { line -> UInt32? in
            let cells = line.split(separator: "|")
            return line.hasPrefix("| ") ? cells.first.flatMap { UInt32($0.trimmingCharacters(in: .whitespaces)) } : nil
        }
        #expect(Set(listed) == Set(SandboxFailure.allStages))
        #expect(SandboxFailure.stageName(DeathCause.execution) == "execute the program")
    }

    @Test("ends are reported exactly")
    func ends() throws {
        #expect(try Driver.drive("run", "./program", "exit", "7").contains("ended: exited with code 7"))
        #expect(try Driver.drive("run", "./program", "signal", "11").contains("killed by signal 11"))
        #expect(try Driver.drive("run", "./program", "i386").contains("killed by signal 31"))
        #expect(try Driver.drive("run", "./program", "calls", "169:0").contains("syscall: reboot true"))
        #expect(try Driver.drive("run", "./nothing").contains("failed at 45"))
    }

    @Test("a worker sees its own ids, and the code where it was mounted, started at once and from a sealed sandbox")
    func view() throws {
        let expected = "uid 1000 pid 2 cwd /function"
        #expect(try Driver.drive("run", "./program", "view").contains(expected))
        let sealed = try Driver.drive("sealed", "./program", "view")
        #expect(sealed.contains("sealed") && sealed.contains(expected), "\(sealed)")
    }
}

@Suite(.serialized, .enabled(if: isRoot, "needs root")) struct FilterTests {
    private func policy() throws -> FilterPolicy {
        try FilterPolicy(json: Array(try Data(contentsOf: URL(fileURLWithPath: top + "/Sandbox/policy/worker.json"))))
    }

    /// Rules that no call can tell from another one, each with why.
    private static let untestable: [String: String] = [:]

    /// A call that meets the rule's conditions: `number:argument:argument:argument`.
    private func word(_ rule: FilterPolicy.Rule) -> String {
        var values: [UInt64] = [0, 0, 0]
        for condition in rule.conditions { values[Int(condition.argument)] = condition.value }
        return "\(rule.number):\(values[0]):\(values[1]):\(values[2])"
    }

    private func answers(_ words: [String], ask: ([String]) throws -> String) throws -> [String: Int32] {
        var found: [String: Int32] = [:]
        for start in stride(from: 0, to: words.count, by: 40) {
            let asked = words[start..<min(start + 40, words.count)]
            let text = try ask(Array(asked))
            for pair in text.split(separator: " ") {
                let sides = pair.split(separator: "=")
                if sides.count == 2, let number = Int32(sides[1]) { found[String(sides[0])] = number }
            }
            try #require(asked.contains { found[$0] != nil }, "nothing was answered: \(text)")
        }
        return found
    }

    @Test("every errno rule answers with its errno, every allowed one with something else", arguments: [false, true])
    func conformance(network: Bool) throws {
        let rules = try policy().rules.filter { rule in
            rule.action != .kill && rule.network ?? network == network && Self.untestable[rule.call] == nil
        }
        #expect(rules.count > 400, "the policy has lost rules")
        let mode = network ? "network" : "run"
        let found = try answers(rules.map(word)) { words in
            try Driver.run(Driver.driver(), Driver.arguments([mode, "./program", "calls"] + words))
        }
        // What this kernel itself does not know: it says so to root outside, too.
        let absent = rules.filter { $0.action == .allow && found[word($0)] == FilterPolicy.defaultErrno }.map(word)
        let outside = try answers(absent) { try Driver.run(Driver.code + "/program", ["calls"] + $0) }
        for rule in rules {
            let answer = try #require(found[word(rule)], "\(rule.call) \(rule.conditions) was not answered")
            switch rule.action {
            case .errno(let number): #expect(answer == number, "\(rule.call) \(rule.conditions): \(answer) instead of \(number)")
            case .allow:
                let isAbsent = outside[word(rule)] == FilterPolicy.defaultErrno
                #expect(answer != FilterPolicy.defaultErrno || isAbsent, "\(rule.call) \(rule.conditions) is not let through")
            case .kill: break
            }
        }
    }

    @Test("every tripwire ends the worker, and the report names it")
    func tripwires() throws {
        let rules = try policy().rules.filter { $0.action == .kill }
        #expect(rules.count >= 19)
        for rule in rules {
            let text = try Driver.drive("run", "./program", "calls", "39:0", word(rule), "39:1")
            #expect(text.contains("syscall: \(rule.call) true") && !text.contains("39:1="), "\(rule.call): \(text)")
        }
    }

    @Test("calls with a forbidden argument are refused where the same call with another is allowed")
    func arguments() throws {
        // clone with a namespace, ioctl TIOCSTI with and without high bits, fcntl lock, prctl securebits, prlimit64 that sets, chmod set-id, AF_INET with high bits;
        // personality without random addresses, arch_prctl of shadow stacks, fchmod, fchmodat and fchmodat2 set-id, a device by mknodat, a pair of netlink.
        let words = [
            "56:0x10000000", "16:0:0x5412", "16:0:0x100005412", "72:0:6", "157:28", "302:0:7:1", "90:0:04755", "41:2:1", "41:0x100000002:1",
            "135:0x40000", "158:0x5001", "91:0:04755", "268:0:0:04755", "452:0:0:02755", "259:0:0:020666", "53:16:3",
        ]
        let text = try Driver.run(Driver.driver(), Driver.arguments(["run", "./program", "calls"] + words))
        for (word, errno) in zip(words, [38, 25, 25, 37, 1, 38, 38, 97, 97, 38, 38, 38, 38, 38, 1, 97]) {
            #expect(text.contains("\(word)=\(errno) "), "\(word): \(text)")
        }
    }

    @Test("an unknown call, action or key in a policy is an error with its line")
    func strict() {
        for line in [
            "{\"call\": \"no_such_call\", \"action\": \"allow\", \"reason\": \"r\"}",
            "{\"call\": \"read\", \"action\": \"maybe\", \"reason\": \"r\"}",
            "{\"call\": \"read\", \"action\": \"allow\"}", "{\"call\": \"read\", \"action\": \"allow\", \"reason\": \"r\", \"x\": \"y\"}",
            "{\"call\": \"read\", \"action\": \"allow\", \"reason\": \"r\"} tail", "read",
        ] {
            #expect(throws: PolicyError.self) { try FilterPolicy(json: Array(("[\n" + line + "\n]\n").utf8)) }
        }
    }
}
