// SPDX-License-Identifier: Apache-2.0

/// What a verified token says.
public struct TokenClaims: Sendable {
    enum Value: Hashable, Sendable, Decodable {
        case text(String)
        case integer(Int64)
        case number(Double)
        case texts([String])
        case other

        init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            if let text = try? container.decode(String.self) {
                self = .text(text)
            } else if let integer = try? container.decode(Int64.self) {
                self = .integer(integer)
            } else if let number = try? container.decode(Double.self) {
                self = .number(number)
            } else if let texts = try? container.decode([String].self) {
                self = .texts(texts)
            } else {
                self = .other
            }
        }

        var number: Double? {
            switch self {
            case .integer(let number): Double(number)
            case .number(let number): number
            default: nil
            }
        }
    }

    let values: [String: Value]

    /// What of its times forbids it at this one (seconds since 1970).
    func fault(at now: Double) -> TokenVerifier.Fault? {
        guard let end = values["exp"] else { return .endless }
        guard let end = end.number else { return .content }
        guard now < end + TokenVerifier.leeway else { return .expired }
        if let start = values["nbf"] {
            guard let start = start.number else { return .content }
            guard now + TokenVerifier.leeway >= start else { return .early }
        }
        return nil
    }

    /// The claim as one word: a string that is not empty and has no control characters, or a whole number. Nil for all else.
    public func word(_ name: String) -> String? {
        switch values[name] {
        case .text(let text)?: text.isEmpty || text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) ? nil : text
        case .integer(let number)?: "\(number)"
        default: nil
        }
    }

    /// These claims, as far as they are words, and the times; nil where one has more bytes.
    func only(_ names: [String], upTo limit: Int) -> TokenClaims? {
        var kept = values.filter { $0.key == "exp" || $0.key == "nbf" }
        for name in names where kept[name] == nil {
            guard let word = word(name) else { continue }
            guard word.utf8.count <= limit else { return nil }
            kept[name] = values[name]
        }
        return TokenClaims(values: kept)
    }
}
