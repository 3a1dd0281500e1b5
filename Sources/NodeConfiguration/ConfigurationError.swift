// SPDX-License-Identifier: Apache-2.0

/// One thing that is wrong with a configuration file: `acme.yaml:4:12: sentence`.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    public let file: String
    /// From 1; 0 where the whole file is meant.
    public let line: Int
    public let column: Int
    public let sentence: String
    public init(file: String, line: Int = 0, column: Int = 0, sentence: String) {
        self.file = file
        self.line = line
        self.column = column
        self.sentence = sentence
    }
    public var description: String { line > 0 ? "\(file):\(line):\(column): \(sentence)" : "\(file): \(sentence)" }
}

/// Everything that is wrong, so that it can be mended in one go. Nothing was applied.
public struct ConfigurationErrors: Error, Sendable, CustomStringConvertible {
    public let errors: [ConfigurationError]
    public init(_ errors: [ConfigurationError]) { self.errors = errors }
    public var description: String { errors.map(\.description).joined(separator: "\n") }
}
