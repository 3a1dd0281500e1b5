// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import NIOCore
import NIOHTTP1
import Supervision

/// Objects of buckets on one connection: both ways in parts, each no sooner than the other side has taken the one before.
extension HTTPHandler {
    func begin(_ target: Result<ObjectTarget, Problem>, _ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        let object: ObjectTarget
        switch target {
        case .success(let found): object = found
        case .failure(let problem): return refuse(head, problem)
        }
        guard [.GET, .HEAD, .PUT, .DELETE].contains(head.method) else { return refuse(head, Self.notAllowed("GET or PUT or DELETE")) }
        if let problem = service.objection(caller, tenant: object.bucket.tenant, scope: .invoke) { return refuse(head, problem) }
        let length = head.headers.first(name: "content-length").flatMap { UInt64($0) }
        arm(Self.bodyTimeout)
        guard head.method == .PUT else {
            guard length ?? 0 <= Self.controlLimit else { return refuse(head, .tooLarge(Self.controlLimit)) }
            return collect(head, context, limit: Self.controlLimit, .object(object), BodyPayer(room.known, object.bucket.tenant))
        }
        guard length ?? 0 <= service.objectLimit else { return refuse(head, .tooLarge(Int(service.objectLimit))) }
        proceed(head, context)
        let (me, loop) = (NIOLoopBound(self, eventLoop: supervisor.loop), supervisor.loop)
        let upload = ObjectUpload(object, length: length, service) { problem in
            loop.execute {
                guard case .storing(let upload, _) = me.value.state else { return }
                if let problem { me.value.fail(upload, problem) } else { me.value.setReading(true) }
            }
        }
        state = .storing(upload, 0)
    }

    /// Answers before the body has ended; the rest of it is not worth reading.
    func fail(_ upload: ObjectUpload, _ problem: Problem) {
        upload.cancel()
        keepsAlive = false
        answer(problem)
    }

    func setReading(_ isReading: Bool) {
        guard let channel = context?.channel, isReading != self.isReading else { return }
        self.isReading = isReading
        channel.setOption(.autoRead, value: isReading).assumeIsolated().whenComplete { _ in }
    }

    func send(_ target: ObjectTarget) {
        let (me, loop) = (NIOLoopBound(self, eventLoop: supervisor.loop), supervisor.loop)
        ObjectDownload.open(target, service) { opened in loop.execute { me.value.opened(opened) } }
    }

    func opened(_ opened: Result<ObjectDownload, Problem>) {
        guard context != nil else { return }
        switch opened {
        case .failure(let problem): answer(problem)
        case .success(let download):
            var headers = HTTPHeaders(BucketRoutes.headers(download.object))
            headers.add(name: "Content-Length", value: "\(download.object.size)")
            decideOnEnd()
            if !keepsAlive { headers.add(name: "Connection", value: "close") }
            write(.head(HTTPResponseHead(version: .http1_1, status: .ok, headers: headers)), flush: isHead || download.object.size == 0)
            if isHead || download.object.size == 0 {
                return end()
            }
            pump(download)
        }
    }

    /// Reads one part and, once it is out, the next: a caller that does not read does not fill our memory, and one that never does is left.
    func pump(_ download: ObjectDownload) {
        let (me, loop) = (NIOLoopBound(self, eventLoop: supervisor.loop), supervisor.loop)
        state = .sending(download, isWaiting: false)
        arm(Self.bodyTimeout)
        download.next { part in
            loop.execute {
                guard let context = me.value.context else { return }
                // Its length is said already: what is missing can only be told by the end of the connection.
                guard let part else { return context.close(promise: nil) }
                if part.isEmpty { return me.value.end() }
                me.value.write(.body(.byteBuffer(ByteBuffer(bytes: part))), flush: true)
                me.value.state = .sending(download, isWaiting: !context.channel.isWritable)
                if context.channel.isWritable { me.value.pump(download) }
            }
        }
    }
}
