// SPDX-License-Identifier: Apache-2.0

/// Finds what a mistyped word was meant to be.
public enum NearWord {
    /// The word that takes the fewest letters to add, drop, change or swap with their neighbour: at most two, and fewer than the word has; nil where none is so near.
    public static func nearest(to word: String, of known: [String]) -> String? {
        // The distance takes as many steps as the letters' product, and no command or key is as long.
        guard word.utf8.count <= 40 else { return nil }
        let limit = min(2, word.utf8.count - 1)
        return known.map { ($0, distance(Array(word.utf8), Array($0.utf8))) }.filter { $0.1 <= limit }.min { $0.1 < $1.1 }?.0
    }

    /// Optimal string alignment: Levenshtein's distance with swapped neighbours as one step.
    static func distance(_ from: [UInt8], _ to: [UInt8]) -> Int {
        var before: [Int] = []
        var last = Array(0...to.count)
        for (row, letter) in from.enumerated() {
            var next = [row + 1]
            for (column, other) in to.enumerated() {
                var least = min(last[column] + (letter == other ? 0 : 1), last[column + 1] + 1, next[column] + 1)
                if row > 0, column > 0, letter == to[column - 1], from[row - 1] == other { least = min(least, before[column - 1] + 1) }
                next.append(least)
            }
            (before, last) = (last, next)
        }
        return last[to.count]
    }
}
