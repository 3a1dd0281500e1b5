// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import NIOCore
import NIOPosix
import Wire

/// Why an archive could not be read; a sentence for the person who sent it.
public struct ArchiveFailure: Error, CustomStringConvertible, Sendable {
    public let description: String
}

/// What the supervisor tells whoever waits for a worker outside the pool.
struct UnpackerEvents {
    var started: ([CInt]) -> Void
    var failed: (String) -> Void
    var ended: (DeathCause) -> Void
}

extension Supervisor {
    /// The group of workers that serve the node itself.
    static let systemGroup = GroupID(0)
    /// How long an archive may take.
    static let unpackTimeout: Int32 = 120_000
    static let unpackLimits = WorkerLimits(memoryBytes: 256 << 20, cpuMilli: 2000, processes: 16, temporaryBytes: 1 << 20, openFiles: 64)

    /// Reads an archive inside a sandbox: the bytes of `archive` go to `bsdtar` there, and `feed` gets what comes back, a plain cpio stream (newc). The parsers of archive
    /// formats, which are where the bugs are, never run with more rights than a tenant's own code.
    ///
    /// `archive` is an open file at its beginning; it stays the caller's. `feed` runs on a thread that may block; what it throws ends the unpacking.
    public func unpack(archive: CInt, feed: @escaping @Sendable (ArraySlice<UInt8>) throws -> Void) async throws {
        let worker = try await onLoop { state in state.node.takeWorkerID() }
        let started = loop.makePromise(of: [CInt].self)
        let ended = loop.makePromise(of: DeathCause.self)
        try await onLoop { state in
            state.unpackers[worker] = UnpackerEvents(
                started: { started.succeed($0) },
                failed: { reason in
                    started.fail(ArchiveFailure(description: "the sandbox for the archive could not be started: \(reason)"))
                    ended.succeed(.killed)
                },
                ended: { cause in
                    started.fail(ArchiveFailure(description: "the sandbox for the archive ended at once: \(cause)"))
                    ended.succeed(cause)
                })
            let limits = Self.unpackLimits
            state.spawner(.setGroup(Self.systemGroup, GroupLimits(memoryBytes: limits.memoryBytes * 4, cpuMilli: 2000, processes: 256)))
            state.spawner(
                .spawn(SpawnRequest(worker: worker, group: Self.systemGroup, runtime: "unpack", preparation: .started, limits: limits)))
        }
        let descriptors = try await started.futureResult.get()
        let stop = { try? await self.onLoop { state in state.spawner(.kill(worker)) } }
        do {
            let complaint = try await NIOThreadPool.singleton.runIfActive {
                defer { for descriptor in descriptors { close(descriptor) } }
                try Self.pump(archive: archive, worker: descriptors[0], feed: feed)
                return Self.readAll(descriptors[2], limit: 2048)
            }
            let cause = try await ended.futureResult.get()
            guard cause == .exited(code: 0) else {
                let detail = complaint.isEmpty ? cause.description : complaint
                throw ArchiveFailure(description: "this is not an archive that can be read (tar, tar.gz, tar.xz, zip): \(detail)")
            }
        } catch {
            _ = await stop()
            _ = try await ended.futureResult.get()
            throw error
        }
    }

    /// Moves bytes both ways at once, so that neither side waits for the other.
    private static func pump(archive: CInt, worker: CInt, feed: (ArraySlice<UInt8>) throws -> Void) throws {
        _ = fcntl(worker, F_SETFL, fcntl(worker, F_GETFL) | O_NONBLOCK)
        var input = [UInt8](repeating: 0, count: 64 << 10)
        var pending = input[0..<0]
        var output = [UInt8](repeating: 0, count: 64 << 10)
        var isInputDone = false
        while true {
            if pending.isEmpty, !isInputDone {
                let count = unsafe input.withUnsafeMutableBytes { unsafe read(archive, $0.baseAddress, $0.count) }
                if count > 0 {
                    pending = input[0..<count]
                } else {
                    isInputDone = true
                    shutdown(worker, CInt(SHUT_WR))
                }
            }
            var poller = pollfd(fd: worker, events: Int16(POLLIN) | (isInputDone ? 0 : Int16(POLLOUT)), revents: 0)
            let ready = unsafe poll(&poller, 1, unpackTimeout)
            guard ready > 0 else {
                if ready < 0, errno == EINTR { continue }
                throw ArchiveFailure(description: "the archive took longer than \(unpackTimeout / 1000) seconds to unpack")
            }
            if poller.revents & Int16(POLLIN | POLLHUP) != 0 {
                let count = unsafe output.withUnsafeMutableBytes { unsafe read(worker, $0.baseAddress, $0.count) }
                if count == 0 { return }
                if count > 0 { try feed(output[0..<count]) } else if errno != EAGAIN, errno != EINTR { return }
            }
            if poller.revents & Int16(POLLOUT) != 0, !pending.isEmpty {
                let count = unsafe pending.withUnsafeBytes { unsafe send(worker, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
                if count > 0 {
                    pending = pending.dropFirst(count)
                } else if errno == EPIPE {
                    pending = input[0..<0]
                    isInputDone = true
                }
            }
        }
    }

    private static func readAll(_ descriptor: CInt, limit: Int) -> String {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
        guard count > 0 else { return "" }
        let text = String(decoding: bytes[0..<count], as: UTF8.self)
        return text.split(separator: "\n").first.map(String.init) ?? ""
    }
}
