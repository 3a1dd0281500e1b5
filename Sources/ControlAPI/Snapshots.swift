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
    public static let knownSchemas = ["data/bulkhead.sqlite": 3, "data/events/events.sqlite": 2, "data/usage/usage.sqlite": 1]
}
