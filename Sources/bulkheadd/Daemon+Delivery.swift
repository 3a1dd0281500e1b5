// SPDX-License-Identifier: Apache-2.0
import AsyncHTTPClient
import Core
import Foundation
import Kernel
import Logging
import NIOCore
import NIOHTTP1
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// What leaves the node: outcomes for webhooks and buckets, and alarms.
extension Daemon {
    /// Who reads a webhook's answer to its end is waited for so long.
    static let webhookTimeout = TimeAmount.seconds(10)
    /// What is read of a webhook's answer, in bytes.
    static let webhookAnswerLimit = 64 << 10
    /// Requests that this node sends carry it. The gateway takes them for nobody's: a webhook must not become a caller from loopback.
    static let ownHeader = "Bulkhead-Webhook"

    /// One for the process. Redirects are not followed: they would lead where the tenant did not say.
    private static let webhooks: HTTPClient = {
        var client = HTTPClient.Configuration(redirectConfiguration: .disallow)
        client.timeout = .init(connect: .seconds(5), read: .seconds(10))
        client.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 16
        return HTTPClient(eventLoopGroupProvider: .singleton, configuration: client)
    }()

    /// Delivers one outcome; `done` is called once, from any thread.
    func deliver(_ delivery: Delivery, _ done: @escaping @Sendable (DeliveryResult) -> Void) {
        let me = self
        // A task that ends with its answer: 10 s at most, and as many as there are places for outcomes.
        Task {
            switch delivery.destination {
            case .webhook(let url, let secret):
                var key: Secret?
                if let secret {
                    key = me.configuration.withLock { $0.tenants.first { $0.tenant == delivery.function.tenant }?.secrets[secret] }
                    guard key != nil else {
                        return done(.failed("tenant \(delivery.function.tenant) has no secret \(secret): add it to its file"))
                    }
                }
                let now = UInt64(Date().timeIntervalSince1970 * 1000)
                let lineage = delivery.cause.map { me.lineageTokens.sign($0, of: delivery.function.tenant, at: now) }
                done(await me.post(url, delivery.body, id: delivery.event.description, secret: key, lineage: lineage))
            case .bucket(let bucket, let prefix): done(await me.putOutcome(delivery, bucket, prefix))
            case .function: done(.impossible("a function is no place for a delivery"))
            }
        }
    }

    /// Where names are looked up: the resolver blocks.
    private static let resolver = DispatchQueue(label: "bulkhead.resolver", attributes: .concurrent)

    /// Why a tenant's webhook may not lead there; nil where it may. What a name means may change between this look and the connection: see THREATS.md.
    private func objection(toCalling url: String) async -> String? {
        guard !configuration.withLock({ $0.mayCallPrivate }) else { return nil }
        guard let host = URL(string: url)?.host else { return "the webhook's address has no host" }
        let name = host.hasPrefix("[") ? String(host.dropFirst().dropLast()) : host
        let found = await withCheckedContinuation { continuation in
            Self.resolver.async { continuation.resume(returning: HostAddresses.resolve(name)) }
        }
        guard !found.isEmpty else { return "the webhook's host \(name) is not known" }
        let own = HostAddresses.own()
        return found.allSatisfy { HostAddresses.isPublic($0) && HostAddresses.isElsewhere($0, own: own) }
            ? nil : "\(name) is on this host or in a private network: the operator can allow it by `webhooks: any` in bulkhead.yaml"
    }

    /// One POST: no redirects are followed, no more than 64 KiB of the answer is read, and after 10 s it has failed.
    /// - Parameters:
    ///   - lineage: what the receiver may pass back, so that a loop through it is known for one.
    ///   - isTenants: a tenant has chosen the address, and not the operator.
    func post(
        _ url: String, _ body: [UInt8], id: String, secret: Secret?, lineage: String? = nil, isTenants: Bool = true
    ) async -> DeliveryResult {
        if isTenants, let objection = await objection(toCalling: url) { return .failed(objection) }
        var request = HTTPClientRequest(url: url)
        request.method = .POST
        request.headers.add(name: "Content-Type", value: "application/json")
        request.headers.add(name: "User-Agent", value: "bulkhead/\(Self.version)")
        request.headers.add(name: "Bulkhead-Delivery-Id", value: id)
        request.headers.add(name: Self.ownHeader, value: "1")
        if let lineage { request.headers.add(name: LineageTokens.header, value: lineage) }
        if let secret {
            let seconds = UInt64(Date().timeIntervalSince1970)
            request.headers.add(name: Signature.header, value: Signature.value(body, secret: secret.bytes, at: seconds))
        }
        request.body = .bytes(body)
        do {
            let response = try await Self.webhooks.execute(request, timeout: Self.webhookTimeout)
            // An answer that is too long changes nothing: its status was read.
            _ = try? await response.body.collect(upTo: Self.webhookAnswerLimit)
            let status = Int(response.status.code)
            if (200...299).contains(status) { return .delivered }
            if status == 410 { return .impossible("the webhook answered 410 Gone") }
            return .failed("the webhook answered \(status)")
        } catch {
            return .failed("the webhook could not be reached: \(error)")
        }
    }

