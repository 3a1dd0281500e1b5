// SPDX-License-Identifier: Apache-2.0
import ControlAPI

/// One thing that HTTP offers: what it is for, who may, what it takes and gives. The router asks the table which parameters a path takes, and the reference is made of it.
public struct Route: Sendable {
    public typealias Body = any (Decodable & SendableMetatype).Type

    /// Who may call it. A key may what the scopes that it was made with name, `admin` everything of its tenant; operators, on the control socket, may everything.
    public enum Access: String, Sendable { case anyone, invoke, deploy, admin, `operator` }

    public enum Content: Sendable {
        case nothing
        case json(Body)
        case list(Body)
        /// JSON objects, one a line.
        case lines(Body?)
        case text
        case bytes
        case archive
    }

    public let method: String
    /// With names in braces; `{key}` at the end may hold slashes.
    public let path: String
    public let access: Access
    public let summary: String
    public let query: [String]
    public let takes: Content
    public let status: Int
    public let gives: Content

    init(
        _ method: String, _ path: String, _ access: Access, _ summary: String, query: [String] = [], takes: Content = .nothing,
        status: Int = 200, gives: Content
    ) {
        self.method = method
        self.path = path
        self.access = access
        self.summary = summary
        self.query = query
        self.takes = takes
        self.status = status
        self.gives = gives
    }

    /// Whether it is the path of what stands below `/v1/tenants/T` or `/v1`.
    func isBelow(_ rest: [String]) -> Bool {
        guard path.hasPrefix("/v1/") else { return false }
        let parts = path.split(separator: "/").dropFirst(path.hasPrefix(Routes.tenant) ? 3 : 1)
        return parts.count == rest.count && zip(parts, rest).allSatisfy { $0.hasPrefix("{") || $0 == $1 }
    }
}

public enum Routes {
    static let tenant = "/v1/tenants/{tenant}"
    private static let function = tenant + "/functions/{function}"
    private static let alias = function + "/aliases/{alias}"
    private static let bucket = tenant + "/buckets/{bucket}"
    private static let logs = ["tail", "since", "until", "invocation", "grep", "level"]
    private static let logsOfTenant = ["version"] + logs + ["after"]
    private static let explanation = """
        Every decision on one of the last invocations, or on an earlier one that was refused, failed, took a second or was an event's.
        """
    private static let failures = ["function", "outcome", "since", "until", "limit"]
    private static let audit = ["since", "until", "tail", "grep"]

    public static let all: [Route] = node + triggers + functions + events + buckets + operators

    private static let triggers: [Route] = [
        Route(
            "GET", "/t/{tenant}/{path}", .anyone,
            "A path of a function's HTTP trigger, which says its methods and whether it asks for a key or a signature.", gives: .bytes),
        Route("POST", "/t/{tenant}/{path}", .anyone, "The same, with a body.", takes: .bytes, gives: .bytes),
        Route(
            "POST", "/q/{tenant}/{function}/{trigger}", .anyone,
            "Sends an event, or with application/x-ndjson a batch, to a queue trigger, which asks for a key or a signature.",
            takes: .bytes, status: 202, gives: .bytes),
    ]

    /// Whether something of the whole node has this path; `rest` is what stands below `/v1`.
    static func isOfNode(_ rest: [String]) -> Bool { all.contains { !$0.path.hasPrefix(tenant + "/") && $0.isBelow(rest) } }

    /// Whether a tenant has this path; `rest` is what stands below `/v1/tenants/T`. An object's key may have any number of slashes.
    static func isOfTenant(_ rest: [String]) -> Bool {
        let isObject = rest.count > 4 && rest[0] == "buckets" && rest[2] == "objects"
        return isObject || all.contains { $0.path.hasPrefix(tenant + "/") && $0.isBelow(rest) }
    }

