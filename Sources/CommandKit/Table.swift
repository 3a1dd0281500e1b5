// SPDX-License-Identifier: Apache-2.0

/// Rows under headings, aligned with spaces.
public struct Table: Sendable {
    public struct Column: Sendable {
        public var title: String
        /// Numbers stand at the right.
        public var isNumber: Bool
        public init(_ title: String, isNumber: Bool = false) {
            self.title = title
            self.isNumber = isNumber
        }
    }

    public private(set) var columns: [Column]
    public private(set) var rows: [[String]] = []

    public init(_ columns: [Column]) { self.columns = columns }

    /// Adds a row; what a tenant wrote in it is made safe here. Missing cells are empty, surplus ones are dropped.
    public mutating func add(_ cells: [String]) {
        rows.append(columns.indices.map { $0 < cells.count ? escaped(cells[$0]) : "" })
    }

    /// One line a row with its line break, two spaces between columns, nothing behind the last word.
    public func rendered() -> String {
        let lines = [columns.map(\.title)] + rows
        let widths = columns.indices.map { column in lines.map { width($0[column]) }.max() ?? 0 }
        var out = ""
        for line in lines {
            var text = ""
            for (index, cell) in line.enumerated() {
                let padding = String(repeating: " ", count: widths[index] - width(cell))
                text += (index > 0 ? "  " : "") + (columns[index].isNumber ? padding + cell : cell + padding)
            }
            while text.last == " " { text.removeLast() }
            out += text + "\n"
        }
        return out
    }

    /// Columns of a terminal that the text takes: two for wide East Asian characters and emoji, one for others.
    private func width(_ text: String) -> Int {
        text.reduce(0) { sum, character in
            guard let first = character.unicodeScalars.first else { return sum }
            let isWide =
                switch first.value {
                case 0x1100...0x115f, 0x2e80...0xa4cf, 0xac00...0xd7a3, 0xf900...0xfaff, 0xfe30...0xfe6f, 0xff00...0xff60,
                    0xffe0...0xffe6, 0x1f300...0x1faff, 0x20000...0x3fffd:
                    true
                default: false
                }
            return sum + (isWide ? 2 : 1)
        }
    }
}
