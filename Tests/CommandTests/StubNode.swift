// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc

/// A node that answers what a test tells it to, over a real control socket. It writes every request that it got to a file.
final class StubNode {
    /// What it answers: status, headers, body.
    struct Reply: Encodable {
        var status = 200
        var headers: [String: String] = [:]
        var body = ""
        /// The body is cut off after this many bytes, and the connection with it.
        var breaksAfter: Int?
        /// Seconds before it answers.
        var delay: Double?
        /// Other answers for `METHOD /path`, one for each request, the last one for all further.
        var routes: [String: [Reply]]?
        /// A file whose content it notes with every request.
        var watches: String?
    }

    struct Request: Decodable {
        var method: String
        var path: String
        var headers: [String: String]
        /// Base64.
        var body: String
        /// Of the watched file; nil where there is none.
        var watched: String?
        var bytes: [UInt8] { Data(base64Encoded: body).map { [UInt8]($0) } ?? [] }
    }

    let folder: TemporaryFolder
    private let server: ChildProgram

    static let isAvailable = isExecutableFile("/usr/bin/python3")

    /// - Parameter make: the answer, for a node on this state directory.
    convenience init(_ make: (String) -> Reply) throws {
        let folder = try TemporaryFolder()
        try self.init(make(folder.path), folder)
    }

    convenience init(_ reply: Reply) throws { try self.init(reply, TemporaryFolder()) }

    private init(_ reply: Reply, _ folder: TemporaryFolder) throws {
        self.folder = folder
        try FileManager.default.createDirectory(atPath: folder.path + "/run", withIntermediateDirectories: false)
        try JSONEncoder().encode(reply).write(to: URL(fileURLWithPath: folder.path + "/reply.json"))
        server = try ChildProgram(["/usr/bin/python3", "-c", Self.program, folder.path])
        guard try server.read() != nil else { throw Failure.failed("stub", "the stub did not start") }
    }

    func requests() throws -> [Request] {
        guard let text = try? folder.read("requests") else { return [] }
        return try text.split(separator: "\n").map { try JSONDecoder().decode(Request.self, from: Data($0.utf8)) }
    }

    private static let program = """
        import base64, http.server, json, os, socketserver, sys
        import time
        top = sys.argv[1]
        served = {}
        def watched(path):
            try: return open(path, errors="replace").read()
            except OSError: return None
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    out = b""
                    while True:
                        size = int(self.rfile.readline(), 16)
                        out += self.rfile.read(size)
                        self.rfile.readline()
                        if size == 0: return out
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            def serve(self):
                body = self.body()
                reply = json.load(open(top + "/reply.json"))
                with open(top + "/requests", "a") as file:
                    file.write(json.dumps({"method": self.command, "path": self.path,
                                           "watched": watched(reply.get("watches") or ""),
                                           "headers": {k.lower(): v for k, v in self.headers.items()},
                                           "body": base64.b64encode(body).decode()}) + "\\n")
                name = self.command + " " + self.path.split("?")[0]
                if name in (reply.get("routes") or {}):
                    replies = reply["routes"][name]
                    served[name] = served.get(name, 0) + 1
                    reply = replies[min(served[name], len(replies)) - 1]
                time.sleep(reply.get("delay") or 0)
                data = reply["body"].encode()
                self.send_response(reply["status"])
                for name, value in reply["headers"].items(): self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:reply.get("breaksAfter")])
                if reply.get("breaksAfter") is not None: self.close_connection = True
            do_GET = do_PUT = do_POST = do_DELETE = serve
            def log_message(self, *words): pass
            def address_string(self): return "unix"
        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            def get_request(self): return self.socket.accept()[0], ("unix", 0)
        server = Server(top + "/run/control.sock", Handler)
        print("ready", flush=True)
        server.serve_forever()
        """
}

/// Runs the command that was built beside this test.
struct CommandRun {
    var output: String
    var error: String
    var code: Int32

    static let executable = URL(fileURLWithPath: (try? canonical("/proc/self/exe")) ?? "").deletingLastPathComponent().path + "/bulkhead"
    static let isAvailable = isExecutableFile(executable)

    init(_ arguments: [String], input: String = "", environment: [String] = [], in folder: TemporaryFolder) throws {
        try folder.write(input, to: "stdin")
        let script = "exec \"$0\" \"$@\" < '\(folder.path)/stdin' 2> '\(folder.path)/stderr'"
        (output, code) = try ChildProgram.run(
            ["/bin/sh", "-c", script, Self.executable] + arguments, environment: ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"] + environment)
        error = try folder.read("stderr")
    }
}