    /// Tells an alarm to whom the tenant and the node have named. On the loop; returns at once.
    func notify(_ alarm: Alarm) {
        let (tenants, node) = configuration.withLock { ($0.tenants.first { $0.tenant == alarm.tenant }?.notify ?? [], $0.notify) }
        guard !tenants.isEmpty || !node.isEmpty else { return }
        let me = self
        let text = Notice(
            alarm: alarm.kind.rawValue, state: alarm.isRecovery ? "recovered" : "raised", tenant: alarm.tenant?.text ?? "",
            subject: alarm.subject,
            text: alarm.text, at: UInt64(Date().timeIntervalSince1970 * 1000))
        guard let body = try? JSONEncoder().encode(text) else { return }
        // Tasks, for one target that hangs keeps no other waiting; each ends within its own time, and there are so many and no more.
        for (target, owner) in tenants.map({ ($0, alarm.tenant) }) + node.map({ ($0, nil) }) {
            let room = notices.withLock { $0.enter(owner, at: text.at) }
            if room.isToBeSaid {
                logger.error(
                    "too many alarms are on their way: some are not told",
                    metadata: ["alarm": "\(text.alarm)", "subject": "\(text.subject)", "to": "\(owner?.text ?? "the node's owner")"])
            }
            guard room.mayGo else { continue }
            Task {
                await me.tell(target, Array(body), isTenants: owner != nil)
                me.notices.withLock { $0.leave(owner) }
            }
        }
    }

    private struct Notice: Encodable {
        var alarm: String
        var state: String
        var tenant: String
        var subject: String
        var text: String
        var at: UInt64
    }

    /// Three tries within a minute: an alarm that comes later is of no use.
    private func tell(_ target: NotifyTarget, _ body: [UInt8], isTenants: Bool) async {
        for pause in [UInt64(0), 2, 20] {
            if pause > 0 { try? await Task.sleep(for: .seconds(pause)) }
            switch target {
            case .webhook(let url, let secret):
                switch await post(url, body, id: UUID().uuidString, secret: secret, isTenants: isTenants) {
                case .delivered: return
                case .failed(let reason), .impossible(let reason):
                    logger.error("an alarm could not be told", metadata: ["reason": "\(reason)"])
                }
            case .command(let words):
                guard let fault = await run(words, body) else { return }
                logger.error("an alarm's command failed", metadata: ["command": "\(words.first ?? "")", "reason": "\(fault)"])
            }
        }
    }

    /// Runs the operator's program with the alarm on its stdin, for at most 10 seconds. Returns what went wrong.
    private func run(_ words: [String], _ body: [UInt8]) async -> String? {
        guard let program = words.first else { return "it has no program" }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = Array(words.dropFirst())
        process.environment = ["PATH": "/usr/bin:/bin"]
        let input = Pipe()
        process.standardInput = input
        process.standardOutput = FileHandle.nullDevice
        // Not where the daemon was started, which may be nobody else's to look at.
        process.currentDirectoryURL = URL(fileURLWithPath: "/")
        do { try process.run() } catch { return "it could not be started: \(error)" }
        // A notice is smaller than a pipe: this does not wait for its reader.
        try? input.fileHandleForWriting.write(contentsOf: Data(body))
        try? input.fileHandleForWriting.close()
        // Asleep, not on a thread: a receiver that hangs has as many of these as there are notices, and tasks have two threads.
        let end = ContinuousClock.now + .seconds(10)
        while process.isRunning, .now < end { try? await Task.sleep(for: .milliseconds(20)) }
        // Not SIGTERM: this process blocks it, and so does what it starts.
        guard !process.isRunning else {
            kill(process.processIdentifier, SIGKILL)
            return "it ran for more than 10 s"
        }
        return process.terminationStatus == 0 ? nil : "it ended with \(process.terminationStatus)"
    }

    /// An outcome as an object, named by its event.
    private func putOutcome(_ delivery: Delivery, _ bucket: Name, _ prefix: String) async -> DeliveryResult {
        let id = BucketID(tenant: delivery.function.tenant, bucket: bucket)
        guard let key = ObjectKey("\(prefix)\(delivery.event).json") else { return .impossible("\(prefix) is no beginning of a key") }
        let (buckets, cause, body) = (buckets, delivery.cause, delivery.body)
        do {
            // Its event has the lineage of what it tells of.
            try await supervisor.onLoop { $0.events?.willWrite(id, key, cause) }
            try await onDisk { _ = try buckets.put(body, key, in: id) }
            return .delivered
        } catch {
            return .failed("the object \(id)/\(key) could not be written: \(error)")
        }
    }
}
