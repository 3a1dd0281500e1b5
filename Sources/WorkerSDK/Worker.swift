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
    /// Nothing more than what ``Context/send(chunk:contentType:)`` has sent.
    public static let streamed = Answer([])
}

/// Thrown by a handler that wants the same event again after so many seconds.
public struct RetryLater: Error, Sendable {
    public let seconds: UInt32
    public init(seconds: UInt32) { self.seconds = seconds }
}

/// Thrown where the supervisor wants the invocation to stop: at its deadline, or because its caller has left. A handler that lets it pass has answered it.
public struct Cancelled: Error, Sendable, CustomStringConvertible {
    public let description = "the invocation was cancelled"
    public init() {}
}

/// A call of another function, or an event, that did not end well.
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

    /// Of one invocation; outside of one, `invocation` is a frame without fields.
    init(_ invocation: Frame, _ assignment: Frame, _ connection: Connection) {
        requestID = invocation.text(.invocation) ?? ""
        function = assignment.text(.function) ?? ""
        version = assignment.integer(.version) ?? 0
        memoryLimit = assignment.integer(.memoryLimit) ?? 0
        attempt = invocation.integer(.attempt) ?? 1
        deadline = invocation.integer(.deadline) ?? 0
        traceparent = invocation.text(.traceparent) ?? ""
        slot = invocation.slot
        self.connection = connection
    }

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

    /// Whether the supervisor wants this invocation to stop. Half a second later the worker is killed, so ask in every long loop.
    public var isCancelled: Bool { connection.isCancelled }

    /// Throws ``Cancelled`` where ``isCancelled``.
    public func checkCancellation() throws {
        if isCancelled { throw Cancelled() }
    }

    /// Sends a part of the answer at once. `contentType` counts with the first part. The ``Answer`` that the handler returns afterwards is the last part:
    /// ``Answer/streamed`` where nothing is left to say.
    public func send(chunk: [UInt8], contentType: String = "application/octet-stream") {
        for start in stride(from: 0, to: chunk.count, by: Connection.chunkSize) {
            var frame = Frame(.chunk, slot: slot)
            if !connection.hasStreamed { frame.add(.contentType, contentType) }
            frame.add(.body, chunk[start..<min(start + Connection.chunkSize, chunk.count)])
            connection.hasStreamed = true
            connection.send(frame)
        }
    }

    /// Invokes another function of the tenant and waits for its answer. Throws ``CallError``, or ``Cancelled`` where this invocation is cancelled meanwhile.
    public func call(_ target: String, _ body: [UInt8], contentType: String = "application/octet-stream") throws -> [UInt8] {
        Array(try connection.ask(callFrame(target, mode: 0, body, contentType), result: .callResult).bytes(.body) ?? [])
    }

    /// Leaves a call of another function to the supervisor, which keeps it until it is done, and returns the event's id. Throws as ``call(_:_:contentType:)``.
    public func callAsync(_ target: String, _ body: [UInt8], contentType: String = "application/octet-stream") throws -> String {
        try connection.ask(callFrame(target, mode: 1, body, contentType), result: .callResult).text(.event) ?? ""
    }

    /// Publishes an event on a topic of the tenant and returns the event's id. Throws as ``call(_:_:contentType:)``.
    public func emit(_ topic: String, _ body: [UInt8], contentType: String = "application/octet-stream") throws -> String {
        var frame = Frame(.emit, slot: slot)
        frame.add(.topic, topic)
        frame.add(.contentType, contentType)
        frame.add(.body, body)
        return try connection.ask(frame, result: .emitResult).text(.event) ?? ""
    }

    private func callFrame(_ target: String, mode: UInt8, _ body: [UInt8], _ contentType: String) -> Frame {
        var frame = Frame(.call, slot: slot)
        frame.add(.target, target)
        frame.add(.mode, mode)
        frame.add(.contentType, contentType)
        frame.add(.body, body)
        return frame
    }
}

/// The worker's end of the protocol: blocking, one invocation at a time, nothing but libc below it.
public enum Worker {
    /// Serves until the supervisor drains the worker or closes. What `handler` throws is the function's error.
    /// - Parameters:
    ///   - initializer: Called once, when the environment is set and before the first invocation. What it throws is why the function cannot be started.
    ///   - preStop: Called once, before a worker that is drained ends.
    ///   - handler: Called for each invocation, one at a time.
    public static func run(
        initializer: (borrowing Context) throws -> Void = { _ in }, preStop: (borrowing Context) -> Void = { _ in },
        _ handler: (Event, borrowing Context) throws -> Answer
    ) {
        let connection = Connection()
        var hello = Frame(.hello)
        hello.add(.protocolVersion, workerProtocolVersion)
        hello.add(.runtime, "swift")
        hello.add(.pid, UInt32(getpid()))
        connection.send(hello)
        var assignment = Frame(.initialize)
        while let frame = connection.receive() {
            switch frame.kind {
            case .initialize:
                assignment = frame
                guard initialize(Context(Frame(.invoke), assignment, connection), frame, initializer) else { return }
            case .invoke:
                connection.begin(frame.slot)
                connection.send(answer(frame, Context(frame, assignment, connection), handler))
            case .drain:
                // What it asks is answered, also where the last invocation was cancelled.
                connection.begin(0)
                return preStop(Context(Frame(.invoke), assignment, connection))
            default: break
            }
        }
    }

    /// False where the function cannot be started.
    private static func initialize(_ context: borrowing Context, _ frame: Frame, _ initializer: (borrowing Context) throws -> Void) -> Bool
    {
        for pair in frame.texts(.environment) + frame.texts(.secret) {
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if sides.count == 2 { unsafe setenv(String(sides[0]), String(sides[1]), 1) }
        }
        let begin = ContinuousClock.now
        do { try initializer(context) } catch {
            context.connection.send(fault("\(type(of: error))", "\(error)", 0, kind: .initError))
            return false
        }
        let took = begin.duration(to: .now).components
        var ready = Frame(.ready)
        ready.add(.initTime, UInt64(took.seconds) * 1_000_000 + UInt64(took.attoseconds / 1_000_000_000_000))
        context.connection.send(ready)
        return true
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
            if context.connection.hasStreamed {
                context.send(chunk: answer.body)
                return Frame(.result, slot: frame.slot, flags: Frame.lastFlag)
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

    private static func fault(_ type: String, _ message: String, _ slot: UInt16, kind: FrameKind = .error) -> Frame {
        var reply = Frame(kind, slot: slot)
        reply.add(.errorType, type)
        reply.add(.errorMessage, String(message.prefix(16_384)))
        return reply
    }
}
