// SPDX-License-Identifier: Apache-2.0
import Core
import Dispatch
import Glibc
import Synchronization

/// The files of tenants as they were read last: with 100,000 of them a reload must not parse those that nobody has touched.
///
/// And at a start most of 100,000 files are alike, because a program wrote them: files that differ in nothing but the line `tenant: NAME` are parsed once.
///
/// A file is known again by its stamp: inode, size and times. One that was changed less than a second before it was read is not: it may be changed again without another time.
public struct TenantFiles: Sendable {
    private struct Entry {
        /// Nil where the file is too new to be known again.
        var stamp: TenantSource.Stamp?
        var result: Result<TenantConfiguration, ConfigurationErrors>
    }

    private var entries: [String: Entry] = [:]
    /// Files that the last call parsed.
    public private(set) var parsed = 0

    public init() {}

    /// The tenants, in the order of their files, read by as many threads as there are processors. `directory` is the configuration's.
    mutating func read(_ source: TenantSource, _ directory: String) -> [Result<TenantConfiguration, ConfigurationErrors>] {
        let (known, now, names) = (entries, time(nil), source.names)
        let share = 64
        let parts = Mutex<[Int: [Entry]]>([:])
        let fresh = Atomic(0)
        let alike = Alike()
        DispatchQueue.concurrentPerform(iterations: (names.count + share - 1) / share) { part in
            let entries = (part * share..<min((part + 1) * share, names.count)).map { index in
                let name = names[index]
                let found = source.stamp(index, now: now)
                if let stamp = found?.stamp, let entry = known[name], entry.stamp == stamp { return entry }
                fresh.wrappingAdd(1, ordering: .relaxed)
                let result = Self.parse(source.bytes(index), directory, name, alike)
                // Its secrets may be in files of their own, which this stamp does not see.
                let tenant = try? result.get()
                let isAlone = tenant.map { $0.secrets.isEmpty && $0.tokens == nil } ?? false
                return Entry(stamp: found?.isSettled == true && isAlone ? found?.stamp : nil, result: result)
            }
            parts.withLock { $0[part] = entries }
        }
        let all = parts.withLock { parts in parts.keys.sorted().flatMap { parts[$0] ?? [] } }
        entries = Dictionary(zip(names, all), uniquingKeysWith: { first, _ in first })
        parsed = fresh.load(ordering: .relaxed)
        return all.map(\.result)
    }

    /// What files say, by their bytes around the tenant's name.
    private final class Alike: Sendable {
        private let known = Mutex<[[UInt8]: TenantConfiguration]>([:])
        subscript(_ rest: [UInt8]) -> TenantConfiguration? { known.withLock { $0[rest] } }
        func note(_ rest: [UInt8], _ tenant: TenantConfiguration) { known.withLock { if $0.count < 10_000 { $0[rest] = tenant } } }
    }

    /// The file without its tenant's name, where the line `tenant: NAME` is the first. There the name can be nothing but the value of that key, and every name is read alike.
    private static func rest(_ bytes: [UInt8], _ name: String) -> [UInt8]? {
        let line = Array("tenant: \(name)\n".utf8)
        return bytes.starts(with: line) ? Array(bytes[line.count...]) : nil
    }

    private static func parse(_ bytes: Result<[UInt8], ConfigurationError>, _ directory: String, _ file: String, _ alike: Alike) -> Result<
        TenantConfiguration, ConfigurationErrors
    > {
        let shown = "tenants.d/" + file
        switch bytes {
        case .success(let bytes):
            let text = String(file.dropLast(5))
            let rest = rest(bytes, text)
            if let name = Name(text), let rest, var tenant = alike[rest] {
                tenant.tenant = name
                return .success(tenant)
            }
            do throws(ConfigurationErrors) {
                let tenant = try TenantConfiguration(yaml: bytes, file: shown, name: text, directory: directory)
                if let rest { alike.note(rest, tenant) }
                return .success(tenant)
            } catch { return .failure(error) }
        case .failure(let error): return .failure(ConfigurationErrors([ConfigurationError(file: shown, sentence: error.sentence)]))
        }
    }

    static func read(_ path: String) -> Result<[UInt8], ConfigurationError> {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else {
            return .failure(ConfigurationError(file: path, sentence: "the file cannot be read: check its permissions"))
        }
        defer { close(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        // One byte more than the limit, so that a longer file is seen to be longer.
        while bytes.count <= YAMLDocument.sizeLimit {
            let count = unsafe Glibc.read(file, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                return .failure(ConfigurationError(file: path, sentence: "the file is empty or cannot be read"))
            }
            if count == 0 { break }
            bytes += buffer[..<count]
        }
        return .success(bytes)
    }
}
