// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Foundation

/// What an action is about, as it is at this moment, in the few words that go on record: looked at before the action, and after it where the answer does not say it.
struct AuditState {
    /// Of how many dead letters are counted.
    private static let mostLetters = 1000

    let service: any NodeService
    /// By function, what was the latest version before a deploy: which function it is about is known when its archive is read.
    private let latest: [String: UInt32]

    init(_ action: ControlAction, _ service: any NodeService) async {
        self.service = service
        guard action.word == "deploy", let tenant = action.tenant else { latest = [:]; return }
        let all = (try? await service.functions(tenant: tenant)) ?? []
        latest = Dictionary(all.map { ($0.function, $0.latest) }, uniquingKeysWith: max)
    }

    /// Whether there is something to look at: not for what changes nothing that the node keeps, or where each change has a record of its own.
    static func isOf(_ action: ControlAction) -> Bool {
        !["reload", "restart", "backup", "export", "import undo"].contains(action.word)
    }

    /// What a deploy's answer says that it was about, as it was before.
    func before(deployOf function: String?) -> String { function.flatMap { latest[$0] }.map { "version \($0)" } ?? "" }

    /// Empty where there is none.
    func words(_ action: ControlAction, _ body: [UInt8]) async -> String {
        if let function = action.function { return await words(action, function) }
        switch (action.word, action.tenant) {
        case ("key rotate", let tenant?), ("key revoke", let tenant?):
            let key = try? await service.keys(tenant).first { $0.id == action.target }
            return key.map { $0.revoked ? "revoked" : Self.text($0) } ?? ""
        case ("bucket create", let tenant?), ("bucket delete", let tenant?):
            let bucket = try? await service.buckets(tenant).first { $0.bucket == action.target }
            return bucket.map { Self.text($0) } ?? ""
        case ("dead-letter redrive", let tenant), ("dead-letter purge", let tenant):
            var filter = EventFilter()
            (filter.tenant, filter.state, filter.limit) = (tenant, "dead", Self.mostLetters)
            filter.function = (try? JSONDecoder().decode(DeadLetterRequest.self, from: Data(body)))?.function.flatMap { Name($0) }
            guard let page = try? await service.events(filter) else { return "" }
            return "dead letters \(page.events.count)\(page.next == nil ? "" : " or more")"
        case ("loop resume", let tenant):
            guard let edge = (try? JSONDecoder().decode(LoopResumeRequest.self, from: Data(body)))?.edge else { return "" }
            let loop = try? await service.loops(tenant: tenant).first { $0.edge == edge || $0.edge == "\(tenant?.text ?? "")/\(edge)" }
            return loop.map { Self.text($0) } ?? ""
        case ("event stop", let tenant):
            guard let id = InvocationID(action.target), let event = try? await service.event(id, tenant: tenant) else { return "" }
            return Self.text(event)
        case ("drain", _): return (try? await service.drainStatus()).map { Self.text($0) } ?? ""
        default: return ""
        }
    }

    private func words(_ action: ControlAction, _ function: FunctionID) async -> String {
        if let alias = action.alias {
            return (try? await service.aliases(function))?.first { $0.alias == alias.text }.map { Self.text($0) } ?? ""
        }
        guard let all = try? await service.versions(function) else { return "" }
        if action.word == "delete version" {
            return all.first { action.target == "\($0.function)@\($0.version)" }.map { Self.text($0) } ?? ""
        }
        return all.isEmpty ? "" : "versions \(all.map { "\($0.version)" }.joined(separator: " "))"
    }

    private static func text(_ value: some Encodable) -> String { AuditWords.text(ControlAnswer(json: value).body, AuditWords.answered) }
}
