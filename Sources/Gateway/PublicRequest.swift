// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation
import NIOCore
import NIOHTTP1

/// A request to a public path whose trigger is found.
struct TriggerTarget {
    var function: FunctionID
    /// By name.
    var trigger: Name
    var authorization: TriggerAuthorization
    /// Nil where it is a queue.
    var route: Route?

    struct Route {
        var shape: EventShape
        /// Below the tenant's root and what stands behind `?`, both as they were sent.
        var path: String
        var query: String
        /// What stands in the place of the route's `*`.
        var rest: String?
    }
}

/// What of a request from outside reaches a function.
enum PublicRequest {
    /// The most header fields, and their bytes: they ride in one frame of the worker protocol beside the body.
    static let fieldLimit = 128
    static let fieldBytesLimit = 32 << 10

    /// The longest event that a request is turned into, in bytes: what one frame of the worker protocol carries.
    static let eventLimit = 8 << 20

    /// About one connection and not about the request (RFC 9110, section 7.6.1), and what is said to this node and not to the function.
    private static let dropped: Set<String> = [
        "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    ]

    static func hasTooManyFields(_ headers: HTTPHeaders) -> Bool {
        headers.count > fieldLimit || headers.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count } > fieldBytesLimit
    }

    /// - Parameter authorization: a key of the tenant opens more than this function: it is not handed on.
    static func headers(_ headers: HTTPHeaders, _ authorization: TriggerAuthorization) -> [(name: String, value: String)] {
        let named = Set(headers[canonicalForm: "connection"].map { $0.lowercased() })
        return headers.compactMap { name, value in
            let lower = name.lowercased()
            guard !dropped.contains(lower), !named.contains(lower), !lower.hasPrefix("bulkhead-") else { return nil }
            if authorization == .key, lower == "authorization" { return nil }
            return (name, value)
        }
    }

    /// Beside the body, for our own shape. A header's name cannot begin with `:` (RFC 9110, section 5.6.2).
    static func lines(_ request: RoutedRequest) -> [String] {
        var lines = [
            ":method: \(request.method)", ":path: \(request.path)", ":query: \(request.query)", ":source: \(request.sourceAddress)",
        ]
        if let rest = request.rest { lines.append(":rest: \(rest)") }
        return lines + request.headers.map { "\($0.name.lowercased()): \($0.value)" }
    }

    /// What a message is about, for the test for loops without lineage: its content, as digits, for a receiver outside that goes round says the same again and again.
    static func subject(_ body: ByteBuffer) -> String {
        body.readableBytes == 0 || body.readableBytes > 64 << 10 ? "" : "\(UInt(bitPattern: body.hashValue))"
    }

    /// What the `*` of a route stands for; nil without one.
    static func rest(_ route: String, _ path: String) -> String? {
        route.utf8.last == 0x2A ? String(Substring(path.utf8.dropFirst(route.utf8.count - 1))) : nil
    }
}

/// Several messages in one push: a line each, as JSON.
enum QueueBatch {
    static let contentType = "application/x-ndjson"
    static let lineLimit = 1_000
    /// The longest line, in bytes.
    static let lineBytesLimit = 64 << 10

    static func isOne(_ headers: HTTPHeaders) -> Bool {
        let type = headers.first(name: "content-type")?.prefix { $0 != ";" }.trimmingCharacters(in: .whitespaces)
        return type?.lowercased() == contentType
    }

    /// The messages, with the numbers of their lines. Empty lines are none.
    static func parse(_ body: [UInt8]) -> Result<[(line: Int, bytes: [UInt8])], Problem> {
        var found: [(line: Int, bytes: [UInt8])] = []
        var rest = body[...]
        var index = -1
        // One line at a time: a body of line breaks alone would be millions of parts.
        while !rest.isEmpty {
            let part = rest.prefix { $0 != 0x0A }
            rest = rest.dropFirst(part.count + 1)
            index += 1
            let line = part.last == 0x0D ? part.dropLast() : part
            guard !line.allSatisfy({ $0 == 0x20 || $0 == 0x09 }) else { continue }
            guard found.count < lineLimit else {
                return .failure(refusal("a batch has at most \(lineLimit) lines: send the rest in another one"))
            }
            guard line.count <= lineBytesLimit else {
                return .failure(
                    refusal("line \(index + 1) has \(line.count) bytes, more than \(lineBytesLimit): send it alone", status: 413))
            }
            guard (try? JSONSerialization.jsonObject(with: Data(line), options: .fragmentsAllowed)) != nil else {
                return .failure(refusal("line \(index + 1) is not JSON"))
            }
            found.append((index + 1, Array(line)))
        }
        return found.isEmpty ? .failure(refusal("a batch has a JSON value on each line, and this one has none")) : .success(found)
    }

    private static func refusal(_ sentence: String, status: Int = 400) -> Problem {
        Problem(code: "badBatch", title: "The batch is refused", status: status, detail: "\(sentence). Nothing of it was stored")
    }
}
