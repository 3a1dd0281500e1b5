// SPDX-License-Identifier: Apache-2.0

/// Text from a tenant, made safe for a terminal: control characters (C0, DEL, C1) and the invisible characters that reorder or hide
/// text are written as escapes. A tab stays; a line break stays only where `keepsLines` is set.
public func escaped(_ text: String, keepsLines: Bool = false) -> String {
    guard text.unicodeScalars.contains(where: { isUnsafe($0, keepsLines: keepsLines) }) else { return text }
    var out = ""
    for scalar in text.unicodeScalars {
        guard isUnsafe(scalar, keepsLines: keepsLines) else {
            out.unicodeScalars.append(scalar)
            continue
        }
        switch scalar {
        case "\n": out += "\\n"
        case "\r": out += "\\r"
        default:
            let digits = String(scalar.value, radix: 16)
            out += scalar.value < 0x80 ? "\\x" + (digits.count < 2 ? "0" : "") + digits : "\\u{" + digits + "}"
        }
    }
    return out
}

/// Whether a terminal may act on the character instead of showing it.
private func isUnsafe(_ scalar: Unicode.Scalar, keepsLines: Bool) -> Bool {
    switch scalar.value {
    case 0x09: false
    case 0x0a: !keepsLines
    case 0..<0x20, 0x7f...0x9f: true
    // Zero width and direction marks, line and paragraph separators, embeddings, isolates, the byte order mark, tags.
    case 0x200b...0x200f, 0x2028...0x202e, 0x2060...0x206f, 0xfeff, 0xe0000...0xe007f: true
    default: false
    }
}

/// A JSON text with the characters that a terminal may act on written as JSON escapes, so that it stays the same JSON.
public func jsonEscaped(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: { isUnsafe($0, keepsLines: true) && $0 != "\r" }) else { return text }
    var out = ""
    for scalar in text.unicodeScalars {
        guard isUnsafe(scalar, keepsLines: true), scalar != "\r" else {
            out.unicodeScalars.append(scalar)
            continue
        }
        for unit in String(scalar).utf16 {
            let digits = String(unit, radix: 16)
            out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        }
    }
    return out
}
