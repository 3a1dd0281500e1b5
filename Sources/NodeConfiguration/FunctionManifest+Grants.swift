// SPDX-License-Identifier: Apache-2.0
internal import Core
import Yams

/// What a function may touch and cause: `buckets`, `calls`, `secrets`, `async` and `recursion` of its manifest.
extension Mapping {
    /// The most buckets of one function.
    static let bucketLimit = 16
    /// The most secrets of one function, and of one tenant.
    static let secretLimit = 64

    /// `{photos: read, thumbs: write, mixed: {access: write, prefix: out/}}`, by name.
    func bucketGrants(_ key: String) -> [BucketGrant] {
        guard let grants = mapping(key) else { return [] }
        if grants.keys.count > Self.bucketLimit {
            document.fail(grants.node, "`\(key)` has \(grants.keys.count) entries; a function sees at most \(Self.bucketLimit) buckets")
        }
        return grants.keys.compactMap { name in
            guard let bucket = Name(name) else {
                document.fail(grants.value(name), "`\(name.prefix(60))` is not a bucket's name: \(Self.nameForm)")
                return nil
            }
            if let options = grants.value(name).flatMap({ Mapping(document, $0, path: grants.path + "name.") }) {
                return options.bucketGrant(bucket)
            }
            return grants.access(name).map { BucketGrant(bucket: bucket, isWritable: $0) }
        }
    }

    private func bucketGrant(_ bucket: Name) -> BucketGrant? {
        if value("access") == nil { document.fail(node, "`access` is missing: read or write") }
        let isWritable = access("access")
        let prefix = keyPart("prefix")
        if !prefix.isEmpty, prefix.utf8.last != 0x2F {
            document.fail(value("prefix"), "`prefix` of a grant is a directory: write `\(prefix.prefix(60))/`")
        }
        if !prefix.isEmpty, isWritable == false {
            document.fail(
                value("prefix"), "`prefix` says what is writable, and this grant writes nothing: remove it or write `access: write`")
        }
        finish()
        return isWritable.map { BucketGrant(bucket: bucket, isWritable: $0, prefix: prefix) }
    }

    /// Whether it is written to.
    private func access(_ key: String) -> Bool? {
        parsed(key, "read or write") { ["read": false, "write": true][$0] }
    }

    /// Secrets' names, sorted.
    func secretNames(_ key: String) -> [String] {
        let names = list(key, limit: Self.secretLimit, of: "secrets' names like API_TOKEN") { Secret.isName($0) ? $0 : nil } ?? []
        return Set(names).sorted()
    }

    /// `{attempts: 3, age: 6h, onSuccess: ..., onFailure: ...}`.
    func asyncSpec(_ key: String) -> AsyncSpec {
        guard let async = mapping(key) else { return AsyncSpec() }
        let attempts = async.integer("attempts", 0...25)
        let ages = RetryPolicy.ageRange
        let age = async.ranged(
            "age", "a time like 6h", Nanoseconds.milliseconds(ages.lowerBound)...Nanoseconds.milliseconds(ages.upperBound),
            "from 60s to 7d",
            Units.span)
        let standard = RetryPolicy.standard
        let retry = RetryPolicy(
            maxAttempts: attempts.map { UInt8($0) } ?? standard.maxAttempts,
            maxAgeMs: age.map { $0 / .milliseconds(1) } ?? standard.maxAgeMs)
        let spec = AsyncSpec(
            retry: retry ?? standard, onSuccess: async.destination("onSuccess"), onFailure: async.destination("onFailure"))
        async.finish()
        return spec
    }

    private func destination(_ key: String) -> Destination? {
        let form = "function:NAME, webhook:URL or bucket:NAME/PREFIX; the URL with http or https, without a user, at most 2048 bytes"
        note(key, form)
        if let options = value(key).flatMap({ Mapping(document, $0, path: path + key + ".") }) {
            if !options.keys.contains("webhook") { document.fail(options.node, "`\(key)` as a mapping needs `webhook`: an URL") }
            let url = options.webURL("webhook")
            let secret = options.secretName("secret")
            options.finish()
            return url.map { .webhook(url: $0, secret: secret) }
        }
        return parsed(key, form) { text in
            let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { return nil }
            switch parts[0] {
            case "function": return Name(parts[1]).map(Destination.function)
            case "webhook": return WebAddress.isValid(parts[1]) ? .webhook(url: parts[1], secret: nil) : nil
            case "bucket":
                let path = parts[1].split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
                let prefix = path.count == 2 ? path[1] : ""
                return Self.isKeyPart(prefix) ? Name(path[0]).map { .bucket($0, prefix: prefix) } : nil
            default: return nil
            }
        }
    }

