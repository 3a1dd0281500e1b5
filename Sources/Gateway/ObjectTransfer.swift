// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import NIOCore
import Synchronization

/// An object on its way to the disk, written on a queue of its own. What waits for the disk is bounded: whoever sends has to pause.
final class ObjectUpload: Sendable {
    /// Bytes that may wait for the disk before the sender pauses, and those with which it goes on.
    private static let high = 1 << 20
    private static let low = 256 << 10

    private enum Sink {
        case unopened
        case open(any ObjectSink)
        case failed(Problem)
        case ended
    }
    private let queue = DispatchQueue(label: "bulkhead.object")
    private let waiting = Mutex<(bytes: Int, isPaused: Bool)>((0, false))
    private let sink = Mutex(Sink.unopened)
    private let target: ObjectTarget
    private let progress: @Sendable (Problem?) -> Void

    /// - Parameter progress: called on any thread: with a problem once the object cannot be stored any more, without one when a paused sender may go on.
    init(_ target: ObjectTarget, length: UInt64?, _ service: any NodeService, progress: @escaping @Sendable (Problem?) -> Void) {
        self.target = target
        self.progress = progress
        perform { _ in .open(try service.writeObject(target.bucket, target.key, length: length)) }
    }

    private func perform(_ body: @escaping @Sendable (Sink) throws -> Sink) {
        queue.async {
            let problem = self.sink.withLock { sink -> Problem? in
                switch sink {
                case .failed, .ended: return nil
                case .unopened, .open: break
                }
                do {
                    sink = try body(sink)
                    return nil
                } catch {
                    if case .open(let open) = sink { open.cancel() }
                    let problem = ControlAnswer.asProblem(error)
                    sink = .failed(problem)
                    return problem
                }
            }
            if let problem { self.progress(problem) }
        }
    }

    /// Whether more may be sent at once.
    func write(_ part: ByteBuffer) -> Bool {
        let count = part.readableBytes
        let isPaused = waiting.withLock { waiting in
            waiting.bytes += count
            waiting.isPaused = waiting.isPaused || waiting.bytes > Self.high
            return waiting.isPaused
        }
        perform { sink in
            if case .open(let open) = sink { try open.write(Array(part.readableBytesView)) }
            return sink
        }
        queue.async {
            let mayGoOn = self.waiting.withLock { waiting in
                waiting.bytes -= count
                guard waiting.isPaused, waiting.bytes <= Self.low else { return false }
                waiting.isPaused = false
                return true
            }
            if mayGoOn { self.progress(nil) }
        }
        return !isPaused
    }

    func cancel() {
        perform { sink in
            if case .open(let open) = sink { open.cancel() }
            return .ended
        }
    }

    /// Makes the object durable and visible.
    func commit() async -> ControlAnswer {
        await withCheckedContinuation { continuation in
            queue.async {
                let answer = self.sink.withLock { sink -> ControlAnswer in
                    defer { sink = .ended }
                    switch sink {
                    case .failed(let problem): return ControlAnswer(problem)
                    case .unopened, .ended: return ControlAnswer(.storage("the object is lost"))
                    case .open(let open):
                        do {
                            let object = try open.commit()
                            var answer = ControlAnswer(json: object, status: 201)
                            answer.headers.append(("ETag", object.etag))
                            return answer
                        } catch {
                            open.cancel()
                            return ControlAnswer(failure: error)
                        }
                    }
                }
                continuation.resume(returning: answer)
            }
        }
    }
}

/// An object on its way to a caller: one part is read when the one before is out.
final class ObjectDownload: Sendable {
    static let part = 256 << 10

    private let queue: DispatchQueue
    private let source: any ObjectSource
    private let offset = Mutex<UInt64>(0)
    var object: ObjectReply { source.object }

    private init(_ source: any ObjectSource, _ queue: DispatchQueue) {
        self.source = source
        self.queue = queue
    }

    /// - Parameter done: called on a thread that may block.
    static func open(
        _ target: ObjectTarget, _ service: any NodeService, done: @escaping @Sendable (Result<ObjectDownload, Problem>) -> Void
    ) {
        let queue = DispatchQueue(label: "bulkhead.object")
        queue.async {
            do { done(.success(ObjectDownload(try service.readObject(target.bucket, target.key), queue))) } catch {
                done(.failure(ControlAnswer.asProblem(error)))
            }
        }
    }

    /// The next part; empty at the end, nil where it cannot be read or became shorter than it was.
    func next(_ done: @escaping @Sendable ([UInt8]?) -> Void) {
        queue.async {
            let at = self.offset.withLock { $0 }
            let left = self.object.size - at
            guard left > 0 else { return done([]) }
            let bytes = (try? self.source.read(at: at, limit: Int(min(UInt64(Self.part), left)))) ?? []
            self.offset.withLock { $0 += UInt64(bytes.count) }
            done(bytes.isEmpty ? nil : bytes)
        }
    }
}
