// SPDX-License-Identifier: Apache-2.0
internal import Core
import Foundation

/// The event of API Gateway's HTTP API, payload format 2.0.
struct APIGatewayEvent: Encodable {
    struct Context: Encodable {
        var accountId: String
        var apiId: String
        var domainName: String
        var domainPrefix: String
        var http: HTTPPart
        var requestId: String
        var routeKey = "$default"
        var stage = "$default"
        var time: String
        /// Milliseconds since 1970.
        var timeEpoch: UInt64
    }
    var version = "2.0"
    var routeKey = "$default"
    var rawPath: String
    var rawQueryString: String
    var cookies: [String]?
    var headers: [String: String]
    var queryStringParameters: [String: String]?
    /// `proxy`, where the route ends with `*`.
    var pathParameters: [String: String]?
    var requestContext: Context
    var body: String?
    var isBase64Encoded: Bool
}

/// The event of Function Compute's HTTP trigger.
struct FunctionComputeEvent: Encodable {
    struct Context: Encodable {
        var accountId: String
        var domainName: String
        var domainPrefix: String
        var http: HTTPPart
        var requestId: String
        var time: String
        /// Milliseconds since 1970, as a text.
        var timeEpoch: String
    }
    var version = "v1"
    var rawPath: String
    var headers: [String: String]
    var queryParameters: [String: String]
    var body: String
    var isBase64Encoded: Bool
    var requestContext: Context
}

struct HTTPPart: Encodable {
    var method: String
    var path: String
    var `protocol`: String
    var sourceIp: String
    var userAgent: String
}

/// What a function of these platforms answers an HTTP request with.
struct ShapedAnswer: Decodable {
    var statusCode: Scalar
    var headers: [String: Scalars]?
    var multiValueHeaders: [String: Scalars]?
    var cookies: [String]?
    var body: Scalar?
    var isBase64Encoded: Bool?
}

/// A text, a number or a truth, as a text.
struct Scalar: Decodable {
    let text: String
    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let value = try? container.decode(Bool.self) {
            text = value ? "true" : "false"
        } else if let value = try? container.decode(Int64.self) {
            text = "\(value)"
        } else if let value = try? container.decode(Double.self) {
            text = "\(value)"
        } else {
            text = try container.decode(String.self)
        }
    }
}

/// One of them, or a list.
struct Scalars: Decodable {
    let texts: [String]
    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let list = try? container.decode([Scalar].self) {
            texts = list.map(\.text)
        } else {
            texts = container.decodeNil() ? [] : [try container.decode(Scalar.self).text]
        }
    }
}