    private static let node: [Route] = [
        Route("GET", "/healthz", .anyone, "Whether the daemon answers.", gives: .text),
        Route("GET", "/readyz", .anyone, "Whether calls are taken: 200, or 503 while it starts or drains.", gives: .text),
        Route("GET", "/metrics", .operator, "Figures in the Prometheus text format.", gives: .text),
        Route(
            "GET", "/v1/version", .operator, "The release, its runtimes and the folder of its configuration.", gives: .json(NodeReply.self)),
        Route("GET", "/v1/tenants", .operator, "All tenants with what they use.", gives: .list(TenantReply.self)),
        Route(
            "GET", "/v1/restart", .operator, "The daemon that answers, and what it took over from the one before.",
            gives: .json(RestartReply.self)),
        Route(
            "POST", "/v1/restart", .operator, "Puts a new daemon, and a new spawner's program, in place without an end of the service.",
            takes: .json(RestartRequest.self), status: 202,
            gives: .json(RestartReply.self)),
        Route("GET", "/v1/drain", .operator, "Whether the node drains, and what runs still.", gives: .json(DrainReply.self)),
        Route(
            "POST", "/v1/drain", .operator, "Takes no new work from now on, or takes it again.", takes: .json(DrainRequest.self),
            gives: .json(DrainReply.self)),
        Route(
            "POST", "/v1/reload", .operator, "Reads the configuration again: all or nothing.", takes: .json(ReloadRequest.self),
            gives: .json(ReloadReply.self)),
        Route("GET", tenant + "/quota", .invoke, "A tenant's ceilings and what of them is used.", gives: .json(QuotaReply.self)),
        Route(
            "GET", tenant + "/usage", .invoke, "What a tenant used: by total, function, hour or day.", query: ["from", "to", "by"],
            gives: .list(UsageReply.self)),
        Route("GET", tenant + "/keys", .admin, "A tenant's keys without their secrets.", gives: .list(KeyReply.self)),
        Route(
            "POST", tenant + "/keys", .admin, "Makes a key, which is shown this once.", takes: .json(KeyRequest.self), status: 201,
            gives: .json(KeyReply.self)),
        Route(
            "POST", tenant + "/keys/{key}/rotate", .admin, "Makes a key in place of another, which ends after a time.",
            takes: .json(KeyRotationRequest.self), status: 201, gives: .json(KeyReply.self)),
        Route("DELETE", tenant + "/keys/{key}", .admin, "Revokes a key for good.", status: 204, gives: .nothing),
        Route("GET", tenant + "/audit", .admin, "Who changed what of a tenant.", query: audit, gives: .lines(nil)),
    ]

    private static let functions: [Route] = [
        Route("GET", tenant + "/functions", .invoke, "A tenant's functions.", gives: .list(FunctionReply.self)),
        Route(
            "PUT", tenant + "/functions", .deploy,
            "Deploys an archive (tar, tar.gz or zip) as the next version of the function that its function.yaml names.", takes: .archive,
            status: 201, gives: .json(VersionReply.self)),
        Route("DELETE", function, .deploy, "Deletes a function with all its versions.", status: 204, gives: .nothing),
        Route(
            "POST", function + "/invocations", .invoke,
            "Invokes a function: waits for its answer, or takes an event in (202) with `Bulkhead-Invocation-Type: async`.",
            query: ["version", "alias"], takes: .bytes, gives: .bytes),
        Route("GET", function + "/versions", .invoke, "A function's versions.", gives: .list(VersionReply.self)),
        Route("DELETE", function + "/versions/{version}", .deploy, "Deletes one version.", status: 204, gives: .nothing),
        Route("GET", function + "/aliases", .invoke, "A function's aliases.", gives: .list(AliasReply.self)),
        Route("GET", alias, .invoke, "One alias, with the figures of its canary.", gives: .json(AliasReply.self)),
        Route("PUT", alias, .deploy, "Makes or moves an alias.", takes: .json(AliasRequest.self), gives: .json(AliasReply.self)),
        Route("DELETE", alias, .deploy, "Deletes an alias.", status: 204, gives: .nothing),
        Route(
            "POST", function + "/rollback", .deploy, "Ends an alias's canary, or moves it back to the version before.",
            takes: .json(RollbackRequest.self), gives: .json(AliasReply.self)),
        Route("GET", tenant + "/applications", .invoke, "Functions by application, summed up.", gives: .list(ApplicationReply.self)),
        Route("GET", tenant + "/workers", .invoke, "A tenant's live workers.", gives: .list(WorkerReply.self)),
        Route("GET", tenant + "/top", .invoke, "What runs now, function by function.", gives: .json(TopReply.self)),
        Route(
            "GET", tenant + "/logs", .invoke, "What a tenant's workers wrote; the header Bulkhead-Log-Position says where to go on.",
            query: ["function"] + logsOfTenant, gives: .lines(LogReply.self)),
        Route("GET", function + "/logs", .invoke, "The same of one function.", query: logsOfTenant, gives: .lines(LogReply.self)),
    ]

