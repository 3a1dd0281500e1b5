// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Dispatch
import Foundation
import Glibc

/// Standard output and standard error.
enum Console {
    static let outIsTerminal = isatty(1) == 1
    static let errorIsTerminal = isatty(2) == 1

    static func out(_ text: String) { write(Array(text.utf8), to: 1) }
    static func out(bytes: some Collection<UInt8>) { write(Array(bytes), to: 1) }
    static func error(_ text: String) { write(Array(text.utf8), to: 2) }

    /// Lines and columns of the terminal.
    static var size: (lines: Int, columns: Int) {
        var size = winsize()
        let isKnown = unsafe ioctl(1, UInt(TIOCGWINSZ), &size) == 0 && size.ws_row > 0 && size.ws_col > 0
        return isKnown ? (Int(size.ws_row), Int(size.ws_col)) : (24, 80)
    }

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

    /// What became of one thing: `{"deleted":"acme/photos"}` or a sentence.
    static func outcome(_ verb: String, _ thing: String, _ sentence: String, json: Bool) {
        if json { try? value([verb: thing]) } else { out(sentence + "\n") }
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

/// What Ctrl-C and a request to end do.
enum Interrupts {
    private static let signals = [SIGINT, SIGTERM, SIGHUP]

    /// Nothing, from now on: a change is under way that must be finished or undone.
    static func ignore() { for number in signals { signal(number, SIG_IGN) } }

    /// Ends the command, with the cursor on a line of its own. Holds as long as the value lives.
    ///
    /// - Parameters:
    ///   - status: the exit status; as done where that is how the command always ends.
    ///   - last: says a last word, and takes back what must not stay.
    static func end(status: Int32 = CommandStatus.success.rawValue, _ last: @escaping @Sendable () -> Void = {})
        -> [any DispatchSourceSignal]
    {
        signals.map { number in
            // An ignored signal would be dropped before it is seen.
            signal(number, SIG_DFL)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler {
                if Console.outIsTerminal { Console.out("\n") }
                last()
                exit(status)
            }
            source.resume()
            return source
        }
    }
}
