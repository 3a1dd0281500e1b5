// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc

/// A step of the ordered list (`Sandbox/README.md`) that failed. Nothing of the worker is left.
public struct SandboxFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// The stage's number; 0 for a step before the list.
    public let stage: UInt32
    public let errno: Int32
    /// What the step was about, where it is not a stage or a stage has several.
    public let subject: String

    /// `subject` is what the stage failed for, where it has several.
    public init(stage: UInt32, errno: Int32, subject: String = "") {
        self.stage = stage
        self.errno = errno
        self.subject = subject
    }
    public init(_ subject: String, errno: Int32) {
        stage = 0
        self.errno = errno
        self.subject = subject
    }

    /// The stage's sentence.
    public var stageName: String { Self.stageName(stage) ?? subject }

    public var description: String {
        let reason = unsafe String(cString: strerror(errno))
        let about = subject.isEmpty ? "" : " \(subject)"
        return stage == 0 ? "\(subject): \(reason)" : "stage \(stage) (\(stageName))\(about): \(reason)"
    }

    /// The sentence of a stage; nil for an unknown number.
    public static func stageName(_ stage: UInt32) -> String? {
        guard let text = unsafe sbx_stage_text(stage) else { return nil }
        return unsafe String(cString: text)
    }

    /// Every stage number, in order.
    public static var allStages: [UInt32] {
        var numbers = [UInt32](repeating: 0, count: 128)
        let count = unsafe sbx_stage_list(&numbers, 128)
        return Array(numbers.prefix(count))
    }
}
