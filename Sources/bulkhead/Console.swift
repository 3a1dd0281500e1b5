// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc

/// Standard output and standard error.
enum Console {
    static let outIsTerminal = isatty(1) == 1
    static let errorIsTerminal = isatty(2) == 1

    static func out(_ text: String) { write(Array(text.utf8), to: 1) }
    static func out(bytes: some Collection<UInt8>) { write(Array(bytes), to: 1) }
    static func error(_ text: String) { write(Array(text.utf8), to: 2) }

    /// One line on standard error, for a person.
    static func note(_ sentence: String) { error("bulkhead: " + sentence + "\n") }

    /// A JSON document of the node, with what could drive a terminal escaped the JSON way.
    static func json(_ bytes: [UInt8]) {
        out(jsonEscaped(String(decoding: Array(bytes), as: UTF8.self)))
        if bytes.last != 10 { out("\n") }
    }

    /// A value as JSON, keys sorted, one line.
    static func value(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        json([UInt8](try encoder.encode(value)))
    }

    /// Writes everything. A reader that went away (`bulkhead logs | head`) ends the command quietly, as SIGPIPE would.
    private static func write(_ bytes: [UInt8], to descriptor: Int32) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count >= 0 {
                rest = rest.dropFirst(count)
            } else if errno == EAGAIN {
                var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                _ = unsafe poll(&wait, 1, 1000)
            } else if errno != EINTR {
                _exit(errno == EPIPE ? 128 + SIGPIPE : CommandStatus.failed.rawValue)
            }
        }
    }
}

/// One line on the terminal that is rewritten as work goes on; silent elsewhere.
struct Progress {
    private let label: String
    private var shown = ContinuousClock.now - .seconds(1)
    private var isVisible = false

    init(_ label: String) { self.label = label }

    mutating func show(_ done: UInt64, of total: UInt64?) {
        guard Console.errorIsTerminal, ContinuousClock.now - shown > .milliseconds(100) else { return }
        shown = .now
        isVisible = true
        let amount = total.map { Units.usage(min(done, $0), of: $0) } ?? Units.bytes(done)
        let bar = total.map { total in
            let filled = total == 0 ? 20 : Int(min(20, done * 20 / total))
            return " [" + String(repeating: "=", count: filled) + String(repeating: " ", count: 20 - filled) + "]"
        }
        Console.error("\r\u{1b}[K\(label)\(bar ?? "") \(amount)")
    }

    mutating func clear() {
        if isVisible { Console.error("\r\u{1b}[K") }
        isVisible = false
    }
}
