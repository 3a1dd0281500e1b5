// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import Glibc
import NIOCore
import Store
import Supervision
import Synchronization
import Testing
import Wire

@testable import Gateway

/// Connections and workers from one daemon to the next.
@Suite struct HandOverTests {
    private func isWhole(_ parts: [String], body: Int?) -> Bool {
        let boundary = RequestBoundary()
        for part in parts { boundary.count(ByteBuffer(string: part).readableBytesView) }
        return boundary.isWhole(body: body)
    }

    @Test("a request's end is found wherever its bytes are cut")
    func boundaries() {
        let text = "POST / HTTP/1.1\r\nX: \r\r\n\r\nbody"
        for cut in 0...text.utf8.count {
            let parts = [String(text.utf8.prefix(cut)) ?? "", String(text.utf8.dropFirst(cut)) ?? ""]
            #expect(isWhole(parts, body: 4), "cut at \(cut)")
            #expect(!isWhole(parts, body: 3) && !isWhole(parts, body: 5) && !isWhole(parts, body: nil), "cut at \(cut)")
        }
        #expect(!isWhole(["GET / HTTP/1.1\r\n"], body: 0) && !isWhole([], body: 0))
        #expect(isWhole(["\r\n\r\n"], body: 0) && !isWhole(["\r\n\r\nG"], body: 0))
    }

    @Test("once a request has come before the answer to the one before, borders are not known any more")
    func lost() {
        let boundary = RequestBoundary()
        func take(_ text: String) { boundary.count(ByteBuffer(string: text).readableBytesView) }
        take("GET / HTTP/1.1\r\n\r\n")
        #expect(!boundary.isBetweenRequests)
        boundary.next(body: 0)
        #expect(boundary.isBetweenRequests)
        take("GET / HTTP/1.1\r\n\r\nGET")
        boundary.next(body: 0)
        #expect(!boundary.isBetweenRequests)
        take(" / HTTP/1.1\r\n\r\n")
        boundary.next(body: 0)
        #expect(!boundary.isBetweenRequests && !boundary.isWhole(body: 0))
    }

    /// What a node has given away.
    private final class Given: Sendable {
        private let sockets = Mutex<[CInt]>([])
        var count: Int { sockets.withLock { $0.count } }
        func take(_ socket: CInt) -> Bool {
            sockets.withLock { $0.append(dup(socket)) }
            return true
        }
        func adopt(_ body: (CInt) -> Void) {
            for socket in sockets.withLock({ $0 }) { body(socket) }
            sockets.withLock { $0 = [] }
        }
        deinit { for socket in sockets.withLock({ $0 }) { close(socket) } }
    }

    /// Lets go; returns how many connections are left.
    private func letGo(_ node: TestNode, _ given: Given) async throws -> Int {
        try await node.supervisor.onLoop { _ in
            node.server.letGo { socket, _ in given.take(socket) }
            return node.server.remainingConnections
        }
    }

    @Test("a connection between two requests goes on elsewhere: what its caller sends then is read there, whole")
    func idleConnection() async throws {
        try await TestNode.withNode { other, _ in
            let given = Given()
            try await TestNode.withNode { node, _ in
                let client = try node.connect()
                try await client.send(TestNode.invocation("echo", body: "\"one\""))
                #expect(try await client.answer().status == 200)
                let fresh = try node.connect()
                try await fresh.send(TestNode.invocation("echo", body: "\"fresh\""))
                #expect(try await fresh.answer().text == "\"fresh\"")
                #expect(try await letGo(node, given) == 0)
                #expect(given.count == 2)
                // It lies in the kernel until somebody reads it.
                try await client.send(TestNode.invocation("echo", body: "\"two\""))
                given.adopt { other.server.adopt($0, isControl: false) }
                let answer = try await client.answer()
                #expect(answer.status == 200 && answer.text == "\"two\"")
                try await fresh.send(TestNode.invocation("echo", body: "\"three\""))
                #expect(try await fresh.answer().text == "\"three\"")
            }
        }
    }

    @Test("a connection in the middle of a request, or whose requests overlap, stays and is told to end")
    func busyConnections() async throws {
        let given = Given()
        try await TestNode.withNode { node, _ in
            let half = try node.connect(), pipelined = try node.connect()
            try await half.send(String(TestNode.invocation("echo", body: "\"half\"").dropLast(3)))
            try await pipelined.send(TestNode.request("GET", "/healthz") + TestNode.invocation("echo", body: "\"b\""))
            #expect(try await pipelined.answer().text == "ok\n")
            #expect(try await pipelined.answer().text == "\"b\"")
            #expect(try await letGo(node, given) == 2)
            #expect(given.count == 0)
            try await half.send("lf\"")
            let answer = try await half.answer()
            #expect(answer.text == "\"half\"" && answer.header("connection") == nil, "it is whole now, and goes on elsewhere")
            try await eventually("the connection to be given") { given.count == 1 }
            try await pipelined.send(TestNode.invocation("echo", body: "\"c\""))
            let last = try await pipelined.answer()
            #expect(last.text == "\"c\"" && last.header("connection") == "close")
        }
    }

