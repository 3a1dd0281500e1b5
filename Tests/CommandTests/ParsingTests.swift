// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CommandKit
import Core
import Testing

@testable import bulkhead

@Suite struct ParsingTests {
    private func parse<C: ParsableCommand>(_ line: String, as type: C.Type = C.self) throws -> C {
        let words = CommandLineWords.normalized(line.split(separator: " ").map(String.init))
        return try #require(try Bulkhead.parseAsRoot(words) as? C)
    }

    @Test(
        "a word that is no command is told as that, with the nearest",
        arguments: [
            ("deplyo x", "'deplyo' is no command of bulkhead; did you mean 'bulkhead deploy'?"),
            ("help nosuch", "'nosuch' is no command of bulkhead; 'bulkhead --help'"), ("help invok", "did you mean 'bulkhead invoke'?"),
            ("alias nosuch", "'nosuch' is no command of bulkhead alias"), ("--json alias sett", "did you mean 'bulkhead alias set'?"),
            ("help events shwo", "did you mean 'bulkhead events show'?"), ("lgos", "did you mean 'bulkhead logs'?"),
        ])
    func unknown(line: String, sentence: String) {
        let words = CommandLineWords.normalized(line.split(separator: " ").map(String.init))
        let told = UnknownCommand.failure(words)
        #expect(told?.sentence.contains(sentence) == true && told?.status == .usage, "\(told?.sentence ?? "taken")")
    }

    @Test(
        "what may be an argument is left to the command",
        arguments: ["", "help", "--help", "help deploy", "help alias set", "deploy f -t acme", "events acme/f", "alias help", "--version"])
    func known(line: String) {
        #expect(UnknownCommand.failure(line.split(separator: " ").map(String.init)) == nil)
    }

    @Test func up() throws {
        let command: Up = try parse("up --state /n --port 0 --config /etc/bulkhead")
        #expect(command.node.state == "/n")
        #expect(command.port == 0)
        #expect(command.config == "/etc/bulkhead")
        #expect(try parse("up", as: Up.self).port == 8080)
    }

    @Test func initialize() throws {
        let command: Init = try parse("init --template python3 hello")
        #expect(command.template == "python3")
        #expect(command.folder == "hello")
        #expect(try parse("init", as: Init.self).template == nil)
    }

    @Test func deploy() throws {
        let command: Deploy = try parse("--state /n --json deploy ./f --tenant acme")
        #expect(command.node.state == "/n")
        #expect(command.node.json)
        #expect(command.folder == "./f")
        #expect(command.tenant == "acme")
        #expect(try parse("deploy -t acme f", as: Deploy.self).tenant == "acme")
        #expect(try parse("dev f", as: Dev.self).tenant == "default")
    }

    @Test func invoke() throws {
        let command: Invoke = try parse("--state=/n invoke acme/f@7 --data @x --header A=b -H C=d=e --async --tail --json")
        #expect(command.node.state == "/n")
        #expect(command.function == "acme/f@7")
        #expect(command.data == "@x")
        #expect(command.header == ["A=b", "C=d=e"])
        #expect(command.isAsynchronous && command.tail && command.node.json)
        let bare: Invoke = try parse("invoke acme/f")
        #expect(bare.data == nil && !bare.tail && !bare.isAsynchronous && !bare.node.json && bare.node.state == nil)
    }

    @Test func dataMayBeginWithADash() throws {
        #expect(try parse("invoke acme/f --data=-1", as: Invoke.self).data == "-1")
        #expect(try parse("invoke acme/f --data=--json", as: Invoke.self).data == "--json")
    }

    @Test func logs() throws {
        let command: Logs = try parse("logs acme/f@2 -f --tail 5 --grep x --invocation 00")
        #expect(command.target == "acme/f@2")
        #expect(command.follow)
        #expect(command.tail == 5)
        #expect(command.grep == "x")
        #expect(command.invocation == "00")
        #expect(try parse("logs acme/f", as: Logs.self).tail == nil)
        #expect(try parse("logs --since 1h", as: Logs.self).target == nil)
    }

    @Test func watching() throws {
        #expect(try parse("--state /n ps --json", as: PS.self).node.json)
        #expect(try parse("ps --tenant acme", as: PS.self).tenant == "acme")
        #expect(try parse("inspect w-7f3a --json", as: Inspect.self).worker == "w-7f3a")
        #expect(try parse("explain 00ff --tenant acme", as: Explain.self).tenant == "acme")
        #expect(try parse("doctor --port 80 --json", as: Doctor.self).port == 80)
        #expect(try parse("doctor --config ./config", as: Doctor.self).config == "./config")
        #expect(try parse("version --json", as: Version.self).common.json)
    }

    @Test func functions() throws {
        #expect(try parse("functions --tenant acme", as: Functions.self).tenant == "acme")
        #expect(try parse("functions", as: Functions.self).tenant == nil)
        #expect(try parse("versions acme/f", as: Versions.self).function == "acme/f")
        #expect(try parse("delete acme/f@2", as: Delete.self).function == "acme/f@2")
    }

    @Test func tenantsAndKeys() throws {
        #expect(try parse("tenants --json", as: Tenants.self).node.json)
        let create: KeysCreate = try parse("--state /n keys create --tenant t --scope invoke --json")
        #expect(create.tenant == "t" && create.scope == ["invoke"] && create.node.json && create.node.state == "/n")
        #expect(try parse("keys list --tenant t", as: KeysList.self).tenant == "t")
        let revoke: KeysRevoke = try parse("keys revoke abc --tenant t")
        #expect(revoke.id == "abc" && revoke.tenant == "t")
    }

