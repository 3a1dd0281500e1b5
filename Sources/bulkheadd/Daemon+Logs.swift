// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Gateway
import Store

/// What tenants' workers wrote.
extension Daemon {
    func logs(_ tenant: Name, _ filter: LogFilter) async throws -> LogLines {
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
        let page = try await looking(tenant) { logs.page(tenant, wanted) }
        if page.lines.isEmpty, filter.after == nil { try mustExist(filter.function, of: tenant) }
        let lines = page.lines.map {
            LogReply(
                time: $0.time, function: $0.function, version: $0.version, worker: $0.worker, invocation: $0.invocation, stream: $0.stream,
                level: $0.level, text: $0.text)
        }
        return LogLines(lines: lines, position: page.position.description, isMore: page.isMore, isGap: page.isGap)
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
