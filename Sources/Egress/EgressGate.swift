// SPDX-License-Identifier: Apache-2.0
public import Core
import Glibc
import Kernel
import NIOCore
import NIOPosix
import Synchronization

/// What went out for a tenant, since the start.
public struct EgressFigures: Hashable, Sendable {
    /// Connections at present.
    public var open = 0
    public var connections: UInt64 = 0
    public var refused: UInt64 = 0
    /// Bytes to the far ends.
    public var sent: UInt64 = 0
    /// Bytes from them.
    public var received: UInt64 = 0
}

/// The ways out of all workers that have one: HTTP proxies on their own loopbacks, served here. Workers have no other network; names are looked up, addresses
/// judged, connections made and bytes counted on this side. On a loop of its own, so that a tenant's download is no other tenant's wait.
public final class EgressGate: Sendable {
    /// Connections over all tenants: two descriptors each, and the rest of the daemon needs some too.
    static let mostConnections = min(2048, sysconf(Int32(_SC_OPEN_MAX)) / 8)
    /// What a tenant may be behind with its bandwidth, in seconds: more than one read of all its connections at once.
    static let mostDebt: Int64 = 30
    /// Names that are being looked up for one tenant, and for all: the resolver blocks for seconds where a name's server is silent.
    static let mostLookups = (tenant: 4, node: 24)

    struct Tenant {
        var rules: EgressRules?
        var figures = EgressFigures()
        var lookups = 0
        var bucket = (tokens: Int64(0), at: NIODeadline.uptimeNanoseconds(0))
    }
    private struct State {
        /// This node's own port: who calls it from this machine may need no key.
        var ownPort: UInt16?
        var tenants: [Name: Tenant] = [:]
        var open = 0
        var lookups = 0

        /// A tenant without rules leaves nothing behind, its figures neither, once the last of its connections has ended.
        mutating func forget(_ tenant: Name) {
            if let one = tenants[tenant], one.rules == nil, one.figures.open == 0, one.lookups == 0 { tenants[tenant] = nil }
        }
    }

    let loop: any EventLoop
    private let group: MultiThreadedEventLoopGroup
    private let state = Mutex(State())
    /// Its own: who waits for a silent server of names holds up nothing else.
    private let resolver: NIOThreadPool

    public init() {
        group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        loop = group.next()
        resolver = NIOThreadPool(numberOfThreads: Self.mostLookups.node)
        resolver.start()
    }

    /// Puts rules into force, for connections from now on; nil: none may be made. Those that the tenant has end where it has no rules any more.
    public func set(_ rules: EgressRules?, of tenant: Name) {
        state.withLock { state in
            if rules == nil, state.tenants[tenant] == nil { return }
            state.tenants[tenant, default: Tenant()].rules = rules
            state.forget(tenant)
        }
    }

    public func rules(of tenant: Name) -> EgressRules? { state.withLock { $0.tenants[tenant]?.rules } }

    /// No way out leads back to this port of this machine, whatever the rules say.
    public func forbid(port: UInt16) { state.withLock { $0.ownPort = port } }

    /// Of tenants that have a way out, or connections of one that they had.
    public var figures: [Name: EgressFigures] { state.withLock { $0.tenants.mapValues(\.figures) } }

    /// Serves the way out of one worker until it is closed. `listener` is adopted: a listening socket in the worker's network namespace.
    /// `told` gets a sentence for each connection and refusal, bounded; from any thread.
    public func open(_ tenant: Name, listener: CInt, _ told: @escaping @Sendable (String) -> Void) -> EgressListener {
        EgressListener(gate: self, tenant: tenant, descriptor: listener, told)
    }

    // MARK: places

    /// Why there is no place for one more; nil where it is taken.
    func enter(_ tenant: Name) -> EgressRefusal? {
        state.withLock { state in
            guard let rules = state.tenants[tenant]?.rules else {
                state.tenants[tenant]?.figures.refused += 1
                return .forbidden("the tenant's file does not allow egress any more")
            }
            let open = state.tenants[tenant]?.figures.open ?? 0
            guard open < rules.connections, state.open < Self.mostConnections else {
                state.tenants[tenant]?.figures.refused += 1
                return .busy(
                    open < rules.connections
                        ? "\(Self.mostConnections) connections leave this node already"
                        : "the tenant has \(open) connections open and may have \(rules.connections)")
            }
            state.tenants[tenant]?.figures.open += 1
            state.tenants[tenant]?.figures.connections += 1
            state.open += 1
            return nil
        }
    }

    func leave(_ tenant: Name) {
        state.withLock { state in
            state.tenants[tenant]?.figures.open -= 1
            state.open -= 1
            state.forget(tenant)
        }
    }

    func countRefusal(_ tenant: Name) { state.withLock { $0.tenants[tenant]?.figures.refused += 1 } }

