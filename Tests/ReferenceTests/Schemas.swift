// SPDX-License-Identifier: Apache-2.0
import Foundation

/// JSON Schemas (2020-12, as OpenAPI 3.1 takes them) of Codable types, found by decoding them from nothing: what a type asks for is what it has.
final class Schemas {
    /// By the name of the type.
    private(set) var all: [String: [String: Any]] = [:]

    /// A reference to the type's schema.
    func reference(_ type: any Decodable.Type) -> [String: Any] { schema(type) }

    fileprivate func schema(_ type: any Decodable.Type) -> [String: Any] {
        switch type {
        case is String.Type: return ["type": "string"]
        case is Bool.Type: return ["type": "boolean"]
        case is Double.Type, is Float.Type: return ["type": "number"]
        case is any UnsignedInteger.Type: return ["type": "integer", "minimum": 0]
        case is any BinaryInteger.Type: return ["type": "integer"]
        case let list as any ListType.Type: return ["type": "array", "items": schema(list.element)]
        case let map as any MapType.Type: return ["type": "object", "additionalProperties": schema(map.value)]
        default: break
        }
        let name = "\(type)"
        if all[name] == nil {
            all[name] = [:]
            let fields = Fields()
            _ = try? type.init(from: Recorder(schemas: self, fields: fields))
            var schema: [String: Any] = ["type": "object", "properties": fields.properties]
            if !fields.required.isEmpty { schema["required"] = fields.required.sorted() }
            all[name] = schema
        }
        return ["$ref": "#/components/schemas/\(name)"]
    }
}

private protocol ListType { static var element: any Decodable.Type { get } }
extension Array: ListType where Element: Decodable { static var element: any Decodable.Type { Element.self } }
private protocol MapType { static var value: any Decodable.Type { get } }
extension Dictionary: MapType where Key == String, Value: Decodable { static var value: any Decodable.Type { Value.self } }

private final class Fields {
    var properties: [String: Any] = [:]
    var required: Set<String> = []
}

/// Answers every question with a value of the right type, and remembers the question.
private struct Recorder: Decoder {
    let schemas: Schemas
    let fields: Fields
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(Keyed<Key>(schemas: schemas, fields: fields))
    }
    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw CocoaError(.coderInvalidValue) }
    func singleValueContainer() throws -> any SingleValueDecodingContainer { throw CocoaError(.coderInvalidValue) }
}

private struct Keyed<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let schemas: Schemas
    let fields: Fields
    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] { [] }
    func contains(_ key: Key) -> Bool { true }
    func decodeNil(forKey key: Key) -> Bool { false }

    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T {
        fields.required.insert(key.stringValue)
        return try value(type, key)
    }
    func decodeIfPresent<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T? { try value(type, key) }

    private func value<T: Decodable>(_ type: T.Type, _ key: Key) throws -> T {
        fields.properties[key.stringValue] = schemas.schema(type)
        // Made of an empty text of JSON that fits; a type of fields is made by this recorder again.
        for text in ["\"x\"", "true", "1", "[]", "{}"] {
            if let value = try? JSONDecoder().decode([T].self, from: Data("[\(text)]".utf8)).first { return value }
        }
        return try T(from: Recorder(schemas: schemas, fields: Fields()))
    }

    func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type, forKey key: Key) throws -> KeyedDecodingContainer<Nested> {
        throw CocoaError(.coderInvalidValue)
    }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { throw CocoaError(.coderInvalidValue) }
    func superDecoder() throws -> any Decoder { throw CocoaError(.coderInvalidValue) }
    func superDecoder(forKey key: Key) throws -> any Decoder { throw CocoaError(.coderInvalidValue) }
}
