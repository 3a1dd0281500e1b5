// SPDX-License-Identifier: Apache-2.0
public import Core

extension FunctionManifest {
    /// Why no worker could start with this code: a sentence with the file that was looked for and what to do; nil where `handler` is there.
    ///
    /// What only a start shows (an interpreter that the root has not, another processor's program, a module without that function) is told by the start.
    public func missingCode(in code: CodeListing, hasLayers: Bool) -> String? {
        guard let handler = handler.first else { return nil }
        switch runtime {
        case "native", "command": return Self.missingProgram(handler, code)
        // A layer may bring the module.
        case "python3" where !hasLayers: return Self.missingModule(handler, code)
        case "nodejs": return Self.missingScript(handler, code)
        default: return nil
        }
    }

    private static func missingProgram(_ path: String, _ code: CodeListing) -> String? {
        switch code[path] {
        case nil:
            "the archive has no file \(path), which `handler` names: put the program there, or name the one that is (`handler` counts from "
                + "the folder of function.yaml)"
        case .folder: "\(path), which `handler` names, is a folder: name the program in it"
        case .file(isExecutable: false):
            "\(path), which `handler` names, is not executable in the archive: `chmod +x \(path)` and deploy again (a zip from a system "
                + "without such permissions loses them: send the folder or a tar)"
        case .file, .link: nil
        }
    }

    private static func missingModule(_ handler: String, _ code: CodeListing) -> String? {
        guard let module = file(handler) else { return nil }
        guard !module.contains("/") else {
            return "`handler: \(handler)` has a slash, which no module's name has in Python: write it with dots "
                + "(\(handler.replacing("/", with: ".")))"
        }
        let path = module.replacing(".", with: "/")
        let isThere =
            [".py", "/__init__.py", ".pyc", "/__init__.pyc"].contains { code.hasFile(path + $0) }
            || code.hasPath(from: path + ".", to: ".so")
        guard !isThere else { return nil }
        return "the archive has no file \(path).py (nor \(path)/__init__.py), which `handler: \(handler)` names: add it, or name the file "
            + "that is there, as file.function"
    }

    private static func missingScript(_ handler: String, _ code: CodeListing) -> String? {
        guard let file = file(handler), ![".js", ".cjs", ".mjs"].contains(where: { code.hasFile(file + $0) }) else { return nil }
        return
            "the archive has no file \(file).js, .cjs or .mjs, which `handler: \(handler)` names: add it, or name the file that is there, "
            + "as file.function"
    }

    private static func file(_ handler: String) -> String? {
        guard let dot = handler.lastIndex(of: "."), dot > handler.startIndex else { return nil }
        return String(handler[..<dot])
    }
}
