// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import CommandKit
import ControlAPI
import Core
import Foundation
import Glibc
import NIOCore
import NIOHTTP1

/// A connection to the node's control socket.
struct NodeClient: Sendable {
    private let client: HTTPClient
    private let socket: String

    enum Method: String {
        case get = "GET"
        case put = "PUT"
        case post = "POST"
        case delete = "DELETE"
    }

    /// An answer whose body may still be under way.
    struct Answer {
        var status: Int
        var headers: HTTPHeaders
        var body: HTTPClientResponse.Body
        var isSuccess: Bool { (200..<300).contains(status) }
        /// The first header of that name, in whichever case.
        func header(_ name: String) -> String? { headers.first(name: name) }
    }

    /// How long a command waits for the answer to a question about the node. Seconds.
    static let patience: Int64 = 60
    /// The longest answer to such a question, bytes.
    static let answerLimit = 64 << 20

    /// Connects for the time of `body`.
    static func with<R>(_ options: NodeOptions, _ body: (NodeClient) async throws -> R) async throws -> R {
        let socket = try NodePaths.current().controlSocket(state: options.state, exists: fileExists)
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        configuration.connectionPool.retryConnectionEstablishment = false
        configuration.timeout.connect = .seconds(5)
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        let result: Result<R, any Error>
        do {
            result = .success(try await body(NodeClient(client: client, socket: socket)))
        } catch {
            result = .failure(error)
        }
        try? await client.shutdown()
        return try result.get()
    }

    /// Sends a request and returns when the head of the answer is there.
    ///
    /// - Parameter deadline: for the whole exchange; nil where the node itself bounds it.
    func send(
        _ method: Method, _ uri: String, headers: [(String, String)] = [], body: HTTPClientRequest.Body? = nil,
        deadline: NIODeadline? = .now() + .seconds(patience)
    ) async throws -> Answer {
        guard let url = URL(httpURLWithSocketPath: socket, uri: uri) else {
            throw Failure.usage("'\(escaped(socket))' cannot be the path of a socket; choose another --state DIR.")
        }
        var request = HTTPClientRequest(url: url.absoluteString)
        request.method = HTTPMethod(rawValue: method.rawValue)
        request.headers = HTTPHeaders([("Host", "bulkhead"), ("User-Agent", Release.line.replacing(" ", with: "/"))] + headers)
        request.body = body
        do {
            let response = try await client.execute(request, deadline: deadline ?? .distantFuture)
            return Answer(status: Int(response.status.code), headers: response.headers, body: response.body)
        } catch {
            throw explain(error)
        }
    }

    /// Sends a request and returns the whole body of a good answer; any other answer is thrown as a ``Failure``.
    func bytes(
        _ method: Method, _ uri: String, headers: [(String, String)] = [], body: HTTPClientRequest.Body? = nil,
        deadline: NIODeadline? = .now() + .seconds(patience)
    ) async throws -> [UInt8] {
        let answer = try await send(method, uri, headers: headers, body: body, deadline: deadline)
        let content = try await collect(answer)
        guard answer.isSuccess else { throw Self.failure(status: answer.status, body: content) }
        return content
    }

    /// The rest of an answer's body.
    func collect(_ answer: Answer) async throws -> [UInt8] {
        do {
            var bytes: [UInt8] = []
            for try await part in answer.body {
                bytes += part.readableBytesView
                guard bytes.count <= Self.answerLimit else {
                    throw Failure.failed(
                        "internal", "The node's answer is longer than \(Units.bytes(UInt64(Self.answerLimit))); ask for less.")
                }
            }
            return bytes
        } catch {
            throw explain(error)
        }
    }

    /// The failure that an answer of the node means.
    static func failure(status: Int, body: [UInt8]) -> Failure {
        guard let problem = try? JSONDecoder().decode(Problem.self, from: Data(body)) else {
            return Failure(
                status: CommandStatus(httpStatus: status, code: nil), code: "http\(status)",
                sentence: "The node answered with HTTP status \(status) and no reason; see its output.")
        }
        let detail = escaped(Phrase.open(problem.detail.isEmpty ? problem.title : problem.detail))
        let hint = Hint.next(code: problem.code, ceiling: problem.ceiling, retryAfter: problem.retryAfter)
        return Failure(
            status: CommandStatus(httpStatus: status, code: problem.code), code: problem.code,
            sentence: detail + (hint.isEmpty ? "" : "; \(hint)") + "." + (problem.errors ?? []).map { "\n  " + escaped($0) }.joined(),
            problem: jsonEscaped(String(decoding: body, as: UTF8.self)))
    }

    /// The failure that a broken exchange means.
    func explain(_ error: any Error) -> any Error {
        let shown = escaped(socket)
        switch error {
        case is Failure, is CancellationError: return error
        case let error as IOError where error.errnoCode == EACCES || error.errnoCode == EPERM:
            return Failure(
                status: .unreachable, code: "unreachable",
                sentence: "You may not use \(shown); run the command with sudo, or join the group bulkhead.")
        case let error as IOError where error.errnoCode == ECONNREFUSED || error.errnoCode == ENOENT:
            return Failure(
                status: .unreachable, code: "unreachable", sentence: "No node listens at \(shown); start it with: bulkhead up --state DIR")
        case let error as HTTPClientError where error == .deadlineExceeded || error == .readTimeout:
            return Failure(
                status: .timedOut, code: "timedOut",
                sentence: "The node at \(shown) did not answer in \(Self.patience) s; look at its output, or restart it.")
        case let error as HTTPClientError where error == .connectTimeout || error == .getConnectionFromPoolTimeout:
            return Failure(
                status: .unreachable, code: "unreachable", sentence: "The node at \(shown) does not accept connections; restart it.")
        default:
            return Failure(
                status: .unreachable, code: "unreachable",
                sentence:
                    "The node at \(shown) broke off the exchange (\(escaped(String(describing: error)))); "
                    + "see whether it still runs, then try again."
            )
        }
    }
}

/// Percent-encodes one segment of a path or one value of a query (RFC 3986, section 2.3: only unreserved characters stay).
func percentEncoded(_ text: String) -> String {
    var out = ""
    for byte in text.utf8 {
        switch byte {
        case 48...57, 65...90, 97...122, 45, 46, 95, 126: out.unicodeScalars.append(Unicode.Scalar(byte))
        default: out += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
        }
    }
    return out
}
