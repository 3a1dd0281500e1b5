// SPDX-License-Identifier: Apache-2.0

/// Texts of others (a library, a function, another program) as a part of a sentence of ours.
public enum Phrase {
    /// The text without what ends it: the sentence around it brings its own. Three dots stay, for they say that it was cut.
    public static func open(_ text: String) -> String {
        var text = text[...]
        while let last = text.last, last.isWhitespace || ".:;,".contains(last), !text.hasSuffix("...") { text.removeLast() }
        return String(text)
    }

    /// An error's type and message, of which either may be missing.
    public static func error(_ type: String, _ message: String) -> String {
        type.isEmpty || message.isEmpty ? type + message : "\(type): \(message)"
    }
}
