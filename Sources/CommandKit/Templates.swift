// SPDX-License-Identifier: Apache-2.0

public import Core
import Foundation

/// Functions to start from: one folder each, with a `function.yaml`.
public enum Templates {
    /// The templates of a folder, sorted.
    public static func names(in folder: String) throws(Failure) -> [String] {
        let names: [String]
        do { names = try Directory.open(folder).names() } catch {
            throw .failed("installation", "The templates cannot be listed, \(error); reinstall, or name them with BULKHEAD_SHARE.")
        }
        let templates = names.filter { fileExists("\(folder)/\($0)/function.yaml") }
        guard !templates.isEmpty else {
            throw .failed("installation", "\(escaped(folder)) holds no template; reinstall, or name the folder above it in BULKHEAD_SHARE.")
        }
        return templates
    }

    /// Copies a template and writes the function's name into it.
    ///
    /// - Parameter target: a folder that does not exist, or is empty. Its name becomes the function's where it is a valid one.
    /// - Returns: the function's name.
    public static func copy(_ template: String, to target: String) throws(Failure) -> String {
        let path = absolute(target)
        let name = URL(fileURLWithPath: path).standardizedFileURL.lastPathComponent
        let files = FileManager.default
        if fileExists(path) {
            guard let entries = try? Directory.open(path).names() else {
                throw .usage("\(escaped(target)) exists and is no folder; choose another name.")
            }
            guard entries.isEmpty else { throw .usage("\(escaped(target)) exists and is not empty; choose another folder.") }
        }
        guard let function = Name(name) else {
            throw .usage(
                "'\(escaped(name))' cannot be a function's name; name the folder with 1 to 63 of a-z, 0-9 and -, beginning with a letter.")
        }
        do {
            try files.createDirectory(atPath: path, withIntermediateDirectories: true)
            for entry in try files.contentsOfDirectory(atPath: template) {
                try files.copyItem(atPath: template + "/" + entry, toPath: path + "/" + entry)
            }
            let manifest = path + "/function.yaml"
            let text = try String(contentsOfFile: manifest, encoding: .utf8)
            try renamed(text, to: function).write(toFile: manifest, atomically: false, encoding: .utf8)
        } catch {
            let why = escaped(Phrase.open(error.localizedDescription))
            throw .failed("init", "\(escaped(target)) cannot be made (\(why)); choose another folder.")
        }
        return function.text
    }

    /// A manifest with another function's name in its line `function:`.
    public static func renamed(_ manifest: String, to name: Name) -> String {
        var lines = manifest.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        guard let index = lines.firstIndex(where: { $0.hasPrefix("function:") }) else { return "function: \(name)\n" + manifest }
        let comment = lines[index].range(of: " #").map { String(lines[index][$0.lowerBound...]) } ?? ""
        lines[index] = "function: \(name)" + comment
        return lines.joined(separator: "\n")
    }
}
