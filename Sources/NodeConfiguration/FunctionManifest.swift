// SPDX-License-Identifier: Apache-2.0
public import Core
import Yams

/// `function.yaml`: what an author says of a function. Keys that a later stage enforces are read and checked already.
public struct FunctionManifest: Hashable, Sendable {
    public var function: Name
    public var runtime: String
    public var handler: [String]
    public var limits = WorkerLimits()
    public var timeout: Nanoseconds = .seconds(30)
    public var instanceConcurrency: UInt16 = 1
    public var maximumConcurrency = 100
    public var minimumWorkers = 0
    public var maximumWorkers = 20
    public var idle: Nanoseconds = .seconds(300)
    /// The ceiling on arrivals, over all callers.
    public var rate: Rate?
    /// The ceilings of each end user of this function.
    public var users: UserCeilings?
    public var environment: [String: String] = [:]
    public var description = ""
    public var application = ""
    /// Buckets that its workers see, by name.
    public var buckets: [BucketGrant] = []
    public var triggers: [TriggerSpec] = []
    public var async = AsyncSpec()
    /// Stated where the function is meant to start itself again.
    public var recursion: DeclaredRecursion?
    /// Functions of the tenant that it may call or emit to; nil for any.
    public var calls: [Name]?
    /// Names of the tenant's secrets that its workers are given, sorted.
    public var secrets: [String] = []
    /// Whether its workers have a way out, to where its tenant's file allows.
    public var hasEgress = false
    /// Layers of the operator's that its workers see, where its tenant's file allows.
    public var layers: [Name] = []

    /// What an interpreter takes before any code of a tenant, in bytes.
    static let memoryFloors: [String: UInt64] = ["python3": 24 << 20, "nodejs": 64 << 20]
    public static let runtimes = ["python3", "nodejs", "command", "native"]

    /// Throws every error of the file.
    public init(yaml bytes: [UInt8], file: String = "function.yaml") throws(ConfigurationErrors) {
        let document = YAMLDocument(file: file)
        var function: Name?
        var runtime = "", handler: [String] = []
        var manifest = FunctionManifest()
        if let root = document.root(bytes) {
            if let text = root.text("function") {
                function = Name(text)
                if function == nil {
                    document.fail(root.value("function"), "`function` must be 1-63 characters of a-z, 0-9 and -, beginning with a letter")
                }
            } else {
                document.fail(root.node, "`function` (its name) is missing")
            }
            runtime = root.text("runtime") ?? ""
            if !Self.runtimes.contains(runtime) {
                let meant = NearWord.nearest(to: runtime, of: Self.runtimes).map { "; did you mean `\($0)`?" } ?? ""
                document.fail(
                    root.value("runtime") ?? root.node, "`runtime` must be one of \(Self.runtimes.joined(separator: ", "))\(meant)")
            }
            handler = root.words("handler") ?? []
            if handler.isEmpty {
                document.fail(root.node, "`handler` is missing: main.handler for python3 and nodejs, run.sh or [./program, argument] else")
            }
            if ["python3", "nodejs"].contains(runtime), handler.count > 1 {
                document.fail(root.value("handler"), "`handler` must be one text for \(runtime)")
            }
            Self.checkPath(handler, runtime, document, root)
            manifest.readLimits(root)
            if let floor = Self.memoryFloors[runtime], manifest.limits.memoryBytes < floor {
                document.fail(
                    root.value("memory") ?? root.node,
                    "`memory` must be at least \(floor >> 20)MiB for \(runtime): its interpreter alone takes that")
            }
            manifest.rate = root.rate("rate")
            manifest.users = root.mapping("users").map(UserCeilings.ofFunction)
            manifest.environment = root.texts("environment")
            for name in manifest.environment.keys where !Secret.isName(name) {
                document.fail(root.value("environment"), "`\(name.prefix(60))` is not a name for an environment variable")
            }
            manifest.description = root.text("description") ?? ""
            manifest.application = root.text("application") ?? ""
            manifest.readEvents(root)
            manifest.hasEgress = root.allowsEgress()
            manifest.layers = root.layerNames("layers")
            root.finish()
        }
        guard document.errors.isEmpty, let function else { throw ConfigurationErrors(document.errors) }
        self = manifest
        self.function = function
        self.runtime = runtime
        self.handler = handler
    }

