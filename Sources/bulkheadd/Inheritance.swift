// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import Kernel
import Supervision
import Wire

/// What a daemon has got from the one whose place it takes.
struct Inheritance: Sendable {
    var workers: [(record: WorkerRecord, descriptors: [CInt])] = []
    var connections: [(socket: CInt, isControl: Bool)] = []
    /// Workers of the daemon before that live, as the spawner says.
    var kept: [WorkerID: KeptWorker] = [:]
    /// When the daemon before accepted nothing more, in milliseconds since 1970; 0 where it did not end in good order.
    var since: UInt64 = 0

    typealias Message = (event: SpawnerEvent, descriptors: [CInt])

    /// From the spawner's first message to its welcome. A successor prepares itself while its predecessor serves, says so, and reads what it hands over until its end; where
    /// `prepare` throws the predecessor goes on.
    static func begin<T>(_ first: Message, _ link: SpawnerLink, prepare: () throws -> T) throws -> (T, Inheritance?, Message) {
        guard case .succession(let version) = first.event, let source = first.descriptors.first else { return (try prepare(), nil, first) }
        guard version == spawnerProtocolVersion else {
            throw Main.StartFailure(
                description: "the spawner speaks protocol version \(version) and this daemon \(spawnerProtocolVersion): restart both")
        }
        let prepared = try prepare()
        link.send(.hello(version: spawnerProtocolVersion))
        link.send(.prepared(format: handOverFormat))
        var inheritance = read(source)
        close(source)
        while true {
            let message = try link.receive()
            guard case .kept(let workers) = message.event else { return (prepared, inheritance, message) }
            for worker in workers { inheritance.kept[worker.worker] = worker }
        }
    }

    /// Reads to the end. Where the predecessor ends without its last word, or sends what cannot be read, nothing of it counts.
    static func read(_ source: CInt) -> Inheritance {
        var found = Inheritance()
        while let message = try? Datagram.receive(source, limit: spawnerMessageLimit, maximumDescriptors: 4) {
            guard let part = try? HandOverMessage(decoding: message.bytes[...]), part.descriptorCount == message.descriptors.count else {
                for descriptor in message.descriptors { close(descriptor) }
                break
            }
            switch part {
            case .worker(let record): found.workers.append((record, message.descriptors))
            case .connection(let isControl): found.connections.append((message.descriptors[0], isControl))
            case .end(let since):
                found.since = since
                return found
            }
        }
        for worker in found.workers { for descriptor in worker.descriptors { close(descriptor) } }
        for connection in found.connections { close(connection.socket) }
        return Inheritance()
    }
}
