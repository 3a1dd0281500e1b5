// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Foundation
import Glibc
import Testing

@Suite struct FolderStateTests {
    private func folder() throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        try folder.write("function: f", to: "f/function.yaml")
        try folder.write("print()", to: "f/lib/a/main.py")
        return folder
    }

    @Test("a folder that nobody changes stays equal, also while an editor has a file of it open")
    func still() throws {
        let folder = try folder()
        let before = try FolderState.read(folder.path + "/f")
        for name in [".main.py.swp", "main.py~", ".#main.py", "4913"] { try folder.write("x", to: "f/lib/a/" + name) }
        try folder.write("x", to: "f/.git/index")
        #expect(try FolderState.read(folder.path + "/f") == before)
    }

    /// Each changes `f` below a path, by shell.
    static let changes = [
        "echo more >> lib/a/main.py", "printf 'print!' > lib/a/main.py", "chmod +x lib/a/main.py", "rm lib/a/main.py",
        "echo x > lib/new.py",
        "mv lib/a lib/b", "ln -s main.py lib/a/link", "mkdir empty",
        // Another text of the same length, with the old time put back.
        "touch -r lib/a/main.py ../time; printf 'PRINT()' > lib/a/main.py; touch -r ../time lib/a/main.py",
        // As most editors save.
        "cp -p lib/a/main.py new; mv new lib/a/main.py",
    ]

    @Test("whatever is written, renamed, removed or made executable is a change", arguments: changes)
    func changed(_ script: String) throws {
        let folder = try folder()
        let before = try FolderState.read(folder.path + "/f")
        // A file's times advance in ticks of the kernel, 10 ms at most: what was written in one and the same has the same.
        usleep(20_000)
        let (_, code) = try ChildProgram.run(["/bin/sh", "-c", "cd '\(folder.path)/f' && \(script)"], environment: ["PATH=/usr/bin:/bin"])
        #expect(code == 0)
        #expect(try FolderState.read(folder.path + "/f") != before)
    }

    @Test("a folder that is not there is no empty one")
    func missing() throws {
        #expect(throws: FileError.self) { try FolderState.read("/no/such/folder") }
    }
}
