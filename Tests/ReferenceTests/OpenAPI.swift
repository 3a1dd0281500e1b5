// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Foundation
import Gateway

/// The routes as an OpenAPI 3.1 document.
enum OpenAPI {
    static func document() throws -> String {
        let schemas = Schemas()
        var paths: [String: [String: Any]] = [:]
        for route in Routes.all { paths[route.path, default: [:]][route.method.lowercased()] = operation(route, schemas) }
        let problem = ["application/problem+json": ["schema": schemas.reference(Problem.self)]]
        let document: [String: Any] = [
            "openapi": "3.1.0",
            "info": ["title": "Bulkhead", "version": "1", "license": ["name": "Apache-2.0", "identifier": "Apache-2.0"]],
            "paths": paths,
            "components": [
                "schemas": schemas.all,
                "responses": ["problem": ["description": "A problem document (RFC 9457) with a stable code.", "content": problem]],
                "securitySchemes": [
                    "key": ["type": "http", "scheme": "bearer", "description": "A key of the tenant; its scope is in x-access."]
                ],
            ],
        ]
        let data = try JSONSerialization.data(withJSONObject: document, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data, as: UTF8.self) + "\n"
    }

    private static func operation(_ route: Route, _ schemas: Schemas) -> [String: Any] {
        let names = route.path.split(separator: "/").filter { $0.hasPrefix("{") }.map { String($0.dropFirst().dropLast()) }
        var parameters: [[String: Any]] = names.map { ["name": $0, "in": "path", "required": true, "schema": ["type": "string"]] }
        parameters += route.query.map { ["name": $0, "in": "query", "schema": ["type": "string"]] }
        var good: [String: Any] = ["description": route.status == 204 ? "Done." : "Done; see the schema."]
        if let content = content(route.gives, schemas) { good["content"] = content }
        var operation: [String: Any] = [
            "operationId": id(route), "summary": route.summary, "x-access": route.access.rawValue,
            "responses": ["\(route.status)": good, "default": ["$ref": "#/components/responses/problem"]],
            "security": route.access == .anyone ? [] : [["key": []]],
        ]
        if !parameters.isEmpty { operation["parameters"] = parameters }
        if let content = content(route.takes, schemas) { operation["requestBody"] = ["content": content] }
        return operation
    }

    static func id(_ route: Route) -> String {
        route.method.lowercased() + "_"
            + route.path.split(separator: "/").map { $0.filter { $0.isLetter || $0.isNumber || $0 == "-" } }.joined(separator: "_")
    }

    private static func content(_ content: Route.Content, _ schemas: Schemas) -> [String: Any]? {
        switch content {
        case .nothing: nil
        case .json(let type): ["application/json": ["schema": schemas.reference(type)]]
        case .list(let type): ["application/json": ["schema": ["type": "array", "items": schemas.reference(type)]]]
        case .lines(let type): ["application/x-ndjson": ["schema": type.map { schemas.reference($0) } ?? ["type": "object"]]]
        case .text: ["text/plain": ["schema": ["type": "string"]]]
        case .bytes: ["*/*": ["schema": [String: Any]()]]
        case .archive: ["application/x-tar": ["schema": [String: Any]()], "application/zip": ["schema": [String: Any]()]]
        }
    }
}
