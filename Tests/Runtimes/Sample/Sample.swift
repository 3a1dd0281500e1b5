// SPDX-License-Identifier: Apache-2.0
import Glibc
import WorkerSDK

/// What `Tests/Runtimes/run.py` asks of a function that is written with the Swift SDK.
@main struct Sample {
    struct Refused: Error, CustomStringConvertible { let description = "refused" }
    struct BadThing: Error, CustomStringConvertible { let description = "a bad thing" }

    static func main() {
        Worker.run(
            initializer: { _ in if unsafe getenv("REFUSE") != nil { throw Refused() } },
            preStop: { context in
                print("stopping \(context.function)")
                guard unsafe getenv("ASKS") != nil else { return }
                do { print(try context.emit("stopped", [1])) } catch { print("\(error)") }
            }
        ) { event, context in
            guard event.contentType == "text/plain" else { return Answer(Array(event.body.dropFirst(5)), contentType: event.contentType) }
            let words = (event.text ?? "").split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            let rest = words.count == 2 ? words[1] : ""
            switch words[0] {
            case "echo": return Answer(text: rest)
            case "env": return Answer(text: unsafe getenv(rest).map { unsafe String(cString: $0) } ?? "missing")
            case "trace": return Answer(text: context.traceparent)
            case "later": throw RetryLater(seconds: 7)
            case "status": return Answer(Array("teapot".utf8), contentType: "text/plain", status: 418)
            case "size": return Answer([UInt8](repeating: 0, count: Int(rest) ?? 0))
            case "call": return Answer(try context.call(rest, [1]))
            case "async": return Answer(text: try context.callAsync(rest, [1]))
            case "emit": return Answer(text: try context.emit(rest, [1]))
            case "stream":
                for number in 0..<(Int(rest) ?? 0) {
                    try context.checkCancellation()
                    context.send(chunk: Array("part \(number)\n".utf8), contentType: "text/plain; charset=utf-8")
                }
                return .streamed
            case "spin":
                context.log("spinning")
                while !context.isCancelled { usleep(1000) }
                throw Cancelled()
            case "log":
                context.log("a line", level: 2)
                return Answer(text: "logged")
            default: throw BadThing()
            }
        }
    }
}
