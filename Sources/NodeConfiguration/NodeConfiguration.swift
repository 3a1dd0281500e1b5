// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Yams

/// `bulkhead.yaml` and `tenants.d/*.yaml`, read together: all of it or none. Root's copy of them has one file for all tenants.
public struct NodeConfiguration: Hashable, Sendable {
    /// Sum of the memory limits of all workers; 0 for three quarters of the machine's.
    public var memoryBytes: UInt64 = 0
    public var maximumWorkers = 500
    /// Invocations at a time over all tenants; where it is reached, tenants get seat time in proportion to their weights.
    public var seats = 100_000
    public var prewarmed: [String: Int] = ["python3": 1, "nodejs": 1]
    public var sealedSpares = 1
    public var spareGroups = 2
    /// The largest request and answer body, in bytes.
    public var bodyLimit = 6 << 20
    public var logBytesPerTenant: UInt64 = 64 << 20
    public var logAge: Nanoseconds = .seconds(7 * 86_400)
    /// Whether tenants' webhooks may lead to this host, to private networks and to links.
    public var mayCallPrivate = false
    /// Who hears of alarms of the node and of all its tenants.
    public var notify: [NotifyTarget] = []
    /// The OTLP collector that gets traces; nil for none.
    public var traceEndpoint: String?
    /// For tenants without a rule of their own.
    public var retention = RetentionRule()
    /// The operator's layers: the folders in `layers/`.
    public var layers: [Name] = []
    public var tenants: [TenantConfiguration] = []

    /// Embedded defaults: one tenant, `default`.
    public init() { tenants = [Name("default").map(TenantConfiguration.init(tenant:))].compactMap { $0 } }

    /// Reads a directory. Throws every error of every file.
    public static func load(directory: String) throws(ConfigurationErrors) -> NodeConfiguration {
        var cache = TenantFiles()
        return try load(directory: directory, &cache)
    }

    /// The same, with the files of tenants that have not changed since `files` read them taken from there.
    public static func load(directory: String, _ files: inout TenantFiles) throws(ConfigurationErrors) -> NodeConfiguration {
        var value = NodeConfiguration()
        var errors: [ConfigurationError] = []
        // Where a folder cannot be exchanged with another at once, it is aside for a moment: nobody is to be served by the defaults then.
        let isExchanged = ConfigurationErrors([
            ConfigurationError(
                file: directory,
                sentence: "the folder is just being exchanged: try again; where that was broken off, run bulkhead reload as root")
        ])
        let number = Self.number(directory)
        guard number != nil || Self.number(directory + ".aside") == nil else { throw isExchanged }
        var isFound = false
        let file = directory + "/bulkhead.yaml"
        if FileManager.default.fileExists(atPath: file) {
            isFound = true
            switch TenantFiles.read(file) {
            case .success(let bytes):
                let document = YAMLDocument(file: "bulkhead.yaml")
                if let root = document.root(bytes) { value.read(root, directory) }
                errors += document.errors
            case .failure(let error): errors.append(error)
            }
        }
        let folder = directory + "/tenants.d"
        switch TenantSource.open(folder) {
        case .failure(let error): errors.append(error)
        case .success(nil): break
        case .success(let source?):
            isFound = true
            value.tenants = []
            for result in files.read(source, directory) {
                switch result {
                case .success(let tenant): value.tenants.append(tenant)
                case .failure(let refused): errors += refused.errors
                }
            }
        }
        value.readLayers(directory, &errors)
        guard isFound || Self.number(directory) == number else { throw isExchanged }
        if errors.isEmpty, value.tenants.isEmpty {
            errors.append(ConfigurationError(file: folder, sentence: "no tenant is configured: add tenants.d/NAME.yaml"))
        }
        guard errors.isEmpty else { throw ConfigurationErrors(errors) }
        return value
    }

    /// Tells a folder from another one in its place.
    private static func number(_ path: String) -> UInt64? {
        (try? FileManager.default.attributesOfItem(atPath: path))?[.systemFileNumber] as? UInt64
    }

    mutating func read(_ root: Mapping, _ directory: String) {
        memoryBytes = root.ranged("memory", "a size like 8GiB", (64 << 20)...(1 << 50), "at least 64MiB", Units.bytes) ?? memoryBytes
        maximumWorkers = root.integer("workers", 1...1900) ?? maximumWorkers
        seats = root.integer("seats", 1...100_000) ?? seats
        bodyLimit =
            root.ranged("bodyLimit", "a size like 6MiB", 1024...UInt64(8 << 20), "from 1KiB to 8MiB", Units.bytes).map { Int($0) }
            ?? bodyLimit
        if let prewarm = root.mapping("prewarm") {
            for runtime in ["python3", "nodejs"] { prewarmed[runtime] = prewarm.integer(runtime, 0...64) ?? prewarmed[runtime] }
            sealedSpares = prewarm.integer("sealed", 0...64) ?? sealedSpares
            spareGroups = prewarm.integer("groups", 0...64) ?? spareGroups
            prewarm.finish()
        }
        if let logs = root.mapping("logs") {
            logBytesPerTenant =
                logs.ranged("perTenant", "a size like 64MiB", (1 << 20)...(1 << 40), "at least 1MiB", Units.bytes) ?? logBytesPerTenant
            logAge =
                logs.ranged(
                    "age", "a time like 7d", Nanoseconds.seconds(60)...Nanoseconds.seconds(3650 * 86_400), "at least 1m", Units.span)
                ?? logAge
            logs.finish()
        }
        notify = root.nodeTargets("notify", directory: directory)
        if let text = root.text("webhooks") {
            switch text {
            case "public": mayCallPrivate = false
            case "any": mayCallPrivate = true
            default: root.document.fail(root.value("webhooks"), "`webhooks` is public (addresses of the internet alone) or any")
            }
        }
        if let traces = root.mapping("traces") {
            traceEndpoint = traces.webURL("endpoint")
            if traces.value("endpoint") == nil { traces.document.fail(traces.node, "`endpoint` is missing: the collector's URL") }
            traces.finish()
        }
        retention = root.retention(over: retention) ?? retention
        root.finish()
    }
}