    @Test func ceilings() throws {
        let set: QuotaSet = try parse("--state /n --json quota set acme rate=1/s weight=2")
        #expect(set.tenant == "acme" && set.settings == ["rate=1/s", "weight=2"] && set.node.json && set.node.state == "/n")
        #expect(try parse("quota show", as: QuotaShow.self).tenant == nil)
        let usage: UsageReport = try parse("usage --tenant acme --from -24h --to now --by hour --csv")
        #expect(usage.tenant == "acme" && usage.from == "-24h" && usage.to == "now" && usage.by == .hour && usage.csv && !usage.billing)
        let top: Top = try parse("top --tenant acme --interval 0.5 --once")
        #expect(top.tenant == "acme" && top.interval == 0.5 && top.once)
        #expect(try parse("reload --dry-run", as: Reload.self).dryRun)
        let drain: Drain = try parse("drain --timeout 5 --undo")
        #expect(drain.timeout == 5 && drain.undo)
        #expect(try parse("drain --timeout 2m", as: Drain.self).timeout == 120 && parse("drain", as: Drain.self).timeout == 900)
        #expect(throws: (any Error).self) { try parse("drain --timeout soon", as: Drain.self) }
        #expect(try parse("restart --json", as: Restart.self).node.json)
        #expect(try parse("keys rotate k --tenant t --grace 1h", as: KeysRotate.self).grace == "1h")
    }

    @Test(arguments: [
        "up --port 65536", "up --port -1", "deploy", "deploy f", "deploy --tenant t", "invoke", "invoke a/b c/d", "invoke a/b --header",
        "logs -f", "logs a/b --tail -1", "logs a/b --tail x", "logs a/b --tail 10001", "logs a/b -f --until now", "logs a/b --level loud",
        "inspect", "explain", "versions", "delete", "keys create", "keys list",
        "keys revoke x",
        "keys revoke --tenant t", "keys rotate x", "quota set acme", "quota set", "usage --csv --json", "usage --by week",
        "usage --billing --by day", "top --interval 0", "top --interval x", "reload now", "restart now", "drain --timeout -1",
        "drain --timeout x", "doctor --port x", "nonsense", "ps --nonsense",
        "init a b", "failures --limit 0", "failures --limit 1001", "failures --outcome ok", "failures a b",
    ])
    func refuses(line: String) {
        let error = #expect(throws: (any Error).self) { try Bulkhead.parseAsRoot(line.split(separator: " ").map(String.init)) }
        if let error { #expect(Bulkhead.exitCode(for: error) == .validationFailure) }
    }

    @Test func everyCommandExplainsItself() throws {
        for words in [
            [], ["up"], ["init"], ["dev"], ["deploy"], ["invoke"], ["logs"], ["ps"], ["inspect"], ["functions"], ["versions"], ["delete"],
            ["tenants"], ["keys"],
            ["keys", "create"], ["keys", "list"], ["keys", "revoke"], ["keys", "rotate"], ["quota"], ["quota", "show"], ["quota", "set"],
            ["usage"],
            ["top"], ["reload"], ["restart"], ["drain"], ["explain"], ["failures"], ["doctor"], ["version"],
        ] {
            let error = #expect(throws: (any Error).self, "\(words)") {
                var command = try Bulkhead.parseAsRoot(words + ["--help"])
                try command.run()
            }
            let help = error.map { Bulkhead.fullMessage(for: $0) } ?? ""
            #expect(help.contains("USAGE: bulkhead"), "\(words)")
            #expect(error.map { Bulkhead.exitCode(for: $0) } == .success)
        }
    }

    @Test(arguments: [
        ("A=b", "A", "b"), ("Content-Type=text/plain; q=1", "Content-Type", "text/plain; q=1"), ("X=", "X", ""),
        ("X=\u{e9}", "X", "\u{e9}"),
    ])
    func readsHeaders(text: String, name: String, value: String) throws {
        let header = try HeaderArgument.parse(text)
        #expect(header.0 == name)
        #expect(header.1 == value)
    }

    @Test(arguments: ["A", "=b", "A B=c", "A:=c", "A=b\r\nEvil: 1", "A=\u{0}", "\u{e9}=c"])
    func refusesHeaders(text: String) { #expect(throws: Failure.self) { try HeaderArgument.parse(text) } }

    @Test func guessesTheContentType() {
        #expect(Invoke.contentType(Array("{\"a\": 1}".utf8)) == "application/json")
        #expect(Invoke.contentType(Array("12".utf8)) == "application/json")
        #expect(Invoke.contentType(Array("hello".utf8)) == "application/octet-stream")
    }

    @Test func readsLogTargets() throws {
        let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("f")))
        #expect(try LogTarget(parsing: "acme") == .tenant(function.tenant))
        #expect(try LogTarget(parsing: "acme/f") == .function(function, version: nil))
        #expect(try LogTarget(parsing: "acme/f@2") == .function(function, version: 2))
        for text in ["acme/f:x", "Acme", "", "acme/"] { #expect(throws: Failure.self) { try LogTarget(parsing: text) } }
    }

    @Test(arguments: ["notFound", "functionError", "outOfMemory", "timedOut", "throttled", "overloaded", "loop", "tooLarge", "internal"])
    func everyErrorHasAWayOut(code: String) {
        #expect(!Hint.next(code: code, ceiling: nil, retryAfter: nil).isEmpty)
        #expect(Hint.next(code: code, ceiling: "queue", retryAfter: 0.2) == "try again in 1s")
    }
}
