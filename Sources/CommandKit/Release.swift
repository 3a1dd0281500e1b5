// SPDX-License-Identifier: Apache-2.0

/// This release.
public enum Release {
    /// Semantic version (semver.org).
    public static let version = "0.1.0"
    /// `bulkhead 0.1.0`.
    public static let line = "bulkhead " + version
}
