// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Glibc
import NIOCore
import Synchronization

/// An archive on its way to the disk; written on a queue of its own, because a disk may be slow.
final class Upload: Sendable {
    private struct State {
        var file: Int32
        var failure: String?
    }
    private let path: String
    private let tenant: Name
    private let queue = DispatchQueue(label: "bulkhead.upload")
    private let state: Mutex<State>
    private let received = Mutex<UInt64>(0)

    init?(path: String, tenant: Name) {
        let file = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { return nil }
        self.path = path
        self.tenant = tenant
        state = Mutex(State(file: file))
    }

    var bytes: UInt64 { received.withLock { $0 } }

    func write(_ part: ByteBuffer) {
        received.withLock { $0 += UInt64(part.readableBytes) }
        queue.async {
            self.state.withLock { state in
                guard state.failure == nil else { return }
                let bytes = Array(part.readableBytesView)
                var at = 0
                while at < bytes.count {
                    let count = unsafe bytes[at...].withUnsafeBytes { unsafe Glibc.write(state.file, $0.baseAddress, $0.count) }
                    guard count > 0 else {
                        state.failure = unsafe String(cString: strerror(errno))
                        return
                    }
                    at += count
                }
            }
        }
    }

    func cancel(_ service: any NodeService) {
        queue.async {
            self.state.withLock { _ = close($0.file) }
            service.discard(upload: self.path)
        }
    }

    /// Waits for the disk, then deploys.
    func deploy(_ service: any NodeService) async -> ControlAnswer {
        let failure = await withCheckedContinuation { continuation in
            queue.async {
                continuation.resume(
                    returning: self.state.withLock { state -> String? in
                        close(state.file)
                        return state.failure
                    })
            }
        }
        defer { service.discard(upload: path) }
        if let failure { return ControlAnswer(.storage("the upload cannot be stored: \(failure)")) }
        guard bytes > 0 else {
            return ControlAnswer(.badRequest("the body is empty: send the function's folder as an archive (tar, tar.gz, zip)"))
        }
        do { return ControlAnswer(json: try await service.deploy(tenant, archive: path, bytes: bytes), status: 201) } catch {
            return ControlAnswer(failure: error)
        }
    }
}
