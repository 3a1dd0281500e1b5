// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import Supervision
import Synchronization
import Wire

/// Stands in for the spawner and its workers: real sockets and real frames, threads instead of processes. What a worker does is in its function's name.
final class FakeSpawner: Sendable {
    private struct State {
        var supervisor: Supervisor?
        var sockets: [WorkerID: CInt] = [:]
        /// Names of functions that were told to cancel.
        var cancelled: [String] = []
        var invoked: [String] = []
        /// What "partial" was called with.
        var bodies: [String] = []
        /// The head and the body of what "silent" workers hold back.
        var killed = 0
    }
    private let state = Mutex(State())

    var cancelled: [String] { state.withLock { $0.cancelled } }
    var invoked: [String] { state.withLock { $0.invoked } }
    var bodies: [String] { state.withLock { $0.bodies } }
    /// What "partial" answers; nil for those of its records whose body has the word bad.
    let verdict = Mutex<String?>(nil)
    var killed: Int { state.withLock { $0.killed } }

    func connect(_ supervisor: Supervisor) {
        state.withLock { $0.supervisor = supervisor }
        supervisor.received(.welcome(version: spawnerProtocolVersion, listeners: [], runtimes: ["native"]), descriptors: [])
    }

    /// A cycle otherwise: supervisor, closure, spawner, supervisor.
    func disconnect() { state.withLock { $0.supervisor = nil } }

    func received(_ request: SpawnerRequest) {
        switch request {
        case .spawn(let order): start(order.worker)
        case .assign(let worker, _, _, _, _, _, _): tell(.assigned(worker))
        case .kill(let worker):
            state.withLock { state in
                state.killed += 1
                if let socket = state.sockets[worker] { shutdown(socket, CInt(SHUT_RDWR)) }
            }
        case .inspect(let worker): tell(.posture(worker, []))
        case .usage: tell(.usage([]))
        default: break
        }
    }

    private func tell(_ event: SpawnerEvent, _ descriptors: [CInt] = []) {
        state.withLock { $0.supervisor }?.received(event, descriptors: descriptors)
    }

