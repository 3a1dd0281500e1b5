// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import NIOCore
import NIOPosix
import Store
import Synchronization
import Testing

@testable import Supervision
@testable import bulkheadd

/// Alarms on their way to people.
@Suite struct NoticeTests {
    private func name(_ text: String) throws -> Name { try #require(Name(text)) }

    @Test("one tenant's notices take its own places, and not the node's nor another's; beyond them each is counted, and one is said")
    func room() throws {
        var room = NoticeRoom()
        let (acme, other) = (try name("acme"), try name("other"))
        var (gone, said) = (0, 0)
        for _ in 0..<100_000 {
            let answer = room.enter(acme, at: 5)
            gone += answer.mayGo ? 1 : 0
            said += answer.isToBeSaid ? 1 : 0
        }
        #expect(gone == NoticeRoom.mostOfTenant && said == 1)
        #expect(room.dropped == 100_000 - UInt64(NoticeRoom.mostOfTenant) && room.underWay == NoticeRoom.mostOfTenant)
        let others = [room.enter(other, at: 5).mayGo, room.enter(nil, at: 5).mayGo]
        #expect(others == [true, true])
        let later = room.enter(acme, at: 5 + NoticeRoom.silence)
        #expect(!later.mayGo && later.isToBeSaid)
        room.leave(acme)
        let again = [room.enter(acme, at: 6).mayGo, room.enter(acme, at: 6).mayGo]
        #expect(again == [true, false])
        for _ in 0..<NoticeRoom.mostOfTenant { room.leave(acme) }
        room.leave(other)
        room.leave(nil)
        #expect(room.underWay == 0)
    }

    @Test("all tenants together have a bound, too")
    func tenants() throws {
        var room = NoticeRoom()
        var gone = 0
        for number in 0..<1_000 {
            let tenant = try name("t\(number)")
            for _ in 0..<NoticeRoom.mostOfTenant where room.enter(tenant, at: 1).mayGo { gone += 1 }
        }
        #expect(gone == NoticeRoom.mostOfTenants)
        #expect(room.enter(nil, at: 1).mayGo, "the node's owner is told all the same")
    }

    @Test("a receiver that hangs holds a bounded number of notices, the rest is counted; they give their places back")
    func hanging() async throws {
        let listener = try Listener()
        defer { listener.close() }
        let config = "workers: 100\nwebhooks: any\n"
        let tenant = "notify: [{webhook: 'http://127.0.0.1:\(listener.port)/'}]\n"
        try await VersionRouteTests().withDaemon([("echo", 1)], config: config, tenant: tenant) { _, daemon, _ async throws in
            let acme = try name("acme")
            for number in 0..<1_000 {
                daemon.notify(Alarm(kind: .deadLetter, tenant: acme, subject: "\(number)", text: "x", isRecovery: false))
            }
            let (underWay, dropped) = daemon.notices.withLock { ($0.underWay, $0.dropped) }
            #expect(underWay == NoticeRoom.mostOfTenant && dropped == 1_000 - UInt64(NoticeRoom.mostOfTenant))
            #expect(try await daemon.metrics(detailed: false).contains("bulkhead_notices_dropped_total 968"))
        }
    }

    @Test("notices that were told give their places back")
    func told() async throws {
        let marks = NSTemporaryDirectory() + "notices-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: marks, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: marks) }
        let config = "workers: 100\nnotify: [{command: [/usr/bin/mktemp, --tmpdir=\(marks), told-XXXXXXXX]}]\n"
        try await VersionRouteTests().withDaemon([("echo", 1)], config: config) { _, daemon, _ async throws in
            let acme = try name("acme")
            for _ in 0..<3 { daemon.notify(Alarm(kind: .deadLetter, tenant: acme, subject: "x", text: "x", isRecovery: false)) }
            try await eventually("all are told", within: 60) { daemon.notices.withLock { $0.underWay } == 0 }
            #expect(try FileManager.default.contentsOfDirectory(atPath: marks).count == 3)
            #expect(daemon.notices.withLock { $0.dropped } == 0)
        }
    }

    @Test("a notice that its webhook does not take is sent again, signed each time, and not once it was taken")
    func again() async throws {
        let receiver = try Receiver(answers: [500, 200, 200])
        let tenant = """
            secrets: {HOOK: whsec_0123456789}
            notify: [{webhook: 'http://127.0.0.1:\(receiver.port)/', secret: HOOK}]

            """
        try await VersionRouteTests().withDaemon([("echo", 1)], config: "workers: 100\nwebhooks: any\n", tenant: tenant) {
            _, daemon, _ async throws in
            let acme = try name("acme")
            daemon.notify(Alarm(kind: .deadLetter, tenant: acme, subject: "one", text: "x", isRecovery: false))
            try await eventually("it is told", within: 60) { daemon.notices.withLock { $0.underWay } == 0 }
            daemon.notify(Alarm(kind: .deadLetter, tenant: acme, subject: "two", text: "x", isRecovery: false))
            try await eventually("the second is told", within: 60) {
                receiver.got.withLock { $0.count } >= 3 && daemon.notices.withLock { $0.underWay } == 0
            }
            let got = receiver.got.withLock { $0 }
            #expect(got.count == 3 && got[2].contains(#""subject":"two""#))
            for request in got.prefix(2) {
                let parts = request.split(separator: "\r\n\r\n", maxSplits: 1)
                let body = Array((parts.last ?? "").utf8)
                let header = request.split(separator: "\r\n").first { $0.lowercased().hasPrefix("bulkhead-signature: ") }
                let value = header.map { String($0.dropFirst("bulkhead-signature: ".count)) }
                let now = UInt64(Date().timeIntervalSince1970)
                let fault = Signature.fault(
                    { $0.lowercased() == "bulkhead-signature" ? value : nil }, body, secret: Array("whsec_0123456789".utf8), at: now)
                #expect(value != nil && fault == nil, "\(request)")
                #expect(request.contains(#""subject":"one""#))
            }
        }
        receiver.close()
    }

    @Test("a canary that the node ends is told once: whose, which alias, from which version to which, and why")
    func canary() async throws {
        let receiver = try Receiver(answers: [200, 200])
        let target = "notify: [{webhook: 'http://127.0.0.1:\(receiver.port)/'}]\n"
        try await VersionRouteTests().withDaemon([("status", 2)], config: "workers: 100\nwebhooks: any\n" + target, tenant: target) {
            node, daemon, _ async throws in
            let root = "/v1/tenants/acme/functions/status"
            let split = #"{"targets": [{"version": 1, "weight": 1}, {"version": 2, "weight": 99}]}"#
            #expect(try await node.ask("PUT", root + "/aliases/prod", body: split).status == 200)
            // A caller that always gets the canary.
            var key: String?
            for user in 0..<100 where key == nil {
                let headers = ["Bulkhead-Invocation-Type: dry-run", "Bulkhead-Alias-Key: u\(user)"]
                let dry = try await node.ask("POST", root + "/invocations?alias=prod", headers: headers)
                if dry.header("bulkhead-version") == "2" { key = "u\(user)" }
            }
            let caller = try #require(key)
            for _ in 0..<50 {
                _ = try await node.ask(
                    "POST", root + "/invocations?alias=prod", headers: ["Bulkhead-Alias-Key: \(caller)"], body: "500")
            }
            await daemon.keepEndedCanaries()
            await daemon.keepEndedCanaries()
            try await eventually("the tenant and the node's owner are told", within: 60) {
                receiver.got.withLock { $0.count } == 2 && daemon.notices.withLock { $0.underWay } == 0
            }
            for request in receiver.got.withLock({ $0 }) {
                let body = try #require(request.split(separator: "\r\n\r\n", maxSplits: 1).last)
                let notice = try JSONDecoder().decode([String: JSONPart].self, from: Data(body.utf8))
                #expect(notice["alarm"] == .text("canary") && notice["state"] == .text("raised") && notice["tenant"] == .text("acme"))
                #expect(notice["subject"] == .text("canary of acme/status:prod"))
                let text =
                    "the node has taken acme/status:prod back from its canary, version 2, to version 1: "
                    + "50 of 50 calls of the canary failed, and 0 of 0 of the primary"
                #expect(notice["text"] == .text(text))
            }
        }
        receiver.close()
    }

    @Test("dead letters of a function and outcomes that are given up are told once each, and once more when it is over")
    func badEnds() async throws {
        let told = Mutex<[Alarm]>([])
        let later = Mutex<UInt64>(0)
        let clock = SupervisorClock(now: { SupervisorClock.system.now() + later.withLock { $0 } }, wall: SupervisorClock.system.wall)
        let spawner = FakeSpawner()
        let top = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm/" : NSTemporaryDirectory()
        let path = top + "alarms-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let store = try EventStore(directory: path, now: 1)
        let supervisor = try await Supervisor.make(
            loop: MultiThreadedEventLoopGroup.singleton.next(),
            node: Node(spec: NodeSpec(memoryBytes: 1 << 40, spareGroups: 0, sealedSpares: 0), firstWorker: 1), logger: TestNode.quiet,
            spawner: { spawner.received($0) }, log: { _ in }, clock: clock)
        let functions = try ["f", "g"].map { FunctionID(tenant: try name("acme"), function: try name($0)) }
        @Sendable func pass() async throws { try await supervisor.onLoop { $0.events?.passTime() } }
        try await supervisor.onLoop { state in
            // No function is deployed: each event that is handed out is a dead letter.
            let engine = EventEngine(state: state, store: store, governor: nil) { _, _ in nil }
            engine.alarmed = { alarm in told.withLock { $0.append(alarm) } }
            state.events = engine
            for number in 0..<60 { engine.accept(EventOrder(function: functions[number % 2], payload: [])) { _ in } }
        }
        try await eventually("all are dead letters", within: 60) {
            try await pass()
            return try await supervisor.onLoop { $0.events?.counters["events.dead"] } == 60
        }
        let first = told.withLock { $0 }
        #expect(first.map(\.kind) == [.deadLetter, .deadLetter] && Set(first.map(\.subject)) == ["acme/f", "acme/g"])
        #expect(first.allSatisfy { !$0.isRecovery })
        later.withLock { $0 += EventAlarms.quiet - .seconds(120) }
        try await pass()
        #expect(told.withLock { $0.count } == 2, "not yet")
        later.withLock { $0 += .seconds(180) }
        try await pass()
        let all = told.withLock { $0 }
        #expect(all.count == 4 && all.suffix(2).allSatisfy { $0.isRecovery && $0.text.contains("30 did before") }, "\(all)")
        #expect(Set(all.suffix(2).map(\.subject)) == ["acme/f", "acme/g"])
        try await supervisor.onLoop { $0.events?.stop() }
        EventEngine.reads.sync {}
        EventEngine.counting.sync {}
        store.close()
        // What the store has answered meanwhile is on the loop.
        try await supervisor.onLoop { _ in }
    }
}

/// Takes connections and answers nothing.
private final class Listener: Sendable {
    let descriptor: CInt
    let port: UInt16
    init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = descriptor
        let bound = unsafe withUnsafeMutablePointer(to: &address) {
            unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, size) == 0 && listen(descriptor, 64) == 0 && getsockname(descriptor, $0, &size) == 0
            }
        }
        try #require(bound)
        port = UInt16(bigEndian: address.sin_port)
    }
    func close() { Glibc.close(descriptor) }
}

/// Takes one request after another, and answers each with the next status.
private final class Receiver: Sendable {
    private let listener: Listener
    let got = Mutex<[String]>([])
    var port: UInt16 { listener.port }

    init(answers: [Int]) throws {
        listener = try Listener()
        let descriptor = listener.descriptor
        Thread.detachNewThread { [self] in
            for status in answers {
                let one = accept(descriptor, nil, nil)
                guard one >= 0 else { return }
                var text = ""
                var bytes = [UInt8](repeating: 0, count: 64 << 10)
                // The body is JSON, and ends with its brace.
                while !text.hasSuffix("}") {
                    let count = unsafe recv(one, &bytes, bytes.count, 0)
                    guard count > 0 else { break }
                    text += String(decoding: bytes.prefix(count), as: UTF8.self)
                }
                let whole = text
                got.withLock { $0.append(whole) }
                let answer = Array("HTTP/1.1 \(status) X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".utf8)
                _ = unsafe send(one, answer, answer.count, Int32(MSG_NOSIGNAL))
                Glibc.close(one)
            }
        }
    }

    func close() {
        shutdown(listener.descriptor, Int32(SHUT_RDWR))
        listener.close()
    }
}
