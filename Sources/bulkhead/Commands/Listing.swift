// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation

/// A column of a table: its heading, and what an object shows there.
struct ListColumn: Sendable {
    var title: String
    var isNumber = false
    var cell: @Sendable (JSONValue) -> String

    static func text(_ title: String, _ key: String) -> ListColumn { ListColumn(title: title) { $0[key].text } }

    /// A long text's beginning, on one line: the whole is in what shows one object.
    static func summary(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title) {
            let text = $0[key].text
            let line = text.prefix { !$0.isNewline }.prefix(summaryLimit)
            return line.count < text.count ? line + "..." : text
        }
    }
    private static let summaryLimit = 100

    static func count(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title, isNumber: true) { $0[key].count.map(Units.count) ?? $0[key].text }
    }

    static func bytes(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title, isNumber: true) { $0[key].count.map(Units.bytes) ?? $0[key].text }
    }

    /// How much of a ceiling is taken: `3/50`.
    static func gauge(_ title: String, _ key: String) -> ListColumn {
        ListColumn(title: title, isNumber: true) { "\($0[key]["used"].text)/\($0[key]["limit"].text)" }
    }

    /// A number with a fixed point.
    static func decimal(_ title: String, _ key: String, places: Int = 2) -> ListColumn {
        ListColumn(title: title, isNumber: true) { Units.rounded($0[key].double ?? 0, places: places) }
    }

    /// How long ago a time was.
    static func age(_ title: String, _ key: String, now: Date = Date()) -> ListColumn {
        ListColumn(title: title) { $0[key].time.map { Units.duration(seconds: max(0, now.timeIntervalSince($0))) } ?? "" }
    }
}

/// Prints what a node listed: the document itself, or a table.
enum Listing {
    static func show(_ bytes: [UInt8], json: Bool, _ columns: [ListColumn]) throws {
        if json { Console.json(bytes) } else { Console.out(table(try JSONValue(parsing: bytes).elements, columns)) }
    }

    static func table(_ objects: [JSONValue], _ columns: [ListColumn]) -> String {
        var table = Table(columns.map { Table.Column($0.title, isNumber: $0.isNumber) })
        for object in objects { table.add(columns.map { $0.cell(object) }) }
        return table.rendered()
    }
}
