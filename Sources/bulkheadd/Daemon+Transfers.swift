// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Dispatch
import Foundation
import Gateway
import Glibc
import Logging
import NodeConfiguration
import Store
import Supervision
import Synchronization

/// One tenant, out of this node and into it.
///
/// What is taken in shows only once the tenant is in the configuration. Until then a note (`imports/TENANT.pending`) says that it belongs to an import that has not ended; the
/// next import of that name and the next start remove it.
extension Daemon {
    private var importFolder: String { stateFolder + "/imports" }
    private func note(_ tenant: Name) -> String { "\(importFolder)/\(tenant).pending" }

    func makeExport(_ tenant: Name, buckets: Bool) async throws -> ExportReply {
        guard tenantNames.withLock({ $0.contains(tenant) }) else { throw Problem.notFound("tenant \(tenant)") }
        return try await withSnapshot { id, root in
            let (store, code) = (store, code)
            // One job on the disk's queue, as sweeps are: no code goes in between.
            try await onDisk {
                let records = try store.records(of: tenant)
                try code.link(records.codeHashes, to: root + "/code")
                let encoder = JSONEncoder()
                encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
                let text = try Result { try encoder.encode(records) }.mapError { StoreError("tenant.json cannot be written: \($0)") }.get()
                guard FileManager.default.createFile(atPath: root + "/tenant.json", contents: text) else {
                    throw StoreError("tenant.json cannot be written. Check that the disk has room")
                }
            }
            let all = self.buckets
            if buckets {
                try await apartFromAll {
                    for bucket in all.buckets(tenant) { try all.copy(bucket, to: "\(root)/buckets/\(bucket.bucket)") }
                }
            }
            return ExportReply(id: id, tenant: tenant.text, release: Self.version)
        }
    }

    func importTenant(_ id: String, as tenant: Name) async throws -> ImportReply {
        let root = "\(importFolder)/\(id)"
        guard id.count == 16, id.allSatisfy(\.isHexDigit), FileManager.default.fileExists(atPath: root) else {
            throw Problem.notFound("import \(id.prefix(40))")
        }
        func refuse(_ detail: String) -> Problem {
            Problem(code: "badArchive", title: "The archive is refused", status: 422, detail: "\(detail). Nothing was imported")
        }
        try await discardImport(tenant)
        try await checkRoom(for: tenant)
        guard let text = FileManager.default.contents(atPath: root + "/tenant.json"),
            let records = try? JSONDecoder().decode(TenantRecords.self, from: text)
        else { throw refuse("its tenant.json cannot be read") }
        if let objection = records.objection { throw refuse(objection) }
        if let objection = unfit(records) { throw refuse(objection) }
        let trees = try await unpackAll(records, root, refuse)
        defer { for tree in trees.values { code.discard(tree) } }
        return try await take(records, trees, root, tenant)
    }

    /// That nothing is kept under the name.
    private func checkRoom(for tenant: Name) async throws {
        func taken(_ detail: String) -> Problem {
            Problem(
                code: "exists", title: "Conflict", status: 409,
                detail: "\(detail): import it under another name. Nothing was imported")
        }
        guard !tenantNames.withLock({ $0.contains(tenant) }) else { throw taken("there is a tenant \(tenant) already") }
        let (store, buckets) = (store, buckets)
        guard try await !onDisk({ try store.hasRecords(of: tenant) || !buckets.buckets(tenant).isEmpty }) else {
            throw taken("this node keeps functions, keys or buckets of a tenant \(tenant) that is not configured any more")
        }
    }

    /// Why a version could not run here.
    private func unfit(_ records: TenantRecords) -> String? {
        for version in records.versions {
            let name = "\(version.function)@\(version.number)"
            do throws(ConfigurationErrors) {
                let manifest = try FunctionManifest(yaml: Array(version.manifest.utf8))
                guard manifest.function.text == version.function else { return "\(name) has the manifest of another function" }
                guard hasRuntime(manifest.runtime) else {
                    return "\(name) needs the runtime \(manifest.runtime), which this node lacks: `bulkhead doctor` says what is missing"
                }
            } catch { return "the manifest of \(name) is refused: \(error)" }
        }
        return nil
    }

