// SPDX-License-Identifier: Apache-2.0
public import Core
public import NIOCore

/// What a caller wants run, parsed at the border.
public struct InvocationOrder: Sendable {
    public var version: VersionID
    public var body: ByteBuffer
    public var contentType: String
    /// Kind of the trigger: `http`, `call` ...
    public var trigger: String
    /// Shortens the function's own timeout.
    public var timeout: Nanoseconds?
    public var traceparent: String
    /// Whether the caller wants the end of the log with the answer.
    public var wantsLog: Bool
    /// How many function-to-function calls lead to this one.
    public var depth: Int
    /// The end user by the tenant's rule and by the function's; nil where there is no rule.
    public var tenantUser: String?
    public var functionUser: String?
    /// What it runs under; nil for a new one.
    public var id: InvocationID?
    /// What an HTTP route tells of its request beside the body, as `name: value`; a name that begins with `:` is ours and no header's.
    public var headers: [String] = []
    /// The trigger that the call came through, by name; ``TriggerSpec/direct`` for a caller's own.
    public var through = TriggerSpec.direct
    /// The lineage of the invocation that causes this one and waits for it; nil at the beginning of a tree.
    public var cause: Lineage?
    /// Set where this is a run of a durable event, which was admitted when it was accepted.
    var event: EventRun?
    /// The alias that chose the version between two; nil where there was nothing to choose.
    public var alias: Name?

    public init(
        version: VersionID, body: ByteBuffer, contentType: String = "", trigger: String = "http", timeout: Nanoseconds? = nil,
        traceparent: String = "", wantsLog: Bool = false, depth: Int = 0, tenantUser: String? = nil, functionUser: String? = nil
    ) {
        self.version = version
        self.body = body
        self.contentType = contentType
        self.trigger = trigger
        self.timeout = timeout
        self.traceparent = traceparent
        self.wantsLog = wantsLog
        self.depth = depth
        self.tenantUser = tenantUser
        self.functionUser = functionUser
    }

    /// The longest chain of function-to-function calls. Every link holds a seat while it waits, so a chain is bounded before seats are.
    public static let maximumDepth = 16
}

/// The function's own answer.
public struct FunctionAnswer: Sendable {
    /// An HTTP status, where the function chose one.
    public var status: UInt16?
    public var contentType: String
    /// `name: value` pairs that the function set.
    public var headers: [String]
    public var body: ByteBuffer
    /// Whether the body went before, as chunks.
    public var isStreamed: Bool
}

/// What the user's code reported as an error. As much is kept as helps somebody who reads it: a frame may bring megabytes, and this is written into logs and answers on the loop that
/// serves everybody.
public struct FunctionFault: Sendable, Hashable {
    public var type: String
    public var message: String
    public var stack: String
    /// The function asks to be called again after so many seconds.
    public var retryAfter: UInt32?
    public init(type: String, message: String, stack: String, retryAfter: UInt32? = nil) {
        self.type = Self.cut(type, Self.typeLimit)
        self.message = Self.cut(message, Self.messageLimit)
        self.stack = Self.cut(stack, Self.stackLimit)
        self.retryAfter = retryAfter
    }

    /// What is kept of each, in bytes.
    public static let typeLimit = 256
    public static let messageLimit = 16 << 10
    public static let stackLimit = 64 << 10

    private static func cut(_ text: String, _ limit: Int) -> String {
        text.utf8.count > limit ? String(decoding: text.utf8.prefix(limit), as: UTF8.self) : text
    }
}

/// One run of a durable event.
struct EventRun: Sendable {
    /// The event's, kept over all its runs.
    var id: InvocationID
    /// From 1.
    var attempt: UInt32
    var lineage: Lineage
    var service: ServiceClass
}

/// How one invocation ended, with what the caller may know.
public struct InvocationReport: Sendable {
    public var id: InvocationID
    public var version: VersionID
    public var verdict: Verdict
    public var answer: FunctionAnswer?
    public var fault: FunctionFault?
    public var worker: WorkerID?
    public var start: StartKind?
    /// From arrival to the answer.
    public var duration: Nanoseconds
    /// From dispatch to the answer: what is charged for.
    public var billed: Nanoseconds
    /// The last lines of the log, where the caller asked for them.
    public var logTail: [String]

    /// The word of the outcome taxonomy.
    public var outcome: Outcome { verdict.outcome }
}

/// Who hears of an invocation. Called on the supervisor's event loop.
public struct InvocationObserver: Sendable {
    /// The head of a streamed answer: status, content type, headers. Called once, before the first chunk.
    public var began: @Sendable (FunctionAnswer) -> Void
    /// False where the reader is behind: the worker is then not read until ``Supervisor/resume(_:)``.
    public var chunk: @Sendable (ByteBuffer) -> Bool
    /// The end, exactly once.
    public var ended: @Sendable (InvocationReport) -> Void

    public init(
        began: @escaping @Sendable (FunctionAnswer) -> Void = { _ in }, chunk: @escaping @Sendable (ByteBuffer) -> Bool = { _ in true },
        ended: @escaping @Sendable (InvocationReport) -> Void
    ) {
        self.began = began
        self.chunk = chunk
        self.ended = ended
    }
}
