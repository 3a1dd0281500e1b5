// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOCore
import NIOEmbedded
import Testing
import Wire

@testable import Gateway
@testable import Supervision

/// How much of the loop and of its memory the workers of a tenant get, in virtual time.
@Suite struct WorkerLinkTests {
    /// A socket that takes nothing until it is told to, and knows how often it was read.
    final class Socket: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer
        var reads = 0
        private var held: CircularBuffer<EventLoopPromise<Void>?> = []
        func read(context: ChannelHandlerContext) { reads += 1 }
        func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) { held.append(promise) }
        func take(_ count: Int = .max) { for _ in 0..<min(count, held.count) { held.removeFirst()?.succeed(()) } }
    }

    final class Worker {
        let socket = Socket()
        let channel: EmbeddedChannel
        let link: WorkerLink
        private let heard: Heard
        final class Heard {
            var frames = 0
            var reasons: [String] = []
        }
        var frames: Int { heard.frames }
        var reasons: [String] { heard.reasons }

        init(_ share: FrameShare, _ loop: EmbeddedEventLoop) throws {
            let heard = Heard()
            self.heard = heard
            link = WorkerLink(
                worker: WorkerID(1), share: share, received: { _ in heard.frames += 1 },
                broken: { reason, isFault in heard.reasons.append(isFault ? reason : "no fault") })
            channel = EmbeddedChannel(loop: loop)
            try channel.pipeline.syncOperations.addHandlers([socket, link])
        }

        func send(_ kind: FrameKind, _ count: Int) throws {
            let bytes = Frame(kind).encoded()
            var buffer = ByteBuffer()
            for _ in 0..<count { buffer.writeBytes(bytes) }
            try channel.writeInbound(buffer)
        }

        func answer(_ bytes: Int) {
            var frame = Frame(.callResult)
            frame.add(.body, [UInt8](repeating: 0, count: bytes))
            link.reply(frame)
        }

        func end() throws {
            socket.take()
            _ = try channel.finish(acceptAlreadyClosed: true)
        }
    }

    private func withWorkers(_ count: Int, _ body: ([Worker], EmbeddedEventLoop, FrameShare) throws -> Void) throws {
        let loop = EmbeddedEventLoop()
        let share = FrameShare(loop)
        let workers = try (0..<count).map { _ in try Worker(share, loop) }
        try body(workers, loop, share)
        for worker in workers { try worker.end() }
    }

    @Test("workers of a tenant that have sent much at once go in turn, a few frames each, and are read on when all is handed on")
    func turns() throws {
        try withWorkers(2) { workers, loop, _ in
            let go = FrameShare.goLimit / FrameShare.weight(.log)
            try workers[0].send(.log, 10 * go)
            try workers[1].send(.log, 2 * go)
            #expect(workers.map(\.frames) == [go, go])
            #expect(workers.map(\.socket.reads) == [0, 0])
            loop.advanceTime(by: FrameShare.pause)
            #expect(workers.map(\.frames) == [2 * go, 2 * go], "one turn is one go for each")
            var most = 0
            while workers[0].frames < 10 * go {
                let before = workers[0].frames
                loop.advanceTime(by: FrameShare.pause)
                most = max(most, workers[0].frames - before)
            }
            #expect(most == go && workers.map(\.frames) == [10 * go, 2 * go])
            loop.advanceTime(by: FrameShare.pause)
            #expect(workers.map(\.socket.reads) == [1, 1])
        }
    }

    @Test(
        "what is handed on in a tenth of a second is the tenant's, however many workers it has",
        arguments: [FrameKind.log, .call, .emit, .result])
    func rate(kind: FrameKind) throws {
        try withWorkers(4) { workers, loop, _ in
            let limit = FrameShare.periodLimit / FrameShare.weight(kind)
            for worker in workers { try worker.send(kind, limit) }
            func all() -> Int { workers.map(\.frames).reduce(0, +) }
            for _ in 0..<99 { loop.advanceTime(by: .milliseconds(1)) }
            #expect(all() == limit)
            // Another tenant's, meanwhile.
            let other = try Worker(FrameShare(loop), loop)
            try other.send(kind, 8)
            #expect(other.frames == 8)
            for _ in 0..<100 { loop.advanceTime(by: .milliseconds(1)) }
            #expect(all() == 2 * limit)
            #expect(workers.map(\.frames).min() ?? 0 >= limit / 4, "none is passed over")
            try other.end()
        }
    }

    @Test("a worker that leaves its answers unread is not read either, and goes on when it has read them")
    func behind() throws {
        try withWorkers(1) { workers, loop, _ in
            let worker = workers[0]
            worker.answer(WorkerLink.answerLimit)
            try worker.send(.call, 3)
            loop.advanceTime(by: .seconds(5))
            #expect(worker.frames == 0 && worker.socket.reads == 0)
            worker.socket.take()
            #expect(worker.frames == 3 && worker.socket.reads == 1)
            // One that reads is heard while more comes.
            worker.answer(WorkerLink.answerLimit / 2)
            try worker.send(.call, 3)
            #expect(worker.frames == 6 && worker.socket.reads == 2 && worker.reasons.isEmpty)
        }
    }

    @Test("one that then reads nothing for ten seconds is ended, one that reads slowly is not")
    func deaf() throws {
        try withWorkers(2) { workers, loop, _ in
            for worker in workers { for _ in 0..<4 { worker.answer(WorkerLink.answerLimit) } }
            loop.advanceTime(by: .seconds(9))
            workers[1].socket.take(1)
            loop.advanceTime(by: .seconds(2))
            #expect(workers[0].reasons == ["the worker has read no answer from its socket (fd 3) for 10 seconds, and 4096 KiB wait"])
            loop.advanceTime(by: .seconds(5))
            #expect(workers[1].reasons.isEmpty)
            workers[1].socket.take()
            loop.advanceTime(by: .seconds(30))
            #expect(workers[1].reasons.isEmpty)
        }
    }

    @Test("where a tenant's workers leave answers unread to the bound, none of its frames makes more")
    func full() throws {
        try withWorkers(2) { workers, loop, share in
            for _ in 0..<8 { workers[0].answer(8 << 20) }
            #expect(share.isFull)
            try workers[1].send(.result, 5)
            loop.advanceTime(by: .seconds(1))
            #expect(workers[1].frames == 0 && workers[1].socket.reads == 0)
            workers[0].socket.take(1)
            loop.advanceTime(by: FrameShare.pause)
            #expect(workers[1].frames == 5 && workers[1].socket.reads == 1)
            workers[0].socket.take()
            #expect(share.unread == 0)
        }
    }

    @Test("what a worker said before it closed its socket is heard, in turn")
    func lastWords() throws {
        try withWorkers(1) { workers, loop, _ in
            try workers[0].send(.log, 500)
            workers[0].channel.pipeline.fireChannelInactive()
            #expect(workers[0].frames < 500 && workers[0].reasons.isEmpty)
            loop.advanceTime(by: .milliseconds(10))
            #expect(workers[0].frames == 500 && workers[0].reasons == ["no fault"])
        }
    }

    @Test("a frame that is left unfinished ends the worker, also behind others that were whole")
    func unfinished() throws {
        try withWorkers(1) { workers, loop, _ in
            let bytes = Frame(.log).encoded()
            for _ in 0..<3 {
                // Always in the middle of one, but never of the same.
                let begun = workers[0].frames > 0 ? 4 : 0
                try workers[0].channel.writeInbound(ByteBuffer(bytes: bytes.dropFirst(begun) + bytes.prefix(4)))
                loop.advanceTime(by: .seconds(8))
            }
            #expect(workers[0].frames == 3 && workers[0].reasons.isEmpty)
            loop.advanceTime(by: .seconds(3))
            #expect(workers[0].reasons == ["the worker left a frame unfinished for 10 seconds"])
        }
    }

    @Test("an invocation may wait for 64 calls; the next is refused at once")
    func openCalls() async throws {
        try await TestNode.withNode { node, _ async throws in
            try await node.supervisor.onLoop { state in
                guard let tenant = Name("acme") else { return }
                let limits = GroupLimits(memoryBytes: 64 << 30, cpuMilli: 1000, processes: 10_000)
                state.configure(TenantSpec(tenant: tenant, concurrency: 3, queue: 200, limits: limits))
            }
            let answer = try await node.invoke("caller")
            #expect(answer.text == "64 throttled one invocation may wait for 64 calls at a time, which it does: nothing was sent")
        }
    }

    @Test("a worker that answers what it has not read is ended, and gets no more of what it does not read")
    func unreadInvocation() async throws {
        try await TestNode.withNode { node, _ async throws in
            let body = String(repeating: "x", count: 60 << 10)
            var ends: [String] = []
            // A few fit into the socket.
            while ends.count < 20, ends.allSatisfy({ $0.isEmpty }) {
                ends.append(try await node.invoke("deaf", body: body).problem?.detail ?? "")
            }
            #expect(ends.last?.contains("answered an invocation that it has not read") == true, "\(ends)")
        }
    }
}