    private static let events: [Route] = [
        Route(
            "GET", tenant + "/events", .deploy, "A tenant's events.", query: ["function", "state", "limit", "after"],
            gives: .json(EventPageReply.self)),
        Route("GET", tenant + "/events/{invocation}/payload", .deploy, "An event's payload, as it came.", gives: .bytes),
        Route(
            "GET", tenant + "/dead-letters", .deploy, "Events that used up their attempts or age.", query: ["function", "limit", "after"],
            gives: .json(EventPageReply.self)),
        Route(
            "POST", tenant + "/dead-letters/redrive", .deploy, "Gives dead letters another chance.", takes: .json(DeadLetterRequest.self),
            gives: .json(RedriveReply.self)),
        Route(
            "POST", tenant + "/dead-letters/purge", .deploy, "Removes dead letters for good.", takes: .json(DeadLetterRequest.self),
            gives: .json(PurgeReply.self)),
        Route("GET", tenant + "/invocations/{invocation}", .invoke, "One event and what became of it.", gives: .json(EventReply.self)),
        Route("DELETE", tenant + "/invocations/{invocation}", .invoke, "Stops an event that waits.", gives: .json(EventReply.self)),
        Route(
            "GET", tenant + "/invocations/{invocation}/explain", .invoke, explanation,
            gives: .json(ExplainReply.self)),
        Route(
            "GET", tenant + "/failures", .deploy, "A tenant's failed and refused calls, by the time of their ends.", query: failures,
            gives: .json(FailurePageReply.self)),
        Route("GET", tenant + "/loops", .deploy, "Edges that the loop governor watches or has broken.", gives: .list(LoopReply.self)),
        Route(
            "POST", tenant + "/loops/resume", .deploy, "Closes a broken edge again.", takes: .json(LoopResumeRequest.self),
            gives: .json(LoopReply.self)),
        Route(
            "GET", tenant + "/triggers", .deploy, "What starts a tenant's functions.", query: ["function"], gives: .list(TriggerReply.self)),
    ]

    private static let buckets: [Route] = [
        Route("GET", tenant + "/buckets", .invoke, "A tenant's buckets.", gives: .list(BucketReply.self)),
        Route("PUT", bucket, .admin, "Makes a bucket.", status: 201, gives: .json(BucketReply.self)),
        Route(
            "DELETE", bucket, .admin, "Deletes an empty bucket, or any with `force=true`.", query: ["force"], status: 204, gives: .nothing),
        Route(
            "GET", bucket + "/objects", .invoke, "A bucket's objects, page by page.", query: ["prefix", "limit", "after"],
            gives: .json(ObjectPage.self)),
        Route("GET", bucket + "/objects/{key}", .invoke, "An object.", gives: .bytes),
        Route(
            "PUT", bucket + "/objects/{key}", .invoke, "Writes an object: all of it or nothing.", takes: .bytes, status: 201,
            gives: .json(ObjectReply.self)),
        Route("DELETE", bucket + "/objects/{key}", .invoke, "Deletes an object.", status: 204, gives: .nothing),
    ]

