// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Wire

/// fd 3, blocking.
final class Connection {
    /// The most bytes of a stream in one frame.
    static let chunkSize = 1 << 20
    private var decoder = FrameDecoder()
    private var requests: UInt32 = 0
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)
    /// Frames that came while a handler waited for another one, in their order.
    private var waiting: [Frame] = []
    private var slot: UInt16 = 0
    private var hasCancel = false
    /// Parts of the running invocation's answer have been sent.
    var hasStreamed = false

    /// An invocation runs from here on.
    func begin(_ slot: UInt16) {
        self.slot = slot
        hasCancel = false
        hasStreamed = false
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

    /// The next frame; nil at the end.
    func receive() -> Frame? { waiting.isEmpty ? read() : waiting.removeFirst() }

    /// Sends a question of the running invocation and waits for the answer to it.
    func ask(_ question: Frame, result: FrameKind) throws -> Frame {
        if hasCancel { throw Cancelled() }
        requests &+= 1
        // The number goes before the body, which is the last field.
        var frame = Frame(question.kind, slot: question.slot)
        frame.add(.request, requests)
        frame.fields += question.fields
        send(frame)
        while !hasCancel {
            guard let reply = read() else { exit(0) }
            guard reply.kind == result, reply.integer(.request, as: UInt32.self) == requests else {
                keep(reply)
                continue
            }
            let outcome = reply.text(.outcome).flatMap(Outcome.init(rawValue:)) ?? .internal
            guard outcome == .ok else { throw CallError(outcome: outcome, description: reply.text(.errorMessage) ?? outcome.rawValue) }
            return reply
        }
        throw Cancelled()
    }

    /// Whether the running invocation is cancelled. Takes in whatever is there, without waiting.
    var isCancelled: Bool {
        var watched = pollfd(fd: 3, events: Int16(POLLIN), revents: 0)
        while !hasCancel {
            if let frame = buffered() {
                keep(frame)
            } else {
                guard unsafe poll(&watched, 1, 0) == 1 else { break }
                if !fill() { exit(0) }
            }
        }
        return hasCancel
    }

    /// What came while a handler runs: a cancel is noted, the answer to a question that was given up is forgotten, and the rest waits its turn.
    private func keep(_ frame: Frame) {
        switch frame.kind {
        case .cancel: if frame.slot == slot { hasCancel = true }
        case .callResult, .emitResult: break
        default: waiting.append(frame)
        }
    }

    private func read() -> Frame? {
        while true {
            if let frame = buffered() { return frame }
            if !fill() { return nil }
        }
    }

    /// Reads what is there, waiting for the first of it; false at the end. Waits by poll(2) and not by read(2), which the kernel wakes for room to write as well: each
    /// time that the supervisor takes an answer from the socket.
    private func fill() -> Bool {
        var readable = pollfd(fd: 3, events: Int16(POLLIN), revents: 0)
        while true {
            if unsafe poll(&readable, 1, -1) < 0, errno == EINTR { continue }
            let count = unsafe Glibc.read(3, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            decoder.feed(Array(buffer.prefix(count)))
            return true
        }
    }

    /// The next frame that has been read whole. Ends the process where the supervisor breaks the protocol: nothing after that can be understood.
    private func buffered() -> Frame? {
        do throws(WireError) {
            guard let frame = try decoder.next() else { return nil }
            guard !frame.kind.isFromWorker else { throw WireError("a frame that only a worker may send (\(frame.kind))") }
            return frame
        } catch {
            let line = Array("the supervisor broke the worker protocol: \(error)\n".utf8)
            _ = unsafe write(2, line, line.count)
            exit(1)
        }
    }
}