    /// The code of all versions, as trees in the folder of what comes in: unpacked in a sandbox as every deploy is, and compared with its hash.
    private func unpackAll(_ records: TenantRecords, _ root: String, _ refuse: (String) -> Problem) async throws -> [String: String] {
        var trees: [String: String] = [:]
        do {
            for hash in records.codeHashes {
                let tree = code.newPath("")
                trees[hash] = tree
                let (found, bytes) = try await unpack("\(root)/code/\(hash).tar", to: tree)
                guard found == hash else { throw refuse("the code \(hash.prefix(12)) is not what its hash says") }
                guard records.versions.allSatisfy({ $0.code != hash || $0.bytes == bytes }) else {
                    throw refuse("the code \(hash.prefix(12)) has another size than its versions say")
                }
            }
            return trees
        } catch {
            for tree in trees.values { code.discard(tree) }
            switch error {
            case let error as IntakeError where error.isStorage: throw Problem.storage("\(error). Nothing was imported")
            case is IntakeError, is ArchiveFailure: throw refuse("\(error)")
            default: throw error
            }
        }
    }

    private func unpack(_ archive: String, to tree: String) async throws -> (hash: String, bytes: UInt64) {
        let file = unsafe open(archive, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
        guard file >= 0 else { throw IntakeError("its code \(archive.suffix(68)) is missing") }
        defer { close(file) }
        var info = stat()
        unsafe fstat(file, &info)
        // The intake is used by one thread at a time: the unpacking one, then this one.
        nonisolated(unsafe) let reader = try CodeIntake(root: tree, inputBytes: UInt64(max(0, info.st_size)))
        try await supervisor.unpack(archive: file) { part in unsafe try reader.feed(part) }
        return unsafe try reader.finish()
    }

    /// The last step: all of it, or nothing.
    private func take(_ records: TenantRecords, _ trees: [String: String], _ root: String, _ tenant: Name) async throws -> ImportReply {
        let (store, code, buckets, note) = (store, code, buckets, note(tenant))
        let (leftOut, keys) = try await onDisk {
            try Self.write(note)
            do {
                for (hash, tree) in trees { try code.keep(tree, hash: hash) }
                let leftOut = try store.add(records, as: tenant)
                if FileManager.default.fileExists(atPath: root + "/buckets") { try buckets.adopt(root + "/buckets", for: tenant) }
                return (leftOut, try store.keys(of: tenant))
            } catch {
                try? store.removeRecords(of: tenant)
                unsafe unlink(note)
                throw error
            }
        }
        keyRing.withLock { $0.replace(tenant, keys) }
        return ImportReply(
            tenant: tenant.text, functions: records.functions.count, versions: records.versions.count, keys: records.keys.count - leftOut,
            keysLeftOut: leftOut)
    }

    /// Makes an empty file that a power failure does not take.
    private static func write(_ note: String) throws(StoreError) {
        let parent = String(note[..<(note.lastIndex(of: "/") ?? note.startIndex)])
        for (path, flags) in [(note, O_WRONLY | O_CREAT), (parent, O_RDONLY | O_DIRECTORY)] {
            let file = unsafe open(path, flags | O_CLOEXEC, 0o600)
            guard file >= 0 else { throw StoreError("the import cannot begin: \(path) cannot be made. Check that the disk has room") }
            fsync(file)
            close(file)
        }
    }

    // MARK: ends

    func undoImport(_ tenant: Name) async throws {
        guard FileManager.default.fileExists(atPath: note(tenant)) else { throw Problem.notFound("import of \(tenant)") }
        try await discardImport(tenant)
        await sweepCode()
    }

    /// Those tenants show: what was imported of them is theirs for good.
    func endImports(_ tenants: Set<Name>) {
        guard FileManager.default.fileExists(atPath: importFolder) else { return }
        for tenant in tenants { unsafe unlink(note(tenant)) }
    }

    /// At a start: imports that were broken off leave nothing.
    func settleImports() async {
        let known = tenantNames.withLock { $0 }
        endImports(known)
        for name in (try? FileManager.default.contentsOfDirectory(atPath: importFolder)) ?? [] {
            if name.hasSuffix(".pending"), let tenant = Name(name.dropLast(8)), !known.contains(tenant) {
                do { try await discardImport(tenant) } catch {
                    logger.error(
                        "an import that was broken off cannot be removed", metadata: ["tenant": "\(tenant)", "reason": "\(error)"])
                }
            } else if !name.hasSuffix(".pending") {
                try? FileManager.default.removeItem(atPath: importFolder + "/" + name)
            }
        }
    }

    /// Removes what a broken off import of that name left; what belongs to a tenant that shows stays.
    private func discardImport(_ tenant: Name) async throws {
        let note = note(tenant)
        guard FileManager.default.fileExists(atPath: note), !tenantNames.withLock({ $0.contains(tenant) }) else { return }
        let (store, buckets) = (store, buckets)
        let keys = try await onDisk {
            try store.removeRecords(of: tenant)
            do throws(BucketError) { try buckets.removeAll(of: tenant) } catch { throw StoreError("\(error)") }
            unsafe unlink(note)
            return try store.keys(of: tenant)
        }
        keyRing.withLock { $0.replace(tenant, keys) }
    }
}
