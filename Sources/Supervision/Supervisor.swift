// SPDX-License-Identifier: Apache-2.0
public import Core
public import Logging
public import NIOCore
import NIOPosix
public import Wire

/// The imperative shell around ``Node``: it obeys the node's actions and tells it what happened.
///
/// Everything here is confined to one event loop, the same one that serves HTTP and the workers' sockets, so a warm invocation crosses no thread and takes no lock.
/// Whoever comes from elsewhere enters through ``onLoop(_:)``.
public final class Supervisor: Sendable {
    /// The one loop.
    public let loop: any EventLoop
    private let box: NIOLoopBound<SupervisorState>

    /// `node` makes the loop's own node; `spawner` sends one request to the spawner; `log` stores one line and must not block.
    public static func make(
        loop: any EventLoop, node: @autoclosure @escaping @Sendable () -> Node, logger: Logger,
        spawner: @escaping @Sendable (SpawnerRequest) -> Void,
        log: @escaping @Sendable (LogLine) -> Void, clock: SupervisorClock = .system
    ) async throws -> Supervisor {
        try await loop.submit {
            let state = SupervisorState(loop: loop, node: node(), logger: logger, spawner: spawner, log: log, clock: clock)
            return Supervisor(loop: loop, box: NIOLoopBound(state, eventLoop: loop))
        }.get()
    }

    private init(loop: any EventLoop, box: NIOLoopBound<SupervisorState>) {
        self.loop = loop
        self.box = box
    }

    /// The state, for callers that are on the loop already.
    public var state: SupervisorState { box.value }

    /// Runs `body` on the loop and brings its value back.
    public func onLoop<T: Sendable>(_ body: @escaping @Sendable (SupervisorState) -> T) async throws -> T {
        try await loop.submit { body(self.box.value) }.get()
    }

    /// Runs `body` on the loop, after all that is there before it and before all that comes later.
    public func soon(_ body: @escaping @Sendable (SupervisorState) -> Void) { loop.execute { body(self.box.value) } }

    /// Runs `body` on the loop for each of many, a few milliseconds at a time: invocations are served in between.
    public func onLoop<T: Sendable>(each items: [T], _ body: @escaping @Sendable (SupervisorState, T) -> Void) async throws {
        var next = 0
        while next < items.count {
            let first = next
            next = try await onLoop { state in
                let end = NIODeadline.now() + Self.slice
                var index = first
                repeat {
                    body(state, items[index])
                    index += 1
                } while index < items.count && NIODeadline.now() < end
                return index
            }
        }
    }
    /// The same; returns what `body` finds for each, in their order.
    public func gather<T: Sendable, Found: Sendable>(
        _ items: [T], _ body: @escaping @Sendable (SupervisorState, T) -> Found?
    ) async throws -> [Found] {
        let found = NIOLoopBoundBox<[Found]?>.makeEmptyBox(valueType: [Found].self, eventLoop: loop)
        let count = items.count
        // Else it is moved as it grows, and a hundred thousand of them at once hold the loop.
        try await onLoop { _ in
            var room: [Found] = []
            room.reserveCapacity(count)
            found.value = room
        }
        try await onLoop(each: items) { state, item in if let one = body(state, item) { found.value?.append(one) } }
        return try await onLoop { _ in found.value ?? [] }
    }

    /// How long other work may hold the loop at a time.
    static let slice: TimeAmount = .milliseconds(2)

    // MARK: on the loop

    /// Runs one invocation. On the loop only. Returns its id at once; the observer hears the rest, also where it is refused.
    public func submit(_ order: InvocationOrder, observer: InvocationObserver) -> InvocationID { state.submit(order, observer) }

    /// An id that no invocation has. On the loop only.
    public func newInvocationID() -> InvocationID { state.newID(state.clock.wall()) }

    /// The caller no longer waits. On the loop only.
    public func abandon(_ id: InvocationID) { state.handle(.abandoned(id)) }

    /// The reader of a streamed answer has caught up. On the loop only.
    public func resume(_ id: InvocationID) {
        guard let worker = state.pending[id]?.worker else { return }
        state.processes[worker]?.link?.release()
    }

    /// What the spawner said, with its descriptors; they are adopted. From any thread.
    public func received(_ event: SpawnerEvent, descriptors: [CInt]) {
        loop.execute { self.state.received(event, descriptors) }
    }
}

/// Where time and randomness come from.
public struct SupervisorClock: Sendable {
    public var now: @Sendable () -> Instant
    /// Milliseconds since 1970.
    public var wall: @Sendable () -> UInt64
    public init(now: @escaping @Sendable () -> Instant, wall: @escaping @Sendable () -> UInt64) {
        self.now = now
        self.wall = wall
    }
    public static let system = SupervisorClock(
        now: { Instant(nanoseconds: NIODeadline.now().uptimeNanoseconds) }, wall: { SystemClock.milliseconds() })
}
