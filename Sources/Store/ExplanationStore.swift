// SPDX-License-Identifier: Apache-2.0
public import Core
public import Foundation
import Glibc
import Kernel
import Synchronization

/// What was decided on invocations that somebody may ask about later, as JSON lines in numbered segments, one folder a tenant: a tenant that fails much pushes out
/// its own lines and nobody else's. At most `bytes` a tenant, the newest; nothing that is older than `age`.
///
/// A line is with the system when ``append(_:)`` returns: it survives the end of the daemon, and a loss of power takes the last seconds'. All calls block for the disk.
public final class ExplanationStore: Sendable {
    /// One invocation's line: a JSON object that begins with its id.
    public struct Line: Sendable {
        public var tenant: Name
        public var id: InvocationID
        public var json: Data
        public init(tenant: Name, id: InvocationID, json: Data) { (self.tenant, self.id, self.json) = (tenant, id, json) }
    }

    private static let segments = 8
    private let directory: String
    private let segmentBytes: Int
    private let age: UInt64
    /// One writes or reads at a time.
    private let isFree = Mutex(())

    /// - Parameters:
    ///   - bytes: what one tenant's folder may hold.
    ///   - age: how long a segment stays after its last line, in milliseconds.
    public init(directory: String, bytes: Int = 8 << 20, age: UInt64 = 14 * 86_400_000) {
        self.directory = directory
        segmentBytes = max(1024, bytes / Self.segments)
        self.age = age
    }

    /// Appends lines, in their order.
    public func append(_ lines: [Line]) throws(StoreError) {
        let byTenant = Dictionary(grouping: lines, by: \.tenant)
        let result: Result<Void, StoreError> = isFree.withLock { _ in
            do throws(StoreError) {
                for (tenant, lines) in byTenant { try write(lines, folder(tenant)) }
                return .success(())
            } catch { return .failure(error) }
        }
        try result.get()
    }

    /// The newest line of an invocation, of whatever tenant where it is nil: an event that was tried again has one for each run.
    public func find(_ id: InvocationID, tenant: Name?) -> Data? {
        let mark = Data("\(id) ".utf8)
        return isFree.withLock { _ in
            for folder in tenant.map({ [folder($0)] }) ?? folders() {
                for number in numbers(folder).reversed() {
                    guard let data = FileManager.default.contents(atPath: "\(folder)/\(number).jsonl"),
                        let start = data.range(of: mark, options: .backwards)
                    else { continue }
                    // Torn by the end of a daemon: it has no end.
                    guard let end = data[start.upperBound...].firstIndex(of: 0x0A) else { continue }
                    return Data(data[start.upperBound..<end])
                }
            }
            return nil
        }
    }

    /// Removes segments whose last line is too old, and the folder with the last of them: its tenant may be gone for good. `now` in milliseconds since 1970.
    public func prune(now: UInt64) {
        isFree.withLock { _ in
            for folder in folders() {
                for number in numbers(folder) {
                    let path = "\(folder)/\(number).jsonl"
                    let changed = (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
                    if let changed, changed.timeIntervalSince1970 * 1000 + Double(age) < Double(now) { unsafe unlink(path) }
                }
                unsafe rmdir(folder)
            }
        }
    }

    func folder(_ tenant: Name) -> String { "\(directory)/\(tenant)" }

    func folders() -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []).map { "\(directory)/\($0)" }
    }

    func numbers(_ folder: String) -> [Int] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return names.compactMap { $0.hasSuffix(".jsonl") ? Int($0.dropLast(6)) : nil }.sorted()
    }

    private func write(_ lines: [Line], _ folder: String) throws(StoreError) {
        func failure(_ what: String) -> StoreError {
            StoreError("explanations cannot be written: \(KernelError("\(what) \(folder)")). Check that the disk has room")
        }
        unsafe mkdir(directory, 0o700)
        guard unsafe mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw failure("make") }
        var number = numbers(folder).last ?? 1
        var file = try open("\(folder)/\(number).jsonl", failure)
        if lseek(file.rawValue, 0, SEEK_END) >= segmentBytes {
            number += 1
            file = try open("\(folder)/\(number).jsonl", failure)
            for old in numbers(folder).dropLast(Self.segments) { unsafe unlink("\(folder)/\(old).jsonl") }
        }
        // The first byte ends what an interruption has torn.
        var rest = Data([0x0A])
        for line in lines where line.json.count < segmentBytes / 8 { rest += Data("\(line.id) ".utf8) + line.json + [0x0A] }
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(file.rawValue, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw failure("write") }
            rest = rest.dropFirst(count)
        }
    }

    private func open(_ path: String, _ failure: (String) -> StoreError) throws(StoreError) -> OwnedFD {
        let file = unsafe Glibc.open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw failure("open a segment of") }
        return OwnedFD(file)
    }
}
