// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import NIOCore
public import Supervision

/// An HTTP request to a function's route, as it came.
public struct RoutedRequest: Sendable {
    public var tenant: Name
    public var method: String
    /// Below the tenant's root, percent-encoded as it was sent, and what stands behind `?`.
    public var path: String
    public var query: String
    /// What stands in the place of the route's `*`; nil where it has none.
    public var rest: String?
    public var headers: [(name: String, value: String)]
    public var body: [UInt8]
    public var sourceAddress: String
    /// `HTTP/1.1`.
    public var httpVersion: String
    public var id: InvocationID
    /// Milliseconds since 1970.
    public var time: UInt64
    public init(
        tenant: Name, method: String, path: String, query: String = "", headers: [(name: String, value: String)] = [], body: [UInt8] = [],
        sourceAddress: String, httpVersion: String = "HTTP/1.1", id: InvocationID, time: UInt64
    ) {
        self.tenant = tenant
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.sourceAddress = sourceAddress
        self.httpVersion = httpVersion
        self.id = id
        self.time = time
    }
}

/// Between HTTP and the events that functions of other platforms expect.
extension EventShape {
    /// What the function gets, and its content type; nil where it gets the request's body as it came.
    public func event(_ request: RoutedRequest) -> (body: [UInt8], contentType: String)? {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let event: Data?
        switch self {
        case .bulkhead: return nil
        case .awsAPIGateway2: event = try? encoder.encode(APIGatewayEvent(request))
        case .functionCompute: event = try? encoder.encode(FunctionComputeEvent(request))
        }
        return event.map { (Array($0), "application/json") }
    }

    /// Turns what the function answered into status, headers and body; call it where its runtime has not found a status in it already. Returns what is wrong with the answer, in words, or nil.
    public func shape(_ answer: inout FunctionAnswer) -> String? {
        guard self != .bulkhead else { return nil }
        let data = Data(answer.body.readableBytesView)
        let decoder = JSONDecoder()
        struct Probe: Decodable { var statusCode: Scalar? }
        guard let probe = try? decoder.decode(Probe.self, from: data), probe.statusCode != nil else {
            // No `statusCode`: the whole value is the body.
            let isJSON = answer.contentType.lowercased().hasPrefix("application/json")
            if isJSON, let text = try? decoder.decode(String.self, from: data) { answer.body = ByteBuffer(string: text) }
            if (try? JSONSerialization.jsonObject(with: data, options: .fragmentsAllowed)) != nil {
                answer.contentType = "application/json"
            }
            return nil
        }
        let shaped: ShapedAnswer
        do { shaped = try decoder.decode(ShapedAnswer.self, from: data) } catch {
            return "headers hold texts, `cookies` is a list of texts, `body` a text (turn an object into JSON first), "
                + "`isBase64Encoded` true or false"
        }
        guard let status = UInt16(shaped.statusCode.text), (200...599).contains(status) else {
            return "`statusCode` must be from 200 to 599, not \(shaped.statusCode.text.prefix(20))"
        }
        let text = shaped.body?.text ?? ""
        if shaped.isBase64Encoded == true {
            guard let bytes = Data(base64Encoded: text) else { return "`isBase64Encoded` is true and `body` is not base64" }
            answer.body = ByteBuffer(bytes: bytes)
        } else {
            answer.body = ByteBuffer(string: text)
        }
        answer.status = status
        answer.contentType = ""
        answer.headers = []
        let headers = (shaped.headers ?? [:]).merging(shaped.multiValueHeaders ?? [:]) { _, many in many }
        for (name, values) in headers.sorted(by: { $0.key < $1.key }) {
            if name.lowercased() == "content-type" {
                answer.contentType = values.texts.last ?? ""
            } else {
                answer.headers += values.texts.map { "\(name): \($0)" }
            }
        }
        if answer.contentType.isEmpty { answer.contentType = self == .awsAPIGateway2 ? "application/json" : "application/octet-stream" }
        answer.headers += (shaped.cookies ?? []).map { "Set-Cookie: \($0)" }
        return nil
    }
}

