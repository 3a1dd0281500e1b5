// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import Synchronization
public import Wire

/// The daemon's end of the socket to the spawner. Requests go out from any thread; events are read by one thread of its own, because descriptors ride on them.
public final class SpawnerLink: Sendable {
    private let socket: CInt
    private let sending = Mutex(())

    public init(socket: CInt) { self.socket = socket }

    /// Sends one request; blocks while the spawner is behind, which it never is for long.
    public func send(_ request: SpawnerRequest) {
        let bytes = request.encoded()
        sending.withLock { _ in
            do throws(KernelError) { try Datagram.send(socket, bytes) } catch {
                // The reader sees the end of the socket and ends the daemon.
            }
        }
    }

    /// The next message, on the caller's thread, before ``run(_:)``.
    public func receive() throws(WireError) -> (event: SpawnerEvent, descriptors: [CInt]) {
        guard let message = try next() else { throw WireError("the spawner closed its socket before its welcome") }
        return message
    }

    private func next() throws(WireError) -> (event: SpawnerEvent, descriptors: [CInt])? {
        let message: (bytes: [UInt8], descriptors: [CInt])?
        do throws(KernelError) { message = try Datagram.receive(socket, limit: spawnerMessageLimit, maximumDescriptors: 8) } catch {
            throw WireError(error.description)
        }
        guard let message else { return nil }
        return (try SpawnerEvent(decoding: message.bytes[...]), message.descriptors)
    }

    /// Reads events until the spawner is gone. Blocks; for a thread of its own.
    public func run(_ received: (SpawnerEvent, [CInt]) -> Void) {
        while let message = try? next() { received(message.event, message.descriptors) }
    }
}
