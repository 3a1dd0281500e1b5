// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
import Foundation
import NIOHTTP1

/// The daemon's own end and beginning.
public protocol LifeService: Sendable {
    /// Whether the node admits nothing because an operator wants it so.
    var isDraining: Bool { get }
    func restartStatus() async throws -> RestartReply
    /// Returns when a new daemon is prepared to take over from this one, which then lets go of everything and ends; throws where there is none.
    /// - Parameter isWhole: with a new program for the spawner in any case.
    func restart(isWhole: Bool) async throws -> RestartReply
    func drainStatus() async throws -> DrainReply
    func setDraining(_ isDraining: Bool) async throws -> DrainReply
}

enum LifeRoutes {
    static func answer(_ method: HTTPMethod, _ resource: String, _ body: [UInt8], _ service: any NodeService) async throws -> ControlAnswer
    {
        if resource == "restart" {
            if method == .GET { return ControlAnswer(json: try await service.restartStatus()) }
            try ControlRoutes.need(method, .POST, or: .GET)
            guard
                let request = body.isEmpty
                    ? RestartRequest(spawner: false) : try? JSONDecoder().decode(RestartRequest.self, from: Data(body))
            else { throw Problem.badRequest("send {\"spawner\": true} or nothing") }
            return ControlAnswer(json: try await service.restart(isWhole: request.spawner), status: 202)
        }
        if method == .GET { return ControlAnswer(json: try await service.drainStatus()) }
        try ControlRoutes.need(method, .POST, or: .GET)
        guard let request = try? JSONDecoder().decode(DrainRequest.self, from: Data(body)) else {
            throw Problem.badRequest("send {\"undo\": false} or true")
        }
        return ControlAnswer(json: try await service.setDraining(!request.undo))
    }
}

extension Problem {
    /// What a node that drains says to new work.
    static let draining: Problem = {
        var problem = Problem(
            code: "draining", title: "The node drains", status: 503,
            detail: "an operator has stopped this node from taking new work: ask another, or later")
        problem.retryAfter = 5
        return problem
    }()
}
