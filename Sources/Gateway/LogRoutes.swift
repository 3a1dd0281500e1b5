// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
import Foundation

/// What a caller wants of the logs.
public struct LogFilter: Hashable, Sendable {
    public var function: Name?
    public var version: UInt32?
    public var invocation: String?
    public var grep: String?
    /// The lowest level; of ``LogRoutes/levels``.
    public var level: String?
    public var since: UInt64 = 0
    public var until: UInt64 = .max
    public var tail = 100
    /// Only what stands behind this position, oldest first; ``LogLines/position`` of an earlier answer, or `start`.
    public var after: String?
    public init() {}
}

/// Lines of a log, and where to go on.
public struct LogLines: Sendable {
    public var lines: [LogReply]
    /// Nil for those of all tenants: it is a place in one tenant's log.
    public var position: String?
    /// More stands behind ``position`` already; of all tenants, some of that time may have been left out.
    public var isMore: Bool
    /// Lines were removed between the asked position and the first one of these.
    public var isGap: Bool
    public init(lines: [LogReply], position: String?, isMore: Bool = false, isGap: Bool = false) {
        self.lines = lines
        self.position = position
        self.isMore = isMore
        self.isGap = isGap
    }
}

/// `GET .../logs` of a tenant or a function, and `GET /v1/logs` of all.
public enum LogRoutes {
    /// From the lowest on.
    public static let levels = ["debug", "info", "warning", "error"]

    static func answer(_ tenant: Name?, _ function: Name?, _ path: RequestPath, _ service: any NodeService) async throws -> ControlAnswer {
        let filter = try filter(function, path)
        if tenant == nil { try check(filter) }
        let page = try await service.logs(tenant, filter)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var out: [UInt8] = []
        for line in page.lines {
            out += Array(try encoder.encode(line))
            out.append(0x0A)
        }
        var answer = ControlAnswer(status: 200, contentType: "application/x-ndjson", body: out)
        if let position = page.position { answer.headers.append(("Bulkhead-Log-Position", position)) }
        if page.isMore { answer.headers.append(("Bulkhead-Log-More", "true")) }
        if page.isGap { answer.headers.append(("Bulkhead-Log-Gap", "true")) }
        return answer
    }

    /// What can have no line is not looked for in the logs of all tenants.
    private static func check(_ filter: LogFilter) throws {
        guard filter.since <= filter.until else { throw Problem.badRequest("until is before since: change one, or leave it away") }
        guard filter.invocation.map({ InvocationID($0) != nil }) ?? true else {
            throw Problem.badRequest("invocation must be an invocation's id, which has 32 hexadecimal digits")
        }
    }

    private static func filter(_ function: Name?, _ path: RequestPath) throws -> LogFilter {
        var filter = LogFilter()
        filter.function = function
        if function == nil, let text = path.query["function"] {
            guard let name = Name(text) else { throw Problem.badRequest("a function's name is 1-63 characters of a-z, 0-9 and -") }
            filter.function = name
        }
        func number<T: FixedWidthInteger>(_ key: String, _ type: T.Type = T.self) throws -> T? {
            guard let text = path.query[key] else { return nil }
            guard let value = T(text) else { throw Problem.badRequest("\(key) must be a number") }
            return value
        }
        filter.version = try number("version")
        filter.tail = min(10_000, max(0, try number("tail") ?? 100))
        filter.since = try number("since") ?? 0
        filter.until = try number("until") ?? .max
        filter.invocation = path.query["invocation"]
        filter.grep = path.query["grep"]
        filter.level = path.query["level"]
        if let level = filter.level, !levels.contains(level) {
            throw Problem.badRequest("level must be one of \(levels.joined(separator: ", "))")
        }
        filter.after = path.query["after"]
        return filter
    }
}
