// SPDX-License-Identifier: Apache-2.0

public import Core

/// Whose logs: a whole tenant's, a function's, or one version's.
public enum LogTarget: Hashable, Sendable {
    case tenant(Name)
    case function(FunctionID, version: UInt32?)

    /// Reads `TENANT`, `TENANT/FUNCTION` or `TENANT/FUNCTION@VERSION`.
    public init(parsing text: String) throws(Failure) {
        guard text.contains("/") else {
            self = .tenant(try FunctionReference.tenant(text))
            return
        }
        let reference = try FunctionReference(parsing: text)
        switch reference.selector {
        case .latest: self = .function(reference.function, version: nil)
        case .version(let number): self = .function(reference.function, version: number)
        case .alias: throw .usage("\(reference) names an alias; logs are kept by version: write @VERSION, or the function alone.")
        }
    }
}
