// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc
import NodeConfiguration
import Wire

/// What libFuzzer calls, whose library has the program's main.
@_cdecl("LLVMFuzzerTestOneInput") public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
    Fuzz.chosen(unsafe Array(UnsafeBufferPointer(start: bytes, count: size)))
    return 0
}

/// Feeds bytes to what parses them, and traps where more than a refusal comes of it. `Tests/Fuzz/run` starts it; FUZZ_TARGET names the target.
enum Fuzz {
    static let targets: [String: @Sendable ([UInt8]) -> Void] = [
        "frame": frame, "request": request, "event": event, "yaml": yaml, "cpio": ArchiveTarget.run, "path": path,
    ]
    static let chosen: @Sendable ([UInt8]) -> Void = {
        guard let chosen = targets[ProcessInfo.processInfo.environment["FUZZ_TARGET"] ?? ""] else {
            fatalError("set FUZZ_TARGET to one of \(targets.keys.sorted().joined(separator: ", "))")
        }
        return chosen
    }()

    /// However the stream is cut, the same frames come out; what came out goes in again.
    @Sendable private static func frame(_ bytes: [UInt8]) {
        guard let first = bytes.first else { return }
        let stream = Array(bytes.dropFirst())
        func frames(_ size: Int) -> ([Frame], Bool) {
            var decoder = FrameDecoder()
            var found: [Frame] = []
            for start in stride(from: 0, to: stream.count, by: size) {
                decoder.feed(Array(stream[start..<min(start + size, stream.count)]))
                do {
                    while let frame = try decoder.next() { found.append(frame) }
                } catch { return (found, true) }
                precondition(decoder.pendingBytes <= Frame.maximumLength + 4)
            }
            return (found, false)
        }
        let (whole, isBroken) = frames(max(1, stream.count))
        let (cut, isCutBroken) = frames(Int(first % 13) + 1)
        precondition(whole == cut && isBroken == isCutBroken, "the cut of the stream shows")
        for frame in whole {
            let encoded = frame.encoded()
            precondition(encoded.count == frame.encodedLength)
            var decoder = FrameDecoder()
            decoder.feed(encoded)
            precondition((try? decoder.next()) == frame, "a frame does not come back")
            for tag in FieldTag.allCases {
                _ = frame.text(tag)
                _ = frame.texts(tag)
                _ = frame.integer(tag, as: UInt64.self)
            }
        }
    }

    /// What is legal has one form.
    @Sendable private static func request(_ bytes: [UInt8]) {
        guard let request = try? SpawnerRequest(decoding: bytes[...]) else { return }
        precondition(request.encoded() == bytes, "\(request)")
    }

    @Sendable private static func event(_ bytes: [UInt8]) {
        guard let event = try? SpawnerEvent(decoding: bytes[...]) else { return }
        precondition(event.encoded() == bytes, "\(event)")
        _ = event.descriptorCount
    }

    /// Every file is taken or refused with places that lie in it.
    @Sendable private static func yaml(_ bytes: [UInt8]) {
        let lines = bytes.count + 2
        func check(_ errors: ConfigurationErrors) {
            precondition(!errors.description.isEmpty && errors.description.utf8.count < 1 << 20)
            for error in errors.errors { precondition((0...lines).contains(error.line) && (0...lines).contains(error.column), "\(error)") }
        }
        do throws(ConfigurationErrors) {
            let manifest = try FunctionManifest(yaml: bytes)
            let program = Array((manifest.handler.first ?? "").utf8)
            precondition(program.first != 0x2F && !program.split(separator: 0x2F).contains([0x2E, 0x2E]), "a handler outside the folder")
            precondition(manifest.limits.isValid, "limits outside their ranges")
            _ = manifest.command
        } catch { check(error) }
        do throws(ConfigurationErrors) { _ = try TenantConfiguration(yaml: bytes, file: "acme.yaml", name: "acme") } catch { check(error) }
    }

    /// Parts and query, encoded again, mean the same.
    @Sendable private static func path(_ bytes: [UInt8]) {
        guard let text = String(validating: bytes, as: UTF8.self), let path = RequestPath(text) else { return }
        func encoded(_ text: String) -> String { text.utf8.map { "%" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }
        let query = path.query.map { "\(encoded($0.key))=\(encoded($0.value))" }.joined(separator: "&")
        let again = "/" + path.parts.map(encoded).joined(separator: "/") + "?" + query
        guard again.utf8.count <= 4096 else { return }
        guard let second = RequestPath(again) else { preconditionFailure("refused: \(again)") }
        precondition(path.parts == second.parts && path.query == second.query, "\(path) \(second)")
    }
}
