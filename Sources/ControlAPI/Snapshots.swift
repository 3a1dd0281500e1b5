// SPDX-License-Identifier: Apache-2.0

/// The answer to `POST /v1/snapshots`: a copy of the state in `STATE/data/snapshots/ID`, until it is deleted there or for six hours.
public struct SnapshotReply: Codable, Hashable, Sendable {
    /// 16 hexadecimal digits.
    public var id: String
    public var release: String
    /// The schema of each database, by its path in the copy.
    public var schemas: [String: Int]
    public init(id: String, release: String, schemas: [String: Int]) {
        self.id = id
        self.release = release
        self.schemas = schemas
    }

    /// What this release can read.
    public static let knownSchemas = ["data/bulkhead.sqlite": 3, "data/events/events.sqlite": 3, "data/usage/usage.sqlite": 1]
}

/// The body of `POST /v1/exports`: a copy of one tenant in `STATE/data/snapshots/ID`, with `tenant.json`, `code/HASH/` and, if asked for, `buckets/`.
public struct ExportRequest: Codable, Hashable, Sendable {
    public var tenant: String
    public var buckets: Bool
    public init(tenant: String, buckets: Bool) {
        self.tenant = tenant
        self.buckets = buckets
    }

    /// The form of `tenant.json` that this release writes and reads.
    public static let schema = 1
}

/// The answer to it.
public struct ExportReply: Codable, Hashable, Sendable {
    /// 16 hexadecimal digits.
    public var id: String
    public var tenant: String
    public var release: String
    public init(id: String, tenant: String, release: String) {
        self.id = id
        self.tenant = tenant
        self.release = release
    }
}

/// The body of `POST /v1/imports`: takes `STATE/data/imports/ID` (`tenant.json`, `code/HASH.tar`, `buckets/`) in, under a name that is not configured yet. It shows once
/// the tenant is in the configuration; until then `DELETE /v1/imports/TENANT` undoes it, and so does the next start.
public struct ImportRequest: Codable, Hashable, Sendable {
    public var id: String
    public var tenant: String
    public init(id: String, tenant: String) {
        self.id = id
        self.tenant = tenant
    }
}

/// The answer to it.
public struct ImportReply: Codable, Hashable, Sendable {
    public var tenant: String
    public var functions: Int
    public var versions: Int
    public var keys: Int
    /// Keys that another tenant of this node has: they stay with that one.
    public var keysLeftOut: Int
    public init(tenant: String, functions: Int, versions: Int, keys: Int, keysLeftOut: Int) {
        self.tenant = tenant
        self.functions = functions
        self.versions = versions
        self.keys = keys
        self.keysLeftOut = keysLeftOut
    }
}
