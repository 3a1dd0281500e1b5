// SPDX-License-Identifier: Apache-2.0

/// URLs that this node may send to.
enum WebAddress {
    /// An absolute http or https URL (RFC 3986) with a host, at most 2048 bytes, without a user (it would end in logs) and without a fragment (it is never sent).
    static func isValid(_ text: String) -> Bool {
        guard text.utf8.count <= 2048, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && !#""<>\^`{|}#"#.utf8.contains($0) }),
            let scheme = ["http://", "https://"].first(where: { text.lowercased().hasPrefix($0) })
        else { return false }
        let rest = text.dropFirst(scheme.count)
        let authority = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        return !authority.contains("@") && !rest.contains("#") && isAuthority(authority)
    }

    private static func isAuthority(_ text: Substring) -> Bool {
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { return false }
            let host = text[text.index(after: text.startIndex)..<end].utf8
            return (2...45).contains(host.count) && host.allSatisfy { isHex($0) || $0 == 0x3A || $0 == 0x2E }
                && isPort(text[text.index(after: end)...])
        }
        let host = text.prefix { $0 != ":" }
        let isName = (1...253).contains(host.utf8.count) && host.utf8.allSatisfy(isNameByte) && host.first != "-" && host.first != "."
        return isName && isPort(text.dropFirst(host.count))
    }

    private static func isPort(_ text: Substring) -> Bool {
        guard !text.isEmpty else { return true }
        let digits = text.dropFirst()
        return text.first == ":" && (1...5).contains(digits.utf8.count) && digits.utf8.allSatisfy { (48...57).contains($0) }
            && (1...65_535).contains(Int(digits) ?? 0)
    }

    private static func isHex(_ byte: UInt8) -> Bool { (48...57).contains(byte) || (97...102).contains(byte | 0x20) }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        (48...57).contains(byte) || (97...122).contains(byte | 0x20) || byte == 0x2D || byte == 0x2E || byte == 0x5F
    }
}