    private func start(_ worker: WorkerID) {
        var ends: [CInt] = [-1, -1], out: [CInt] = [-1, -1], error: [CInt] = [-1, -1]
        unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends)
        unsafe pipe(&out)
        unsafe pipe(&error)
        close(out[1])
        close(error[1])
        let socket = ends[1]
        state.withLock { $0.sockets[worker] = socket }
        tell(.spawned(worker, pid: 1, uid: 1, cgroup: "none", hasEgress: false), [ends[0], out[0], error[0]])
        Thread.detachNewThread {
            let cause = self.serve(socket)
            self.state.withLock { $0.sockets[worker] = nil }
            close(socket)
            self.tell(.exited(worker, cause, Usage()))
        }
    }

    // MARK: the worker

    private func serve(_ socket: CInt) -> DeathCause {
        var hello = Frame(.hello)
        hello.add(.protocolVersion, workerProtocolVersion)
        send(hello, socket)
        var decoder = FrameDecoder()
        var function = ""
        var heard: [String] = []
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe recv(socket, &bytes, bytes.count, 0)
            guard count > 0 else { return .killed }
            decoder.feed(Array(bytes.prefix(count)))
            while let frame = try? decoder.next() {
                switch frame.kind {
                case .initialize:
                    function = String((frame.text(.function) ?? "").split(separator: "/").last ?? "")
                    if function == "eager" {
                        for kind in [FrameKind.call, .emit] { send(question(kind), socket) }
                        continue
                    }
                    send(function == "broken" ? fault(.initError, 0, "SyntaxError", "line 1") : Frame(.ready), socket)
                case .callResult where function == "caller":
                    var result = Frame(.result)
                    let request = frame.integer(.request, as: UInt32.self) ?? 0
                    result.add(.body, Array("\(request) \(frame.text(.outcome) ?? "") \(frame.text(.errorMessage) ?? "")".utf8))
                    send(result, socket)
                case .callResult, .emitResult:
                    heard.append("\(frame.kind) \(frame.integer(.request, as: UInt32.self) ?? 0): \(frame.text(.errorMessage) ?? "")")
                    if heard.count == 2 { send(Frame(.ready), socket) }
                case .invoke where function == "eager":
                    var result = Frame(.result, slot: frame.slot)
                    result.add(.body, Array(heard.joined(separator: "\n").utf8))
                    send(result, socket)
                case .invoke:
                    state.withLock { $0.invoked.append(function) }
                    if let cause = answer(frame, function, socket) { return cause }
                case .cancel: state.withLock { $0.cancelled.append(function) }
                case .drain: return .exited(code: 0)
                default: break
                }
            }
        }
    }

    /// Nil where the worker lives on.
    private func answer(_ frame: Frame, _ function: String, _ socket: CInt) -> DeathCause? {
        let body = frame.bytes(.body) ?? []
        let text = String(decoding: body, as: UTF8.self)
        var result = Frame(.result, slot: frame.slot)
        switch function {
        case "fail": send(fault(.error, frame.slot, "ValueError", "no such thing"), socket)
        case "later":
            var later = Frame(.retryLater, slot: frame.slot)
            later.add(.after, UInt32(3))
            send(later, socket)
        case "hang": break
        case "caller":
            for request in 0..<65 {
                var call = Frame(.call, slot: frame.slot)
                call.add(.request, UInt32(request))
                call.add(.target, "hang")
                call.add(.body, [])
                send(call, socket)
            }
        case "deaf":
            // Reads one invocation and answers for ever, until it is ended.
            let bytes = result.encoded()
            while unsafe Glibc.send(socket, bytes, bytes.count, CInt(MSG_NOSIGNAL)) > 0 { usleep(1000) }
            return .killed
        case "partial":
            state.withLock { $0.bodies.append(text) }
            let records = (try? JSONSerialization.jsonObject(with: Data(body)) as? [String: [[String: Any]]])?["Records"] ?? []
            let failed = records.filter { ($0["body"] as? String)?.contains("bad") == true }.compactMap { $0["messageId"] as? String }
            let items = failed.map { #"{"itemIdentifier":"\#($0)"}"# }.joined(separator: ",")
            result.add(.body, Array((verdict.withLock { $0 } ?? #"{"batchItemFailures":[\#(items)]}"#).utf8))
            send(result, socket)
        case "crash": return .signalled(11)
        case "oom": return .outOfMemory(limit: 64 << 20, peak: 64 << 20)
        case "filtered": return .syscall(number: 101, name: "ptrace", native: true)
        case "status":
            // Whatever follows the head must never be taken for the next answer.
            result.add(.status, UInt16(text) ?? 0)
            result.add(.body, Array("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged".utf8))
            send(result, socket)
        case "request":
            result.add(.contentType, "text/plain")
            result.add(.body, Array((frame.texts(.header) + ["\(text.utf8.count)"]).joined(separator: "\n").utf8))
            send(result, socket)
        case "shaped":
            // What the body of the request says, whatever its event looks like.
            let wanted = (try? JSONSerialization.jsonObject(with: Data(body)) as? [String: Any])?["body"] as? String
            result.add(.contentType, "application/json")
            result.add(.body, Array((wanted ?? "null").utf8))
            send(result, socket)
        case "headers":
            for line in text.split(separator: "|") { result.add(.header, String(line)) }
            result.add(.contentType, "text/plain")
            result.add(.body, Array("body".utf8))
            send(result, socket)
        case "stream":
            for part in 0..<3 {
                var chunk = Frame(.chunk, slot: frame.slot)
                if part == 0 { chunk.add(.contentType, "text/plain") }
                if part == 0, let status = UInt16(text) { chunk.add(.status, status) }
                chunk.add(.body, Array("HTTP/1.1 part \(part)\r\n".utf8))
                send(chunk, socket)
            }
            result.flags = Frame.lastFlag
            send(result, socket)
        default:
            result.add(.contentType, frame.text(.contentType) ?? "")
            result.add(.body, body)
            send(result, socket)
        }
        return nil
    }

    /// What "eager" asks before it is ready.
    private func question(_ kind: FrameKind) -> Frame {
        var frame = Frame(kind)
        frame.add(.request, UInt32(kind == .call ? 7 : 8))
        frame.add(kind == .call ? .target : .topic, "echo")
        frame.add(.body, [])
        return frame
    }

    private func fault(_ kind: FrameKind, _ slot: UInt16, _ type: String, _ message: String) -> Frame {
        var frame = Frame(kind, slot: slot)
        frame.add(.errorType, type)
        frame.add(.errorMessage, message)
        frame.add(.errorStack, "at line 7")
        return frame
    }

    private func send(_ frame: Frame, _ socket: CInt) {
        let bytes = frame.encoded()
        _ = unsafe Glibc.send(socket, bytes, bytes.count, CInt(MSG_NOSIGNAL))
    }
}
