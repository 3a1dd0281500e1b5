// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NIOCore
import Testing

@testable import Gateway
@testable import Supervision

private func request(_ body: [UInt8], query: String = "parameter1=value1&parameter1=value2&parameter2=a%20b+c") throws -> RoutedRequest {
    RoutedRequest(
        tenant: try #require(Name("acme")), method: "POST", path: "/my/p%C3%A4th", query: query,
        headers: [
            ("Header1", "value1"), ("header1", "value2"), ("Cookie", "cookie1=x; cookie2=y"), ("Host", "id.example.org:8080"),
            ("User-Agent", "agent"), ("Content-Type", "text/plain"),
        ], body: body, sourceAddress: "192.0.2.1", id: try #require(InvocationID("00000000000000000000000000000001")),
        time: 1_583_348_638_390)
}

private func json(_ bytes: [UInt8]) throws -> NSDictionary {
    try #require(try JSONSerialization.jsonObject(with: Data(bytes)) as? NSDictionary)
}

private func answer(_ body: String, _ shape: EventShape) -> (answer: FunctionAnswer, problem: String?) {
    var answer = FunctionAnswer(
        status: nil, contentType: "application/json", headers: ["X-Own: 1"], body: ByteBuffer(string: body), isStreamed: false)
    let problem = shape.shape(&answer)
    return (answer, problem)
}

