// SPDX-License-Identifier: Apache-2.0
import Core
import NodeConfiguration
import Testing

@Suite struct MissingCodeTests {
    private static let code = CodeListing([
        "main": .file(isExecutable: true), "plain": .file(isExecutable: false), "bin": .folder, "bin/tool": .file(isExecutable: true),
        "to": .link, "main.py": .file(isExecutable: false), "package": .folder, "package/__init__.py": .file(isExecutable: false),
        "package/inner.py": .file(isExecutable: false), "fast.cpython-311-x86_64-linux-gnu.so": .file(isExecutable: true),
        "index.mjs": .file(isExecutable: false), "src": .folder, "src/app.js": .file(isExecutable: false),
    ])

    private func fault(_ runtime: String, _ handler: String, hasLayers: Bool = false) throws -> String? {
        try FunctionManifest(yaml: Array("function: x\nruntime: \(runtime)\nhandler: \(handler)\n".utf8)).missingCode(
            in: Self.code, hasLayers: hasLayers)
    }

    @Test(
        "a handler that the code has is taken",
        arguments: [
            ("native", "main"), ("native", "./main"), ("native", "[bin//./tool, word]"), ("native", "to"), ("native", "to/anything"),
            ("command", "./bin/tool"), ("python3", "main.handler"), ("python3", "package.handler"), ("python3", "package.inner.handler"),
            ("python3", "fast.handler"), ("python3", "to.inner.handler"), ("nodejs", "index.handler"), ("nodejs", "src/app.handler"),
            ("nodejs", "./src/app.handler"), ("nodejs", "to/app.handler"),
        ])
    func taken(runtime: String, handler: String) throws {
        #expect(try fault(runtime, handler) == nil)
    }

    @Test(
        "a handler that the code has not is refused with the file that was looked for",
        arguments: [
            ("native", "./program", "the archive has no file ./program, which `handler` names"),
            ("native", "main/tool", "the archive has no file main/tool"), ("native", "bin", "bin, which `handler` names, is a folder"),
            ("native", "plain", "not executable in the archive: `chmod +x plain`"), ("command", "run.sh", "no file run.sh"),
            ("command", "[plain, word]", "not executable"), ("python3", "app.handler", "no file app.py (nor app/__init__.py)"),
            ("python3", "package.other.handler", "no file package/other.py"), ("python3", "src/app.handler", "with dots (src.app.handler)"),
            ("nodejs", "main.handler", "no file main.js, .cjs or .mjs"), ("nodejs", "src/index.handler", "no file src/index.js"),
        ])
    func refused(runtime: String, handler: String, sentence: String) throws {
        let told = try fault(runtime, handler)
        #expect(told?.contains(sentence) == true, "\(told ?? "taken")")
    }

    @Test("a module may come from a layer")
    func layered() throws {
        #expect(try fault("python3", "shared.handler", hasLayers: true) == nil, "its tenant's file may force one")
    }

    @Test("a runtime that there is not is refused with the one that is meant", arguments: [("python", "python3"), ("node", "nodejs")])
    func runtimes(written: String, meant: String) {
        let failure = #expect(throws: ConfigurationErrors.self) {
            try FunctionManifest(yaml: Array("function: x\nruntime: \(written)\nhandler: a.b\n".utf8))
        }
        let told = failure.map { "\($0)" } ?? ""
        #expect(told.hasSuffix("must be one of python3, nodejs, command, native; did you mean `\(meant)`?"), "\(told)")
    }
}