    private init() {
        // Replaced before anybody sees it; a name is needed to make the value.
        function = Name.unnamed
        runtime = ""
        handler = []
    }

    private mutating func readEvents(_ root: Mapping) {
        buckets = root.bucketGrants("buckets")
        triggers = root.triggers("triggers")
        async = root.asyncSpec("async")
        recursion = root.recursion("recursion")
        calls = root.calls("calls")
        secrets = root.secretNames("secrets")
        for name in secrets where environment[name] != nil {
            root.document.fail(
                root.value("secrets"), "`\(name)` is in `environment` too: a worker has one value for a name; remove one of them")
        }
    }

    private mutating func readLimits(_ root: Mapping) {
        let range = WorkerLimits.memoryRange
        limits.memoryBytes =
            root.ranged("memory", "a size like 256MiB", (8 << 20)...range.upperBound, "at least 8MiB", Units.bytes) ?? limits.memoryBytes
        limits.temporaryBytes =
            root.ranged("temporary", "a size like 64MiB", (1 << 20)...WorkerLimits.temporaryRange.upperBound, "at least 1MiB", Units.bytes)
            ?? limits.temporaryBytes
        if let cpu = root.ranged("cpu", "processors like 0.5 or 2", 10...1_024_000, "from 0.01 to 1024", Units.thousandths) {
            limits.cpuMilli = UInt32(cpu)
        }
        if let processes = root.integer("processes", 2...32_000) { limits.processes = UInt32(processes) }
        timeout =
            root.ranged("timeout", "a time like 30s", .milliseconds(10)...Nanoseconds.seconds(86_400), "from 10ms to 24h", Units.span)
            ?? timeout
        if let concurrency = root.integer("concurrency", 1...200) { instanceConcurrency = UInt16(concurrency) }
        if let maximum = root.integer("maxConcurrency", 1...100_000) { maximumConcurrency = maximum }
        if let workers = root.mapping("workers") {
            minimumWorkers = workers.integer("min", 0...1000) ?? minimumWorkers
            maximumWorkers = workers.integer("max", 1...10_000) ?? max(maximumWorkers, minimumWorkers)
            idle =
                workers.ranged("idle", "a time like 5m", .milliseconds(100)...Nanoseconds.seconds(86_400), "from 100ms to 24h", Units.span)
                ?? idle
            if minimumWorkers > maximumWorkers { workers.document.fail(workers.node, "`min` must not be above `max` (\(maximumWorkers))") }
            workers.finish()
        }
    }

    private static func checkPath(_ handler: [String], _ runtime: String, _ document: YAMLDocument, _ root: Mapping) {
        guard let first = handler.first else { return }
        // By bytes, as the kernel reads it: to a Character, a slash with a combining mark behind it is no slash.
        let path = Array(first.utf8)
        let parts = path.split(separator: 0x2F, omittingEmptySubsequences: false)
        if path.first == 0x2F || parts.contains([0x2E, 0x2E]) || path.count > 200 || path.isEmpty {
            document.fail(root.value("handler"), "`handler` must stay inside the function's folder: no / at the beginning and no ..")
        }
        if ["python3", "nodejs"].contains(runtime), !first.contains(".") {
            document.fail(root.value("handler"), "`handler` must be written as file.function, like main.handler")
        }
    }

    /// The command that the spawner executes: a path inside the code, where the runtime has no interpreter.
    public var command: [String] {
        guard runtime == "native", let program = handler.first else { return [] }
        return [program.contains("/") ? program : "./" + program] + handler.dropFirst()
    }
}
