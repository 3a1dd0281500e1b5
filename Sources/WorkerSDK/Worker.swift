// SPDX-License-Identifier: Apache-2.0
public import Core
import Glibc
import Wire

/// An event that a function is called with.
public struct Event: Sendable {
    /// The body, as it came.
    public let body: [UInt8]
    public let contentType: String
    /// Of a request to an HTTP route of shape `bulkhead`: `name: value`, names in lower case; before them `:method`, `:path`, `:query`, `:source` and, where the
    /// route ends with `*`, `:rest`. Else empty.
    public let headers: [String]
    /// The body as text; nil where it is not UTF-8.
    public var text: String? { String(validating: body, as: UTF8.self) }
}

/// What a function answers.
public struct Answer: Sendable {
    public var body: [UInt8]
    public var contentType: String
    /// An HTTP status, where the function chooses one.
    public var status: UInt16?
    public init(_ body: [UInt8], contentType: String = "application/octet-stream", status: UInt16? = nil) {
        self.body = body
        self.contentType = contentType
        self.status = status
    }
    public init(text: String, contentType: String = "text/plain; charset=utf-8") { self.init(Array(text.utf8), contentType: contentType) }
}

/// Thrown by a handler that wants the same event again after so many seconds.
public struct RetryLater: Error, Sendable {
    public let seconds: UInt32
    public init(seconds: UInt32) { self.seconds = seconds }
}

/// A call of another function that did not end well.
public struct CallError: Error, Sendable, CustomStringConvertible {
    public let outcome: Outcome
    public let description: String
}

/// What a handler may know and do beside its event.
public struct Context: ~Copyable {
    /// 32 hexadecimal digits.
    public let requestID: String
    /// `tenant/function`.
    public let function: String
    public let version: UInt32
    /// Bytes.
    public let memoryLimit: UInt64
    /// From 1.
    public let attempt: UInt32
    /// Milliseconds since 1970.
    public let deadline: UInt64
    /// The place in the caller's trace (W3C Trace Context), to be handed on with requests; empty where there is no trace.
    public let traceparent: String
    let slot: UInt16
    let connection: Connection

    /// Milliseconds until the supervisor cancels this invocation.
    public var remainingTime: UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        let now = UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
        return deadline > now ? deadline - now : 0
    }

    /// A structured line of the log. 0 debug, 1 info, 2 warning, 3 error.
    public func log(_ message: String, level: UInt8 = 1) {
        var frame = Frame(.log, slot: slot)
        frame.add(.level, level)
        frame.add(.message, message)
        connection.send(frame)
    }

    /// Invokes another function of the tenant and waits for its answer. Throws ``CallError``.
    public func call(_ target: String, _ body: [UInt8], contentType: String = "application/octet-stream") throws -> [UInt8] {
        let request = connection.nextRequest()
        var frame = Frame(.call, slot: slot)
        frame.add(.request, request)
        frame.add(.target, target)
        frame.add(.mode, UInt8(0))
        frame.add(.contentType, contentType)
        frame.add(.body, body)
        connection.send(frame)
        while let reply = connection.receive() {
            guard reply.kind == .callResult, reply.integer(.request, as: UInt32.self) == request else { continue }
            let outcome = reply.text(.outcome).flatMap(Outcome.init(rawValue:)) ?? .internal
            guard outcome == .ok else { throw CallError(outcome: outcome, description: reply.text(.errorMessage) ?? outcome.rawValue) }
            return Array(reply.bytes(.body) ?? [])
        }
        throw CallError(outcome: .cancelled, description: "the supervisor is gone")
    }
}

/// The worker's end of the protocol: blocking, one invocation at a time, nothing but libc below it.
public enum Worker {
    /// Serves until the supervisor drains the worker or closes. What `handler` throws is the function's error.
    public static func run(_ handler: (Event, borrowing Context) throws -> Answer) {
        let connection = Connection()
        var hello = Frame(.hello)
        hello.add(.protocolVersion, workerProtocolVersion)
        hello.add(.runtime, "swift")
        hello.add(.pid, UInt32(getpid()))
        connection.send(hello)
        var function = ""
        var version: UInt32 = 0
        var memory: UInt64 = 0
        while let frame = connection.receive() {
            switch frame.kind {
            case .initialize:
                function = frame.text(.function) ?? ""
                version = frame.integer(.version) ?? 0
                memory = frame.integer(.memoryLimit) ?? 0
                for pair in frame.texts(.environment) + frame.texts(.secret) {
                    let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                    if sides.count == 2 { unsafe setenv(String(sides[0]), String(sides[1]), 1) }
                }
                var ready = Frame(.ready)
                ready.add(.initTime, UInt64(0))
                connection.send(ready)
            case .invoke:
                let context = Context(
                    requestID: frame.text(.invocation) ?? "", function: function, version: version, memoryLimit: memory,
                    attempt: frame.integer(.attempt) ?? 1, deadline: frame.integer(.deadline) ?? 0,
                    traceparent: frame.text(.traceparent) ?? "", slot: frame.slot, connection: connection)
                connection.send(answer(frame, context, handler))
            case .drain: return
            default: break
            }
        }
    }

    private static func answer(_ frame: Frame, _ context: borrowing Context, _ handler: (Event, borrowing Context) throws -> Answer)
        -> Frame
    {
        do {
            let event = Event(
                body: Array(frame.bytes(.body) ?? []), contentType: frame.text(.contentType) ?? "", headers: frame.texts(.header))
            let answer = try handler(event, context)
            guard answer.body.count <= Frame.maximumBody else {
                return fault(
                    "AnswerTooLarge", "the answer has \(answer.body.count) bytes, at most \(Frame.maximumBody) are allowed", frame.slot)
            }
            var reply = Frame(.result, slot: frame.slot)
            reply.add(.contentType, answer.contentType)
            if let status = answer.status { reply.add(.status, status) }
            reply.add(.body, answer.body)
            return reply
        } catch let later as RetryLater {
            var reply = Frame(.retryLater, slot: frame.slot)
            reply.add(.after, later.seconds)
            return reply
        } catch {
            return fault("\(type(of: error))", "\(error)", frame.slot)
        }
    }

    private static func fault(_ type: String, _ message: String, _ slot: UInt16) -> Frame {
        var reply = Frame(.error, slot: slot)
        reply.add(.errorType, type)
        reply.add(.errorMessage, String(message.prefix(16_384)))
        return reply
    }
}

/// fd 3, blocking.
final class Connection {
    private var decoder = FrameDecoder()
    private var requests: UInt32 = 0
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)

    func nextRequest() -> UInt32 {
        requests &+= 1
        return requests
    }

    /// Ends the process where the supervisor is gone: nobody is left to work for.
    func send(_ frame: Frame) {
        let bytes = frame.encoded()
        var at = 0
        while at < bytes.count {
            let count = unsafe bytes[at...].withUnsafeBytes { unsafe Glibc.send(3, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { exit(1) }
            at += count
        }
    }

    /// The next frame; nil at the end. Ends the process where the supervisor breaks the protocol: nothing after that can be understood.
    func receive() -> Frame? {
        while true {
            do throws(WireError) {
                if let frame = try decoder.next() {
                    guard !frame.kind.isFromWorker else { throw WireError("a frame that only a worker may send (\(frame.kind))") }
                    return frame
                }
            } catch {
                let line = Array("the supervisor broke the worker protocol: \(error)\n".utf8)
                _ = unsafe write(2, line, line.count)
                exit(1)
            }
            let count = unsafe read(3, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return nil }
            decoder.feed(Array(buffer.prefix(count)))
        }
    }
}
