// SPDX-License-Identifier: Apache-2.0
import Synchronization

/// Gathers what a parser asks for, so that the reference is made of the parsers themselves.
final class KeyRecorder: Sendable {
    @TaskLocal static var present: KeyRecorder?
    private let notes = Mutex<[(path: String, form: String)]>([])

    func note(_ path: String, _ form: String) { notes.withLock { $0.append((path, form)) } }

    /// The keys in the order in which they were asked for, each once, with every form that it may have; what only holds other keys is left out.
    var keys: [(path: String, form: String)] {
        let notes = notes.withLock { $0 }
        var order: [String] = []
        var forms: [String: [String]] = [:]
        for (path, form) in notes {
            if forms[path] == nil { order.append(path) }
            // A form with its range says more than the form alone, which is noted behind it.
            let known = forms[path] ?? []
            if !known.contains(where: { $0 == form || $0.hasPrefix(form + ", ") }) { forms[path] = known + [form] }
        }
        return order.filter { path in
            let isHolder = forms[path] == ["`key: value` pairs"] || forms[path]?.first?.hasSuffix(" entries") == true
            return !isHolder || !order.contains { $0.hasPrefix(path + ".") || $0.hasPrefix(path + "[].") }
        }.map { path in (path, (forms[path] ?? []).joined(separator: "; or ")) }
    }
}

/// One key of a file, for the reference.
public struct ConfigurationKey: Hashable, Sendable {
    /// `quota.budget.compute`; `[]` stands for each entry of a list.
    public var path: String
    /// How it is written, with its bounds.
    public var form: String
    /// What it is for, and what holds without it; empty where nobody has written that yet.
    public var meaning: String
}

/// The keys of the configuration's files, taken from the parsers: each reads a file that has everything, and what it asks for is noted.
public enum ConfigurationReference {
    public static func node() -> [ConfigurationKey] {
        let recorder = KeyRecorder()
        KeyRecorder.$present.withValue(recorder) {
            let document = YAMLDocument(file: "bulkhead.yaml")
            var value = NodeConfiguration()
            if let root = document.root(Array(nodeSample.utf8)) { value.read(root, "/") }
        }
        return keys(recorder, nodeMeanings)
    }

    public static func tenant() -> [ConfigurationKey] {
        let recorder = KeyRecorder()
        KeyRecorder.$present.withValue(recorder) {
            _ = try? TenantConfiguration(yaml: Array(tenantSample.utf8), file: "acme.yaml", name: "acme")
        }
        return keys(recorder, tenantMeanings)
    }

    public static func function() -> [ConfigurationKey] {
        let recorder = KeyRecorder()
        KeyRecorder.$present.withValue(recorder) { _ = try? FunctionManifest(yaml: Array(functionSample.utf8)) }
        return keys(recorder, functionMeanings)
    }

    /// Meanings of keys that no parser asks for: there must be none.
    public static var unused: [String] {
        zip([node(), tenant(), function()], [nodeMeanings, tenantMeanings, functionMeanings]).flatMap { keys, meanings in
            Set(meanings.keys).subtracting(keys.map(\.path)).sorted()
        }
    }

    private static func keys(_ recorder: KeyRecorder, _ meanings: [String: String]) -> [ConfigurationKey] {
        recorder.keys.map { ConfigurationKey(path: $0.path, form: $0.form, meaning: meanings[$0.path] ?? "") }
    }

    // MARK: files with everything

    private static let nodeSample = """
        prewarm: {}
        logs: {}
        retention: {}
        traces: {}
        notify: [{webhook: "https://example.com/"}, {command: [/bin/true]}]

        """
    private static let tenantSample = """
        tenant: acme
        quota: {budget: {}}
        users: {default: {concurrency: 1}}
        tokens: {}
        secrets: {NAME: x}
        notify: [{webhook: "https://example.com/", secret: NAME}]
        retention: {}
        network: egress
        egress: {}
        layers: {}

        """
    private static let functionSample = """
        function: f
        runtime: python3
        handler: main.handler
        workers: {}
        users: {concurrency: 1}
        environment: {NAME: x}
        buckets: {name: read, other: {access: write, prefix: a/}}
        triggers: [{http: /a, name: x, methods: [GET], auth: key}, {cron: "* * * * *"}, {bucket: name}, {outcome: g, on: both}, {queue: key}]
        async: {onSuccess: {webhook: "https://example.com/"}, onFailure: {webhook: "https://example.com/"}}
        recursion: {maxDepth: 1, maxDescendants: 1}

        """
}
