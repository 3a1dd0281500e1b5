// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// A JSON value of a node, read leniently: a field that this release does not know is no error, and a missing one is empty.
public enum JSONValue: Hashable, Sendable, Decodable {
    case null
    case bool(Bool)
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// - Throws: `DecodingError` where the bytes are no JSON.
    public init(parsing bytes: [UInt8]) throws { self = try JSONDecoder().decode(JSONValue.self, from: Data(bytes)) }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int64.self) {
            self = .integer(value)
        } else if let value = try? container.decode(Double.self) {
            self = .number(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// A field of an object; `null` where there is none.
    public subscript(_ key: String) -> JSONValue {
        if case .object(let fields) = self { return fields[key] ?? .null }
        return .null
    }

    /// The elements of an array; of an object with one array in it (`{"workers": [...]}`), those.
    public var elements: [JSONValue] {
        switch self {
        case .array(let values): return values
        case .object(let fields):
            let arrays = fields.values.compactMap { value in
                if case .array(let values) = value { return values } else { return nil }
            }
            return arrays.count == 1 ? arrays[0] : []
        default: return []
        }
    }

    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }

    /// A number that is not negative, fractions cut off.
    public var count: UInt64? {
        switch self {
        case .integer(let value): value >= 0 ? UInt64(value) : nil
        case .number(let value): value >= 0 && value < 1.8e19 ? UInt64(value) : nil
        default: nil
        }
    }

    public var double: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }

    /// The moment that a time stands for: milliseconds since 1970, or ISO 8601.
    public var time: Date? {
        switch self {
        case .integer(let value): return Date(timeIntervalSince1970: Double(value) / 1000)
        case .number(let value): return Date(timeIntervalSince1970: value / 1000)
        case .string(let text):
            for options: ISO8601DateFormatter.Options in [[.withInternetDateTime, .withFractionalSeconds], .withInternetDateTime] {
                let formatter = ISO8601DateFormatter()
                formatter.formatOptions = options
                if let date = formatter.date(from: text) { return date }
            }
            return nil
        default: return nil
        }
    }

    /// For a cell of a table: text, number, `yes` or `no`; arrays joined by commas; empty for nothing.
    public var text: String {
        switch self {
        case .null: ""
        case .bool(let value): value ? "yes" : "no"
        case .integer(let value): "\(value)"
        case .number(let value): "\(value)"
        case .string(let value): value
        case .array(let values): values.map(\.text).joined(separator: ", ")
        case .object(let fields): fields.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value.text)" }.joined(separator: " ")
        }
    }
}

extension JSONValue: Encodable {
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .integer(let value): try container.encode(value)
        case .number(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let values): try container.encode(values)
        case .object(let fields): try container.encode(fields)
        }
    }
}
