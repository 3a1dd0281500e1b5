// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Gateway
import Store

/// What tenants' workers wrote.
extension Daemon {
    func logs(_ tenant: Name?, _ filter: LogFilter) async throws -> LogLines {
        var query = LogQuery()
        query.function = filter.function?.text
        query.version = filter.version
        query.invocation = filter.invocation
        query.grep = filter.grep
        if let level = filter.level { query.levels = Set(LogRoutes.levels.drop { $0 != level }) }
        query.since = filter.since
        query.until = filter.until
        query.tail = filter.tail
        if let text = filter.after {
            guard let position = text == "start" ? .start : LogPosition(text) else {
                throw Problem.badRequest("after must be the header Bulkhead-Log-Position of an earlier answer, or start")
            }
            query.after = position
        }
        let (wanted, logs) = (query, logs)
        guard let tenant else {
            let found = try await looking(nil) { logs.newest(wanted) }
            return LogLines(lines: found.lines.map { Self.reply($0.record, of: $0.tenant) }, position: nil, isMore: found.isMore)
        }
        let page = try await looking(tenant) { logs.page(tenant, wanted) }
        if page.lines.isEmpty, filter.after == nil { try mustExist(filter.function, of: tenant) }
        return LogLines(
            lines: page.lines.map { Self.reply($0) }, position: page.position.description, isMore: page.isMore, isGap: page.isGap)
    }

    private static func reply(_ record: LogRecord, of tenant: Name? = nil) -> LogReply {
        LogReply(
            time: record.time, tenant: tenant?.text, function: record.function, version: record.version, worker: record.worker,
            invocation: record.invocation, stream: record.stream, level: record.level, text: record.text)
    }

    func pruneLogs() async {
        let logs = logs
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async {
                logs.prune()
                continuation.resume()
            }
        }
    }
}
