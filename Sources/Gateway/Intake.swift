// SPDX-License-Identifier: Apache-2.0
import Core
import NIOCore

/// Plain calls that are read and not yet served, by tenant: what stands between one caller's flood and another's single call.
///
/// The loop serves sockets in the order in which they became readable, and whatever it finds readable together it serves in one round. A flood of 64 connections makes
/// rounds of milliseconds, and a quiet tenant's request would wait for one, its answer for another. So a round serves a few calls at once; more wait here, tenant beside
/// tenant, and the next rounds take from each in turn. To read a request costs a tenth of serving it. Confined to the loop.
final class Intake {
    /// Calls served in one round, of those that come and of those that wait each.
    static let roundLimit = 8
    /// Bytes of bodies that may wait, of all tenants; where there are more, calls are served as they come.
    static let byteLimit = 4 << 20
    /// How long until the loop, having looked at its sockets, takes from here again.
    static let pause = TimeAmount.microseconds(20)

    private struct Waiting {
        var call: PlainCall
        var handler: HTTPHandler
    }
    private var lines: [Name: CircularBuffer<Waiting>] = [:]
    /// Tenants with waiting calls, the next one first.
    private var turns: CircularBuffer<Name> = []
    private(set) var bytes = 0
    private var served = 0
    private var isRoundKnown = false
    private var isDraining = false

    /// Serves the call now or within the next rounds.
    func take(_ call: PlainCall, _ handler: HTTPHandler, _ loop: any EventLoop) {
        noteRound(loop)
        if turns.isEmpty && served < Self.roundLimit || bytes + call.body.readableBytes > Self.byteLimit {
            served += 1
            return handler.run(call)
        }
        let tenant = call.function.tenant
        if lines[tenant, default: []].isEmpty { turns.append(tenant) }
        lines[tenant, default: []].append(Waiting(call: call, handler: handler))
        bytes += call.body.readableBytes
    }

    /// A task of the loop runs after all sockets of its round.
    private func noteRound(_ loop: any EventLoop) {
        guard !isRoundKnown else { return }
        isRoundKnown = true
        loop.assumeIsolated().execute {
            self.isRoundKnown = false
            self.served = 0
            self.drain(loop)
        }
    }

    private func drain(_ loop: any EventLoop) {
        guard !isDraining, !turns.isEmpty else { return }
        for _ in 0..<Self.roundLimit {
            guard let tenant = turns.popFirst(), let next = lines[tenant]?.popFirst() else { break }
            if lines[tenant]?.isEmpty ?? true { lines[tenant] = nil } else { turns.append(tenant) }
            bytes -= next.call.body.readableBytes
            next.handler.run(next.call)
        }
        guard !turns.isEmpty else { return }
        isDraining = true
        loop.assumeIsolated().scheduleTask(in: Self.pause) {
            self.isDraining = false
            self.drain(loop)
        }
    }
}