    /// `{maxDepth: 8, maxDescendants: 100, minInterval: 1s}`.
    func recursion(_ key: String) -> DeclaredRecursion? {
        guard let recursion = mapping(key) else { return nil }
        let counts = 1...Int(DeclaredRecursion.ceiling)
        let depth = recursion.integer("maxDepth", counts)
        let descendants = recursion.integer("maxDescendants", counts)
        for needed in ["maxDepth", "maxDescendants"] where !recursion.keys.contains(needed) {
            document.fail(recursion.node, "`\(needed)` is missing: a number from 1 to \(counts.upperBound)")
        }
        let interval = recursion.ranged("minInterval", "a time like 1s", 0...Nanoseconds.seconds(86_400), "at most 24h", Units.span)
        recursion.finish()
        guard let depth, let descendants else { return nil }
        return DeclaredRecursion(maxDepth: UInt64(depth), maxDescendants: UInt64(descendants), minInterval: interval ?? 0)
    }

    /// Functions of the tenant; nil for any.
    func calls(_ key: String) -> [Name]? {
        list(key, limit: 64, of: "functions' names") { Name($0) }.map { Set($0).sorted() }
    }
}

/// The words that grants and triggers share.
extension Mapping {
    static let nameForm = "1-63 characters of a-z, 0-9 and -, beginning with a letter"

    func name(_ key: String) -> Name? { parsed(key, "a name: \(Self.nameForm)") { Name($0) } }

    func choice<T: RawRepresentable & CaseIterable>(_ key: String, _: T.Type) -> T? where T.RawValue == String {
        parsed(key, T.allCases.map(\.rawValue).formatted("or"), T.init(rawValue:))
    }

    func secretName(_ key: String) -> String? {
        parsed(key, "the name of one of the tenant's secrets, like API_TOKEN") { Secret.isName($0) ? $0 : nil }
    }

    func webURL(_ key: String) -> String? {
        parsed(key, "an URL with http or https, without a user in it, at most 2048 bytes") { WebAddress.isValid($0) ? $0 : nil }
    }

    /// The beginning or the end of objects' keys; empty where it is not there.
    func keyPart(_ key: String) -> String {
        parsed(key, "a part of an object's key like in/, at most 512 bytes, not beginning with / and without //, . or .. as a directory") {
            Self.isKeyPart($0) ? $0 : nil
        } ?? ""
    }

    /// Compared by bytes with keys, so what no key can hold is refused instead of never met.
    private static func isKeyPart(_ text: String) -> Bool {
        guard text.utf8.count <= 512, text.utf8.first != 0x2F, text.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else { return false }
        let parts = text.utf8.split(separator: 0x2F, omittingEmptySubsequences: false)
        // The last part may be empty, or the beginning of a longer one: `..` there is the beginning of `..a`.
        return parts.dropLast().allSatisfy { !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8) }
    }

    /// A list that may be empty; nil where it is not there or after an error.
    func list<T>(_ key: String, limit: Int, of what: String, _ parse: (String) -> T?) -> [T]? {
        note(key, "a list of at most \(limit) \(what)")
        guard let value = value(key) else { return nil }
        guard let items = value.sequence, items.count <= limit else {
            document.fail(value, "`\(key)` must be a list of at most \(limit) \(what), like [a, b]")
            return nil
        }
        var found: [T] = []
        for item in items {
            guard let text = item.scalar?.string, let parsed = parse(text) else {
                document.fail(item, "`\(key)` lists \(what), not `\((item.scalar?.string ?? "a list").prefix(40))`")
                continue
            }
            found.append(parsed)
        }
        return found
    }

    /// A list of mappings; what is none is an error and left out.
    func mappings(_ key: String, limit: Int) -> [Mapping] {
        note(key, "a list of at most \(limit) entries")
        guard let value = value(key) else { return [] }
        guard let items = value.sequence, items.count <= limit else {
            document.fail(value, "`\(key)` must be a list of at most \(limit) entries, each with `key: value` pairs")
            return []
        }
        return items.compactMap { item in
            let mapping = Mapping(document, item, path: path + key + "[].")
            if mapping == nil { document.fail(item, "each entry of `\(key)` must hold `key: value` pairs") }
            return mapping
        }
    }
}

extension [String] {
    /// `a, b or c`.
    fileprivate func formatted(_ word: String) -> String {
        count < 2 ? joined() : dropLast().joined(separator: ", ") + " \(word) " + self[count - 1]
    }
}
