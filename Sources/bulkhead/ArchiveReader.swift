// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import CommandKit
import NIOCore
import NIOPosix
import Synchronization

/// The bytes of a function's archive, read as fast as the node takes them.
final class ArchiveReader: Sendable {
    let contentType: String
    let length: HTTPClientRequest.Body.Length
    private let total: UInt64
    private let state: Mutex<State>

    private enum Source {
        case program(ChildProgram)
        case file(FileReader)
    }

    private struct State {
        var source: Source
        var sent: UInt64 = 0
        var progress = Progress("Sending")
        var failure: Failure?
    }

    /// - Parameter tar: the program that packs a folder, if there is one.
    /// - Throws: ``Failure`` where `tar` is missing or the archive cannot be opened.
    init(_ archive: CodeArchive, tar: String?) throws(Failure) {
        do {
            switch archive {
            case .folder(let path, let bytes, let files):
                guard let tar else {
                    throw Failure.failed("tar", "The program tar, which packs the folder, is missing; run: apt-get install tar")
                }
                contentType = "application/x-tar"
                length = .unknown
                // A header of 512 bytes and half a block of padding for each file, and two pages at the end.
                total = bytes + UInt64(files) * 768 + 10240
                let program = try ChildProgram(CodeArchive.tarArguments(program: tar, folder: path), environment: ["LANG=C.UTF-8"])
                state = Mutex(State(source: .program(program)))
            case .file(let path, let bytes, let type):
                contentType = type
                length = .known(Int64(bytes))
                total = bytes
                state = Mutex(State(source: .file(try FileReader(path))))
            }
        } catch let error as FileError {
            throw .usage("The archive cannot be read, \(error); name the function's folder.")
        } catch let error as Failure {
            throw error
        } catch {
            throw .failed("internal", escaped(String(describing: error)))
        }
    }

    /// What went wrong on this side, if anything did.
    var failure: Failure? { state.withLock { $0.failure } }

    /// Takes the progress off the terminal.
    func clear() { state.withLock { $0.progress.clear() } }

    /// The bytes, once. They end with an error, and so the request never completes, where the archive could not be read whole.
    func stream() -> AsyncThrowingStream<ByteBuffer, any Error> {
        AsyncThrowingStream {
            // Reading blocks, so it has a thread of its own.
            try await NIOThreadPool.singleton.runIfActive { try self.next() }.map { ByteBuffer(bytes: $0) }
        }
    }

    private func next() throws(Failure) -> [UInt8]? {
        let result: Result<[UInt8]?, Failure> = state.withLock { state in
            do {
                let bytes: [UInt8]?
                switch state.source {
                case .program(let program):
                    bytes = try program.read()
                    if bytes == nil, program.wait() != 0 {
                        throw Failure.failed(
                            "tar",
                            "The folder could not be packed whole (tar's words are above); see that nobody changes it, then try again.")
                    }
                case .file(let file): bytes = try file.read()
                }
                state.sent += UInt64(bytes?.count ?? 0)
                state.progress.show(state.sent, of: self.total)
                return .success(bytes)
            } catch {
                let failure = error as? Failure ?? .failed("archive", "The archive cannot be read, \(error); try again.")
                state.failure = failure
                return .failure(failure)
            }
        }
        return try result.get()
    }
}