@Suite struct EventShapeTests {
    @Test("the event of API Gateway's HTTP API, format 2.0, as documented")
    func apiGateway() throws {
        let event = try #require(EventShape.awsAPIGateway2.event(try request(Array("Hello from Lambda".utf8))))
        let expected = """
            {"version": "2.0", "routeKey": "$default", "rawPath": "/my/p%C3%A4th",
             "rawQueryString": "parameter1=value1&parameter1=value2&parameter2=a%20b+c", "cookies": ["cookie1=x", "cookie2=y"],
             "headers": {"header1": "value1,value2", "host": "id.example.org:8080", "user-agent": "agent", "content-type": "text/plain"},
             "queryStringParameters": {"parameter1": "value1,value2", "parameter2": "a b c"},
             "requestContext": {"accountId": "acme", "apiId": "acme", "domainName": "id.example.org:8080", "domainPrefix": "id",
               "http": {"method": "POST", "path": "/my/p%C3%A4th", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "agent"},
               "requestId": "00000000000000000000000000000001", "routeKey": "$default", "stage": "$default",
               "time": "04/Mar/2020:19:03:58 +0000", "timeEpoch": 1583348638390},
             "body": "Hello from Lambda", "isBase64Encoded": false}
            """
        #expect(try json(event.body) == json(Array(expected.utf8)))
        #expect(event.contentType == "application/json")
        let plain = try json(try #require(EventShape.awsAPIGateway2.event(try request([], query: ""))).body)
        #expect(plain["body"] == nil && plain["queryStringParameters"] == nil)
    }

    @Test("the event of Function Compute's HTTP trigger, as documented")
    func functionCompute() throws {
        let event = try #require(EventShape.functionCompute.event(try request(Array("Hello FC!".utf8))))
        let expected = """
            {"version": "v1", "rawPath": "/my/p%C3%A4th",
             "headers": {"Header1": "value1,value2", "Cookie": "cookie1=x; cookie2=y", "Host": "id.example.org:8080", "User-Agent": "agent",
               "Content-Type": "text/plain"},
             "queryParameters": {"parameter1": "value1,value2", "parameter2": "a b c"}, "body": "Hello FC!", "isBase64Encoded": false,
             "requestContext": {"accountId": "acme", "domainName": "id.example.org:8080", "domainPrefix": "id",
               "http": {"method": "POST", "path": "/my/p\u{e4}th", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "agent"},
               "requestId": "00000000000000000000000000000001", "time": "2020-03-04T19:03:58Z", "timeEpoch": "1583348638390"}}
            """
        #expect(try json(event.body) == json(Array(expected.utf8)))
    }

    @Test("a body that is no text is base64", arguments: [EventShape.awsAPIGateway2, .functionCompute])
    func binary(shape: EventShape) throws {
        let event = try json(try #require(shape.event(try request([0xFF, 0x00, 0x61]))).body)
        #expect(event["body"] as? String == "/wBh" && event["isBase64Encoded"] as? Bool == true)
    }

    @Test("our own shape is the request itself")
    func own() throws {
        #expect(EventShape.bulkhead.event(try request([1])) == nil)
        let (kept, problem) = answer("{\"statusCode\": 404}", .bulkhead)
        #expect(
            problem == nil && kept.status == nil && kept.headers == ["X-Own: 1"] && kept.body == ByteBuffer(string: "{\"statusCode\": 404}")
        )
    }

    @Test("an answer with a status becomes status, headers, cookies and body")
    func shaped() {
        let (made, problem) = answer(
            """
            {"statusCode": 201, "headers": {"Content-Type": "text/html", "X-A": "1", "X-N": 7}, "multiValueHeaders": {"X-M": ["a", "b"]},
             "cookies": ["c=1; Secure", "d=2"], "body": "<p>"}
            """, .awsAPIGateway2)
        #expect(problem == nil && made.status == 201 && made.contentType == "text/html" && made.body == ByteBuffer(string: "<p>"))
        #expect(made.headers == ["X-A: 1", "X-M: a", "X-M: b", "X-N: 7", "Set-Cookie: c=1; Secure", "Set-Cookie: d=2"])
        let (binary, none) = answer("{\"statusCode\": \"200\", \"isBase64Encoded\": true, \"body\": \"/wBh\"}", .functionCompute)
        #expect(none == nil && binary.status == 200 && binary.body == ByteBuffer(bytes: [0xFF, 0x00, 0x61]))
    }

    @Test(
        "an answer without a status is the body",
        arguments: [("\"Hello\"", "Hello"), ("{\"a\":1}", "{\"a\":1}"), ("[1]", "[1]"), ("7", "7")])
    func bare(body: String, expected: String) {
        let (made, problem) = answer(body, .awsAPIGateway2)
        #expect(problem == nil && made.status == nil && made.body == ByteBuffer(string: expected) && made.contentType == "application/json")
    }

    @Test(
        "a malformed answer is said, not guessed",
        arguments: [
            ("{\"statusCode\": 99}", "from 200 to 599"), ("{\"statusCode\": \"x\"}", "from 200 to 599"),
            ("{\"statusCode\": 1e9}", "from 200"),
            ("{\"statusCode\": 200, \"body\": {\"a\": 1}}", "turn an object into JSON first"),
            ("{\"statusCode\": 200, \"headers\": []}", "headers hold"),
            ("{\"statusCode\": 200, \"isBase64Encoded\": true, \"body\": \"!\"}", "is not base64"),
            ("{\"statusCode\": 200, \"cookies\": \"a\"}", "`cookies`"),
        ])
    func malformed(body: String, sentence: String) {
        #expect(answer(body, .functionCompute).problem?.contains(sentence) == true)
    }

    @Test("public paths name a tenant's route or a queue, and nothing else does")
    func paths() throws {
        let acme = try #require(Name("acme")), name = try #require(Name("f")), queue = try #require(Name("queue-1"))
        #expect(PublicPath("/t/acme/a//b/%2e?x=/t/&y") == .route(acme, path: "/a//b/%2e", query: "x=/t/&y"))
        #expect(PublicPath("/t/acme") == .route(acme, path: "/", query: "") && PublicPath("/t/acme/") == PublicPath("/t/acme"))
        #expect(PublicPath("/q/acme/f/queue-1") == .queue(FunctionID(tenant: acme, function: name), trigger: queue))
        for other in ["", "/", "/t", "/t/", "/t/A/x", "t/acme/x", "/v1/tenants", "/q/acme/f", "/q/acme/f/queue-1/x", "/t\u{301}/acme/x"] {
            #expect(PublicPath(other) == nil, "\(other)")
        }
    }
}