    @Test("plain calls may overlap: each is cut where it ends, and the connection goes on elsewhere after the last, not before")
    func overlappingCalls() async throws {
        let given = Given()
        try await TestNode.withNode { node, _ in
            let idle = try node.connect(), busy = try node.connect()
            try await idle.send(TestNode.invocation("echo", body: "\"a\"") + TestNode.invocation("echo", body: "\"b\""))
            #expect(try await idle.answer().text == "\"a\"")
            #expect(try await idle.answer().text == "\"b\"")
            try await busy.send(TestNode.invocation("hang") + TestNode.invocation("echo", body: "\"next\""))
            try await eventually("it runs") { node.spawner.invoked.contains("hang") }
            #expect(try await letGo(node, given) == 1)
            #expect(given.count == 1)
        }
    }

    @Test("nothing is accepted once a node lets go, and connections wait for the next one")
    func backlog() async throws {
        try await TestNode.withNode { node, _ in
            let given = Given()
            _ = try await letGo(node, given)
            #expect(throws: (any Error).self, "its listener is closed") { try node.connect() }
        }
    }

    private func record(_ node: TestNode) async throws -> (WorkerRecord, [CInt]) {
        #expect(try await node.invoke("echo", body: "1").status == 200)
        let found = try await node.supervisor.onLoop { state in
            var found: [(WorkerRecord, [CInt])] = []
            let released = state.releaseWorkers { record, descriptors in
                found.append((record, descriptors.map { dup($0) }))
                return true
            }
            return (found, released)
        }
        #expect(found.0.map(\.0.worker) == found.1)
        guard let first = found.0.first else { throw ClientError(description: "no worker") }
        return first
    }

    private func inherit(_ node: TestNode, _ record: WorkerRecord, _ descriptors: [CInt]) async throws -> Bool {
        let kept = KeptWorker(worker: record.worker, group: GroupID(9), pid: 1, uid: 1, cgroup: "/k")
        return try await node.supervisor.onLoop { $0.inherit(record, kept, descriptors) }
    }

    @Test("an idle worker serves the next daemon, over the same socket")
    func worker() async throws {
        try await TestNode.withNode { node, _ in
            var (record, descriptors) = try await record(node)
            #expect(record.served == 1)
            record.worker = WorkerID(1 << 30)
            try await TestNode.withNode { next, _ in
                #expect(try await inherit(next, record, descriptors) == true)
                let answer = try await next.invoke("echo", body: "2")
                #expect(answer.status == 200 && answer.header("bulkhead-start") == "warm", "\(answer.headers)")
                #expect(answer.header("bulkhead-worker") == record.worker.description)
                #expect(next.spawner.invoked.isEmpty && node.spawner.invoked == ["echo", "echo"], "the worker is the first node's")
            }
        }
    }

    @Test("processor time that is on no bill yet is not handed over as charged: the successor sees it again")
    func unbilled() async throws {
        try await TestNode.withNode { node, _ in
            /// What the worker's record would say, without its going.
            func charged() async throws -> (worker: WorkerID, cpu: UInt64) {
                let found = try await node.supervisor.onLoop { state in
                    var found: [WorkerRecord] = []
                    _ = state.releaseWorkers { record, _ in
                        found.append(record)
                        return false
                    }
                    return found
                }
                guard let record = found.first, found.count == 1 else { throw ClientError(description: "\(found.count) workers") }
                return (record.worker, record.cpuMicroseconds)
            }
            func used(_ worker: WorkerID, _ microseconds: UInt64) {
                node.supervisor.received(
                    .usage([WorkerUsage(worker: worker, pid: 1, usage: Usage(cpuMicroseconds: microseconds))]), descriptors: [])
            }
            #expect(try await node.invoke("echo", body: "1").status == 200)
            let worker = try await charged().worker
            used(worker, 900)
            #expect(try await charged().cpu == 0)
            // The next call's bill has it.
            #expect(try await node.invoke("echo", body: "2").status == 200)
            #expect(try await charged().cpu == 900)
            used(worker, 1000)
            #expect(try await charged().cpu == 900)
            #expect(try await charged().cpu == 900, "a look changes nothing")
        }
    }

