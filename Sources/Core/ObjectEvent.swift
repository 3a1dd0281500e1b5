// SPDX-License-Identifier: Apache-2.0

/// What happened to an object of a bucket.
public struct ObjectEvent: Hashable, Sendable {
    public var bucket: BucketID
    public var key: ObjectKey
    public var change: ObjectChange
    /// The key that it had before, where it was renamed.
    public var from: ObjectKey?
    /// Bytes; 0 where it was removed.
    public var size: UInt64
    /// Last change of its content, in nanoseconds since 1970; 0 where it was removed.
    public var modified: UInt64
    /// Last change of anything about it, which nobody can set, in nanoseconds since 1970; 0 where nobody looked.
    public var changed: UInt64 = 0
    /// 0 where it was removed.
    public var inode: UInt64
    /// The process that did it, where the kernel said so.
    public var pid: Int32?
    /// That process's cgroups; empty where nobody knows.
    public var cgroups: Set<String>
    /// Grows by one from event to event of a run, over all buckets.
    public var sequence: UInt64

    public init(
        bucket: BucketID, key: ObjectKey, change: ObjectChange, from: ObjectKey? = nil, size: UInt64 = 0, modified: UInt64 = 0,
        inode: UInt64 = 0, pid: Int32? = nil, cgroups: Set<String> = [],
        sequence: UInt64 = 0
    ) {
        self.bucket = bucket
        self.key = key
        self.change = change
        self.from = from
        self.size = size
        self.modified = modified
        self.inode = inode
        self.pid = pid
        self.cgroups = cgroups
        self.sequence = sequence
    }

    /// What the event is to a trigger on the keys with this prefix and suffix; nil where it is nothing to it, or not among `changes`.
    ///
    /// A rename from a key outside of the filter to one inside is `created`, and one that leaves it is `removed`: seen from the trigger, so it is. A worker that
    /// writes `out.jpg.part` and renames it to `out.jpg` so starts a trigger on `created` with the suffix `.jpg`, once.
    public func meaning(prefix: String, suffix: String, changes: Set<ObjectChange>) -> ObjectChange? {
        func fits(_ key: ObjectKey) -> Bool {
            let bytes = key.text.utf8
            return bytes.count >= max(prefix.utf8.count, suffix.utf8.count) && bytes.starts(with: prefix.utf8)
                && bytes.reversed().starts(with: suffix.utf8.reversed())
        }
        var change = change
        if change == .renamed, let from {
            switch (fits(from), fits(key)) {
            case (true, true): break
            case (true, false): change = .removed
            case (false, true): change = .created
            case (false, false): return nil
            }
        } else if !fits(key) {
            return nil
        }
        return changes.contains(change) ? change : nil
    }
}