    /// Counts bytes and says how long the one who sent them has to wait before it reads on; nil where the tenant may use its way out no more.
    func moved(_ bytes: Int, _ tenant: Name, isSent: Bool) -> TimeAmount? {
        state.withLock { state in
            guard var one = state.tenants[tenant], let rules = one.rules else { return nil }
            if isSent { one.figures.sent += UInt64(bytes) } else { one.figures.received += UInt64(bytes) }
            let now = NIODeadline.now()
            let rate = Int64(clamping: rules.bandwidth)
            // A tenth of a second at once, and never less than one read.
            let burst = max(rate / 10, 128 << 10)
            let gained = Double(rate) * Double(min((now - one.bucket.at).nanoseconds, 1_000_000_000)) / 1e9
            one.bucket.tokens = max(min(burst, one.bucket.tokens + Int64(gained)) - Int64(bytes), -Self.mostDebt * rate)
            one.bucket.at = now
            state.tenants[tenant] = one
            return one.bucket.tokens >= 0 ? .zero : .nanoseconds(Int64(Double(-one.bucket.tokens) / Double(rate) * 1e9))
        }
    }

    /// How long what the tenant has moved beyond its bandwidth takes.
    func debt(of tenant: Name) -> TimeAmount {
        state.withLock { state in
            guard let one = state.tenants[tenant], let rules = one.rules, one.bucket.tokens < 0 else { return .zero }
            let rest = Double(-one.bucket.tokens) / Double(rules.bandwidth) * 1e9 - Double((NIODeadline.now() - one.bucket.at).nanoseconds)
            return .nanoseconds(max(0, Int64(rest)))
        }
    }

    // MARK: names

    /// The addresses of a name that the tenant may connect to, or why there are none. `done` is called on the loop.
    func addresses(_ head: EgressHead, _ tenant: Name, _ done: @escaping @Sendable (Result<[SocketAddress], EgressRefusal>) -> Void) {
        guard let rules = rules(of: tenant) else { return done(.failure(.forbidden("the tenant's file does not allow egress any more"))) }
        guard rules.ports.contains(head.port) else {
            return done(.failure(.forbidden("port \(head.port) is not one of the tenant's `egress.ports`")))
        }
        guard rules.permits(host: head.host) else {
            return done(.failure(.forbidden("\(head.host) is not one of the tenant's `egress.hosts`")))
        }
        let isTaken = state.withLock { state in
            guard state.lookups < Self.mostLookups.node, (state.tenants[tenant]?.lookups ?? 0) < Self.mostLookups.tenant else {
                return false
            }
            state.lookups += 1
            state.tenants[tenant]?.lookups += 1
            return true
        }
        guard isTaken else { return done(.failure(.busy("too many names are being looked up: try again"))) }
        resolver.submit { _ in
            let found = HostAddresses.resolve(head.host)
            let own = HostAddresses.own()
            self.state.withLock { state in
                state.lookups -= 1
                state.tenants[tenant]?.lookups -= 1
                state.forget(tenant)
            }
            // Where nobody can say which addresses are this machine's, none is known to be another's.
            let isOwnPort = head.port == self.state.withLock { $0.ownPort }
            let permitted = found.filter { address in
                let isElsewhere = HostAddresses.isElsewhere(address, own: own)
                return (isElsewhere || !isOwnPort)
                    && rules.permits(address: address, isPublic: HostAddresses.isPublic(address) && isElsewhere)
            }
            let addresses = permitted.compactMap { try? SocketAddress(packedIPAddress: ByteBuffer(bytes: $0), port: Int(head.port)) }
            self.loop.execute {
                if found.isEmpty { return done(.failure(.unreachable("\(head.host) is not known"))) }
                guard !addresses.isEmpty else {
                    return done(
                        .failure(.forbidden("\(head.host) is on this host or in a private network, which `egress.networks` does not name")))
                }
                done(.success(addresses))
            }
        }
    }
}

/// Why a connection is not made, in the words of HTTP.
enum EgressRefusal: Error, Hashable {
    case malformed(String)
    case forbidden(String)
    case busy(String)
    case unreachable(String)
    case late(String)

    var status: String {
        switch self {
        case .malformed: "400 Bad Request"
        case .forbidden: "403 Forbidden"
        case .busy: "429 Too Many Requests"
        case .unreachable: "502 Bad Gateway"
        case .late: "504 Gateway Timeout"
        }
    }
    var text: String {
        switch self {
        case .malformed(let text), .forbidden(let text), .busy(let text), .unreachable(let text), .late(let text): text
        }
    }
    /// The whole answer.
    var answer: [UInt8] {
        let body = "egress: \(text)\n"
        return Array(
            "HTTP/1.1 \(status)\r\nContent-Type: text/plain\r\nContent-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n\(body)".utf8)
    }
}