    /// The same over all tenants, and what leaves files on the node.
    private static let operators: [Route] = [
        Route("GET", "/v1/audit", .operator, "Who changed what, of all tenants and of the node.", query: audit, gives: .lines(nil)),
        Route(
            "GET", "/v1/logs", .operator,
            """
            The newest of what all tenants' workers wrote, by time; the header Bulkhead-Log-More says that this may not be all. A tenant's can be followed, \
            these not.
            """,
            query: ["function"] + logs, gives: .lines(LogReply.self)),
        Route("GET", "/v1/functions", .operator, "All functions.", gives: .list(FunctionReply.self)),
        Route("GET", "/v1/applications", .operator, "All applications.", gives: .list(ApplicationReply.self)),
        Route("GET", "/v1/top", .operator, "What runs now on the node.", gives: .json(TopReply.self)),
        Route("GET", "/v1/workers", .operator, "All live workers.", gives: .list(WorkerReply.self)),
        Route(
            "GET", "/v1/workers/{worker}", .operator, "A worker's posture: what is sealed and what is not.", gives: .json(InspectReply.self)
        ),
        Route(
            "GET", "/v1/invocations/{invocation}/explain", .operator, explanation,
            gives: .json(ExplainReply.self)),
        Route("GET", "/v1/invocations/{invocation}", .operator, "One event of any tenant.", gives: .json(EventReply.self)),
        Route("DELETE", "/v1/invocations/{invocation}", .operator, "Stops an event of any tenant.", gives: .json(EventReply.self)),
        Route(
            "GET", "/v1/events", .operator, "Events of all tenants.", query: ["function", "state", "limit", "after"],
            gives: .json(EventPageReply.self)),
        Route("GET", "/v1/events/{invocation}/payload", .operator, "An event's payload, of any tenant.", gives: .bytes),
        Route(
            "GET", "/v1/dead-letters", .operator, "Dead letters of all tenants.", query: ["function", "limit", "after"],
            gives: .json(EventPageReply.self)),
        Route(
            "POST", "/v1/dead-letters/redrive", .operator, "Gives dead letters of any tenant another chance.",
            takes: .json(DeadLetterRequest.self), gives: .json(RedriveReply.self)),
        Route(
            "POST", "/v1/dead-letters/purge", .operator, "Removes dead letters of any tenant.", takes: .json(DeadLetterRequest.self),
            gives: .json(PurgeReply.self)),
        Route(
            "GET", "/v1/failures", .operator, "Failed and refused calls of all tenants, by the time of their ends.", query: failures,
            gives: .json(FailurePageReply.self)),
        Route("GET", "/v1/loops", .operator, "Edges of all tenants.", gives: .list(LoopReply.self)),
        Route(
            "POST", "/v1/loops/resume", .operator, "Closes a broken edge of any tenant.", takes: .json(LoopResumeRequest.self),
            gives: .json(LoopReply.self)),
        Route("GET", "/v1/triggers", .operator, "Triggers of all tenants.", query: ["function"], gives: .list(TriggerReply.self)),
        Route(
            "POST", "/v1/snapshots", .operator, "Copies the node's state for a backup.", query: ["buckets", "logs"], status: 201,
            gives: .json(SnapshotReply.self)),
        Route("DELETE", "/v1/snapshots/{snapshot}", .operator, "Removes such a copy.", status: 204, gives: .nothing),
        Route(
            "POST", "/v1/exports", .operator, "Copies one tenant for an export.", takes: .json(ExportRequest.self), status: 201,
            gives: .json(ExportReply.self)),
        Route(
            "POST", "/v1/imports", .operator, "Takes in a tenant that was unpacked on the node.", takes: .json(ImportRequest.self),
            status: 201, gives: .json(ImportReply.self)),
        Route(
            "DELETE", "/v1/imports/{tenant}", .operator, "Undoes an import whose tenant is not configured yet.", status: 204,
            gives: .nothing),
    ]
}

extension RequestPath {
    /// Refuses parameters that a control route does not know: one that is overlooked answers another question than the one that was asked.
    /// - Parameter rest: what stands below `/v1/tenants/T` or `/v1`.
    func check(_ rest: [String]) throws { if let problem = objection(rest) { throw problem } }

    /// The same, as an answer; nil where every parameter is known.
    func objection(_ rest: [String]) -> Problem? {
        guard !query.isEmpty else { return nil }
        // Of two paths that end alike, the node's and a tenant's, each has its own.
        let isOfTenant = ControlRoutes.tenant(self) != nil
        let routes = Routes.all.filter { $0.isBelow(rest) && $0.path.hasPrefix(Routes.tenant + "/") == isOfTenant }
        // What is not there says so itself.
        guard !routes.isEmpty else { return nil }
        let known = routes.flatMap(\.query).reduce(into: [String]()) { known, name in
            if !known.contains(name) { known.append(name) }
        }
        guard let unknown = query.keys.filter({ !known.contains($0) }).min() else { return nil }
        let hint = known.isEmpty ? "it takes none" : "it takes \(known.joined(separator: ", "))"
        return Problem.badRequest("this resource has no parameter `\(unknown.prefix(60))`; \(hint)")
    }
}
