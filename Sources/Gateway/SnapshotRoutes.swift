// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
import Foundation
import NIOHTTP1

/// What the gateway asks of the daemon for backups and for tenants that move.
public protocol SnapshotService: Sendable {
    func makeSnapshot(buckets: Bool, logs: Bool) async throws -> SnapshotReply
    func removeSnapshot(_ id: String) async throws
    func makeExport(_ tenant: Name, buckets: Bool) async throws -> ExportReply
    func importTenant(_ id: String, as tenant: Name) async throws -> ImportReply
    func undoImport(_ tenant: Name) async throws
}

/// `/v1/snapshots`, `/v1/exports` and `/v1/imports`: for operators alone, because they leave files on the node.
enum SnapshotRoutes {
    static let roots: Set = ["snapshots", "exports", "imports"]

    static func answer(
        _ method: HTTPMethod, _ rest: [String], _ path: RequestPath, _ body: [UInt8], _ service: any SnapshotService
    ) async throws -> ControlAnswer {
        switch (rest[0], rest.count) {
        case ("snapshots", 1):
            try ControlRoutes.need(method, .POST)
            let (buckets, logs) = (path.query["buckets"] == "true", path.query["logs"] != "false")
            return ControlAnswer(json: try await service.makeSnapshot(buckets: buckets, logs: logs), status: 201)
        case ("snapshots", 2):
            try ControlRoutes.need(method, .DELETE)
            try await service.removeSnapshot(rest[1])
        case ("exports", 1):
            try ControlRoutes.need(method, .POST)
            guard let request = try? JSONDecoder().decode(ExportRequest.self, from: Data(body)), let tenant = Name(request.tenant) else {
                throw Problem.badRequest("send {\"tenant\": NAME, \"buckets\": true} or false")
            }
            return ControlAnswer(json: try await service.makeExport(tenant, buckets: request.buckets), status: 201)
        case ("imports", 1):
            try ControlRoutes.need(method, .POST)
            guard let request = try? JSONDecoder().decode(ImportRequest.self, from: Data(body)), let tenant = Name(request.tenant) else {
                throw Problem.badRequest("send {\"id\": ID, \"tenant\": NAME}")
            }
            return ControlAnswer(json: try await service.importTenant(request.id, as: tenant), status: 201)
        case ("imports", 2):
            try ControlRoutes.need(method, .DELETE)
            guard let tenant = Name(rest[1]) else { throw Problem.notFound("import of \(rest[1].prefix(63))") }
            try await service.undoImport(tenant)
        default: throw Problem.notFound("such resource")
        }
        return ControlAnswer(status: 204, contentType: "application/json", body: [])
    }
}