extension APIGatewayEvent {
    init(_ request: RoutedRequest) {
        let cookies = request.values("cookie").flatMap { $0.split(separator: ";") }.map { $0.trimmingCharacters(in: .whitespaces) }
        let (text, isEncoded) = request.text
        rawPath = request.path
        rawQueryString = request.query
        self.cookies = cookies.isEmpty ? nil : cookies
        // In lower case; cookies have their own place.
        headers = Dictionary(request.headers.map { ($0.name.lowercased(), $0.value) }) { "\($0),\($1)" }.filter { $0.key != "cookie" }
        let parameters = request.parameters
        queryStringParameters = parameters.isEmpty ? nil : parameters
        pathParameters = request.rest.map { ["proxy": $0.removingPercentEncoding ?? $0] }
        requestContext = Context(
            accountId: request.tenant.text, apiId: request.tenant.text, domainName: request.host, domainPrefix: request.hostPrefix,
            http: request.part(path: request.path), requestId: request.id.description, time: request.commonLogTime, timeEpoch: request.time)
        body = text.isEmpty ? nil : text
        isBase64Encoded = isEncoded
    }
}

extension FunctionComputeEvent {
    init(_ request: RoutedRequest) {
        (body, isBase64Encoded) = request.text
        rawPath = request.path
        // As they were written; the first spelling of a name stands for all.
        var names: [String: String] = [:]
        headers = Dictionary(
            request.headers.map { header in
                let name = names[header.name.lowercased(), default: header.name]
                names[header.name.lowercased()] = name
                return (name, header.value)
            }
        ) { "\($0),\($1)" }
        queryParameters = request.parameters
        requestContext = Context(
            accountId: request.tenant.text, domainName: request.host, domainPrefix: request.hostPrefix,
            http: request.part(path: request.path.removingPercentEncoding ?? request.path), requestId: request.id.description,
            time: request.isoTime, timeEpoch: "\(request.time)")
    }
}

extension RoutedRequest {
    fileprivate func values(_ name: String) -> [String] { headers.filter { $0.name.lowercased() == name }.map(\.value) }

    fileprivate var host: String { values("host").first ?? "" }
    fileprivate var hostPrefix: String { String(host.prefix { $0 != "." && $0 != ":" }) }

    fileprivate func part(path: String) -> HTTPPart {
        HTTPPart(
            method: method, path: path, protocol: httpVersion, sourceIp: sourceAddress, userAgent: values("user-agent").first ?? "")
    }

    /// The body as a text: itself where it is UTF-8, else base64.
    fileprivate var text: (String, isEncoded: Bool) {
        String(validating: body, as: UTF8.self).map { ($0, false) } ?? (Data(body).base64EncodedString(), true)
    }

    /// Decoded; the values of a name that is there several times are joined with commas.
    fileprivate var parameters: [String: String] {
        let pairs = query.split(separator: "&").map { pair in
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            func decoded(_ text: Substring) -> String {
                let blank = text.replacing("+", with: " ")
                return blank.removingPercentEncoding ?? String(blank)
            }
            return (decoded(sides[0]), sides.count == 2 ? decoded(sides[1]) : "")
        }
        return Dictionary(pairs) { "\($0),\($1)" }
    }

    /// `12/Mar/2020:19:03:58 +0000`.
    fileprivate var commonLogTime: String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "dd/MMM/yyyy:HH:mm:ss Z"
        return formatter.string(from: Date(timeIntervalSince1970: Double(time / 1000)))
    }

    /// `2023-09-05T06:41:11Z`.
    fileprivate var isoTime: String { ISO8601DateFormatter().string(from: Date(timeIntervalSince1970: Double(time / 1000))) }
}