    @Test("processor time is billed when it is seen, and once: also over a kill of the daemon and of a worker that is handed over")
    func billedOnce() async throws {
        let folder = NSTemporaryDirectory() + "bill-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        /// Tells what the kernel has counted, and returns what is billed, in microseconds.
        func used(_ microseconds: UInt64, by worker: WorkerID, _ node: TestNode, _ ledger: UsageLedger) async throws -> UInt64 {
            node.supervisor.received(
                .usage([WorkerUsage(worker: worker, pid: 1, usage: Usage(cpuMicroseconds: microseconds))]), descriptors: [])
            try await node.supervisor.onLoop { _ in }
            return try ledger.usage(UsageQuery()).reduce(0) { $0 + $1.cpuUs }
        }
        try await TestNode.withNode { node, _ in
            var handed: (WorkerRecord, [CInt])?
            do {
                let ledger = try UsageLedger(directory: folder, now: 1_000_000, segmentRecords: 64)
                try await node.supervisor.onLoop { $0.ledger = ledger }
                #expect(try await node.invoke("echo", body: "1").status == 200)
                let worker = try await node.supervisor.onLoop { $0.workerReports.first?.worker }
                guard let worker else { throw ClientError(description: "no worker") }
                #expect(try await used(900, by: worker, node, ledger) == 900)
                #expect(try await used(900, by: worker, node, ledger) == 900)
                #expect(try await used(1000, by: worker, node, ledger) == 1000)
                handed = try await record(node)
                #expect(handed?.0.cpuMicroseconds == 1000)
                #expect(try ledger.usage(UsageQuery()).reduce(0) { $0 + $1.invocations } == 2, "processor time is no invocation")
                // As a kill leaves it: nothing of the ledger is closed or counted any more.
                try await node.supervisor.onLoop { $0.ledger = nil }
            }
            guard let handed else { return }
            var record = handed.0
            record.worker = WorkerID(1 << 30)
            try await TestNode.withNode { next, _ in
                let ledger = try UsageLedger(directory: folder, now: 1_000_000, segmentRecords: 64)
                try await next.supervisor.onLoop { $0.ledger = ledger }
                #expect(try ledger.usage(UsageQuery()).reduce(0) { $0 + $1.cpuUs } == 1000)
                #expect(try await inherit(next, record, handed.1) == true)
                #expect(try await used(1000, by: record.worker, next, ledger) == 1000)
                #expect(try await used(1600, by: record.worker, next, ledger) == 1600)
                try await next.supervisor.onLoop { $0.ledger = nil }
            }
        }
    }

    @Test("a worker whose terms are others now, that ended meanwhile, or of an unknown version is ended")
    func otherTerms() async throws {
        try await TestNode.withNode { node, _ in
            let (record, descriptors) = try await record(node)
            try await TestNode.withNode { next, _ in
                var other = record
                other.worker = WorkerID(1 << 30)
                other.terms[other.terms.count - 1] ^= 1
                let hasOtherTerms = try await !inherit(next, other, descriptors.map { dup($0) })
                #expect(hasOtherTerms)
                other = record
                other.worker = WorkerID(1 << 31)
                other.version = VersionID(function: record.version.function, number: 99)
                let isUnknown = try await !inherit(next, other, descriptors.map { dup($0) })
                #expect(isUnknown)
                #expect(next.spawner.killed == 2)
                other = record
                other.worker = WorkerID(1 << 32)
                next.supervisor.received(.exited(other.worker, .killed, Usage()), descriptors: [])
                let isGone = try await !inherit(next, other, descriptors.map { dup($0) })
                #expect(isGone)
                other.worker = WorkerID(1 << 33)
                let isTaken = try await inherit(next, other, descriptors.map { dup($0) })
                #expect(isTaken)
            }
            for descriptor in descriptors { close(descriptor) }
        }
    }

    @Test("a worker that runs a call, or is in the middle of a frame, is not handed over")
    func busyWorker() async throws {
        try await TestNode.withNode { node, _ in
            let client = try node.connect()
            try await client.send(TestNode.invocation("hang"))
            try await eventually("the call") { node.spawner.invoked == ["hang"] }
            #expect(try await node.supervisor.onLoop { state in state.releaseWorkers { _, _ in true } } == [])
        }
    }

    @Test("restart and drain are the operator's alone")
    func routes() async throws {
        try await TestNode.withNode { node, service in
            let control = try node.connectControl()
            try await control.send(TestNode.request("POST", "/v1/drain", body: "{\"undo\":false}"))
            #expect(try await control.answer().text == "{\"draining\":true,\"eventsWaiting\":4,\"running\":3}")
            service.setReady(false)
            let ready = try await node.ask("GET", "/readyz")
            #expect(ready.status == 503 && ready.text == "draining\n")
            for (method, path, body) in [("POST", "/v1/drain", "{}"), ("POST", "/v1/drain", "{\"undo\":1}"), ("DELETE", "/v1/restart", "")]
            {
                try await control.send(TestNode.request(method, path, body: body))
                let status = try await control.answer().status
                #expect(status == 400 || status == 405, "\(method) \(path)")
            }
            try await control.send(TestNode.request("POST", "/v1/restart"))
            #expect(try await control.answer().status == 202)
            try await control.send(TestNode.request("POST", "/v1/restart", body: "{\"spawner\":true}"))
            #expect(try await control.answer().status == 202)
            try await control.send(TestNode.request("POST", "/v1/restart", body: "{\"spawner\":1}"))
            #expect(try await control.answer().status == 400)
            #expect(service.calls.suffix(2) == ["restart", "restart spawner"])
            service.object { caller, _, _ in caller == .operator ? nil : Problem(code: "no", title: "", status: 401, detail: "") }
            let before = service.calls
            for path in ["/v1/restart", "/v1/drain"] {
                #expect(try await node.ask("POST", path, body: "{\"undo\":true}").status == 401)
                #expect(try await node.ask("GET", path).status == 401)
            }
            #expect(service.calls == before)
        }
    }
}
