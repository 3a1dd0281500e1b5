// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Glibc
import Kernel
import NIOCore
import NIOHTTP1
import Supervision
import Synchronization

/// What callers of one sort have in the node's memory at a time, over all connections, in bytes; all of it together is bounded, and what one tenant has.
final class OpenBodies: Sendable {
    /// Of callers without a key: nobody vouches for them.
    static let limit = 256 << 20
    /// Of one tenant's functions, lest the slow ones of one keep out the callers of all.
    static let share = 64 << 20
    /// What one connection may have uncounted where its caller has shown a key. Small calls cost no look at the others and work where the large ones have no room.
    static let free = 16 << 10
    /// After so much at once memory is given back to the machine: the allocator would keep it.
    private static let peak = 64 << 20
    private static let pause = DispatchTimeInterval.seconds(5)

    private struct Counts {
        var all = 0
        var tenants: [Name?: Int] = [:]
        var most = 0
        var isTrimming = false
    }
    let limit: Int
    let share: Int
    private let bytes = Mutex(Counts())

    init(limit: Int = OpenBodies.limit, share: Int = OpenBodies.share) {
        self.limit = limit
        self.share = share
    }

    var count: Int { bytes.withLock { $0.all } }

    func hasRoom(_ count: Int, _ tenant: Name?) -> Bool { bytes.withLock { fits(count, $0.all, $0.tenants[tenant] ?? 0) } }

    private func fits(_ count: Int, _ all: Int, _ own: Int) -> Bool { count <= limit - all && count <= share - own }

    /// `tenant` nil: nobody's, whose share is one together.
    func reserve(_ count: Int, _ tenant: Name?) -> Bool {
        bytes.withLock { bytes in
            let own = bytes.tenants[tenant] ?? 0
            guard fits(count, bytes.all, own) else { return false }
            bytes.all += count
            bytes.most = max(bytes.most, bytes.all)
            bytes.tenants[tenant] = own + count
            return true
        }
    }

    func release(_ count: Int, _ tenant: Name?) {
        let isOver = bytes.withLock { bytes in
            bytes.all -= count
            let own = (bytes.tenants[tenant] ?? 0) - count
            bytes.tenants[tenant] = own > 0 ? own : nil
            guard bytes.most > Self.peak, bytes.all < bytes.most / 4, !bytes.isTrimming else { return false }
            bytes.isTrimming = true
            return true
        }
        if isOver { trim() }
    }

    /// Later and beside the loop: it takes its time, and a peak seldom comes alone.
    private func trim() {
        DispatchQueue.global(qos: .utility).asyncAfter(deadline: .now() + Self.pause) { [self] in
            OwnUse.giveMemoryBack()
            bytes.withLock { ($0.most, $0.isTrimming) = ($0.all, false) }
        }
    }
}

/// The room that requests and answers have in the node's memory.
struct BodyRoom: Sendable {
    /// Bodies of callers without a key.
    let anybody = OpenBodies()
    /// Bodies of callers with one.
    let known: OpenBodies
    /// Answers that their callers have not taken yet: of callers with a key, and of others, who must not keep those from theirs.
    let answers: OpenBodies
    let publicAnswers: OpenBodies

    /// - Parameter memory: the machine's. An eighth of it, 1 GiB at most; one tenant a quarter of that, 16 MiB at least, which is more than the largest body or answer.
    init(memory: Int = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))) {
        let limit = max(64 << 20, min(1 << 30, memory / 8))
        known = OpenBodies(limit: limit, share: max(16 << 20, limit / 4))
        answers = OpenBodies(limit: limit, share: max(16 << 20, limit / 4))
        publicAnswers = OpenBodies(limit: limit / 2, share: max(16 << 20, limit / 8))
    }
}

/// Who answers for bytes that one connection has in memory, and how many have room by now.
struct BodyPayer {
    let room: OpenBodies
    let tenant: Name?
    /// What needs no room.
    var free = OpenBodies.free
    private(set) var bytes = 0

    init(anybody room: BodyRoom, of tenant: Name?) {
        (self.room, self.tenant) = (room.anybody, tenant)
        free = 0
    }

    init(_ room: OpenBodies, _ tenant: Name) { (self.room, self.tenant) = (room, tenant) }

    /// Whether a body of so many bytes would have room now.
    func hasRoom(_ count: Int) -> Bool { count <= free || room.hasRoom(count, tenant) }

    /// Takes room for `count` bytes altogether; false, with nothing taken, where there is none.
    mutating func reserve(_ count: Int) -> Bool {
        guard count > free, count > bytes else { return true }
        guard room.reserve(count - bytes, tenant) else { return false }
        bytes = count
        return true
    }

    mutating func release() {
        if bytes > 0 { room.release(bytes, tenant) }
        bytes = 0
    }
}

extension Problem {
    static let tooManyBodies = noRoom("the bodies of callers without a key have no room now: send it again in a second")
    static let tooManyOwnBodies = noRoom("the bodies of this tenant's requests, or of all, have no room now: send it again in a second")
    static let tooManyAnswers = noRoom(
        "the answer has no room: too many of this tenant's answers, or of all, are not read by their callers")

    private static func noRoom(_ detail: String) -> Problem {
        var problem = Problem(code: Outcome.overloaded.rawValue, title: "The node is at its limit", status: 503, detail: detail)
        problem.retryAfter = 1
        return problem
    }
}

/// Nothing of a request is kept, and no answer queued, that has no room.
extension HTTPHandler {
    /// Begins to keep the body of the request at hand, unless its room is known to be too small. Only a look: a place is taken as the bytes come, so that who sends none
    /// keeps nobody out. `payer` nil: an operator's.
    func collect(_ head: HTTPRequestHead, _ context: ChannelHandlerContext, limit: Int, _ target: Target, _ payer: BodyPayer?) {
        let length = announcedBody ?? 0
        guard payer?.hasRoom(length) ?? true else { return refuse(head, noRoom(payer)) }
        self.payer = payer
        proceed(head, context)
        state = .collecting(head, context.channel.allocator.buffer(capacity: min(length, limit)), limit: limit, target)
        arm(Self.bodyTimeout)
    }

    /// Whether what a body has by now has room. Where not, that is answered, and is the connection's last.
    func hasRoom(_ count: Int) -> Bool {
        guard payer?.reserve(count) == false else { return true }
        keepsAlive = false
        answer(noRoom(payer))
        return false
    }

    private func noRoom(_ payer: BodyPayer?) -> Problem { payer?.room === room.anybody ? .tooManyBodies : .tooManyOwnBodies }

    func release() {
        payer?.release()
        payer = nil
    }

    /// Whether an answer of so many bytes may wait for its caller; the room is free when it is out or the connection at its end.
    func mayWait(_ count: Int) -> Bool {
        guard count > OpenBodies.free, let tenant = answersTo, unread == nil else { return true }
        var unread = BodyPayer(view?.isPublic == true ? room.publicAnswers : room.answers, tenant)
        guard unread.reserve(count) else { return false }
        self.unread = unread
        return true
    }

    /// Instead of an answer that may not wait. Most are refused because nobody reads: the connection ends.
    func refuseToWait() {
        keepsAlive = false
        answer(.tooManyAnswers)
    }

    /// What hears that the last byte of the answer at hand is out; nil where nobody waits for it.
    func lastWrite(_ context: ChannelHandlerContext) -> EventLoopPromise<Void>? {
        let last = keepsAlive ? nil : closing(context)
        guard let taken = unread else { return last }
        unread = nil
        let promise = last ?? context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenComplete { _ in
            var taken = taken
            taken.release()
        }
        return promise
    }
}
