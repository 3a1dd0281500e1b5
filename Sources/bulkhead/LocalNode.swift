// SPDX-License-Identifier: Apache-2.0

import CommandKit
import Core
import Foundation
import Glibc
import Synchronization

/// A node of its own for the time of one command, with embedded defaults, on a folder that goes with it.
///
/// SIGINT, SIGTERM and SIGHUP end it too. Only a SIGKILL of this command leaves it behind: the spawner changes its identity for some files,
/// which makes the kernel forget that it was to end with its parent (PR_SET_PDEATHSIG of prctl(2)).
enum LocalNode {
    /// How long a node may take to start. Seconds.
    private static let startLimit = 30.0

    /// - Throws: ``Failure`` where the node does not start, with what it said; what `body` throws.
    static func with<R: Sendable>(_ options: NodeOptions, _ body: (NodeClient) async throws -> R) async throws -> R {
        guard geteuid() == 0 else {
            throw Failure.failed(
                "notRoot",
                "--local needs root, because the function's worker gets a user id, a cgroup and namespaces of its own; "
                    + "run: sudo bulkhead invoke --local FOLDER")
        }
        let files = FileManager.default
        let folder = files.temporaryDirectory.appendingPathComponent("bulkhead-local-\(UUID().uuidString.prefix(13))").path
        do {
            // Nobody else may look into it, but the daemon goes through it.
            try files.createDirectory(atPath: folder, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o711])
        } catch {
            let why = Phrase.open(error.localizedDescription)
            throw Failure.failed("state", "\(escaped(folder)) cannot be made, \(why); name another place in TMPDIR.")
        }
        // An interrupt and the end of the call may come together; two that remove a folder at once stumble over each other.
        let removal = Mutex(())
        @Sendable func remove() { removal.withLock { _ in try? FileManager.default.removeItem(atPath: folder) } }
        defer { remove() }
        let said = folder + "/said"
        // Zero until it runs. Whoever interrupts while it starts waits for that: else it would stay.
        let running = Mutex<Int32>(0)
        let isInterrupted = Atomic(false)
        let end = Interrupts.end(status: 128 + SIGINT) {
            isInterrupted.store(true, ordering: .sequentiallyConsistent)
            running.withLock { process in
                guard process > 0 else { return }
                kill(process, SIGTERM)
                while waitpid(process, nil, 0) < 0, errno == EINTR {}
                process = 0
            }
            remove()
        }
        let node: ChildProgram
        do {
            let arguments = [try canonical("/proc/self/exe"), "up", "--state", folder + "/state", "--port", "0"]
            node = try running.withLock { process in
                let node = try ChildProgram(arguments, environment: NodePaths.current().installationVariables, errors: said)
                process = node.process
                return node
            }
        } catch {
            throw Failure.failed("installation", "The node for this call cannot be started, \(error); reinstall.")
        }
        let process = node.process
        defer {
            running.withLock { process in
                guard process > 0 else { return }
                kill(process, SIGTERM)
                node.wait()
                process = 0
            }
            // The call fails because its node ended; the interrupt ends the command, with its own status.
            while isInterrupted.load(ordering: .sequentiallyConsistent) { pause() }
            _ = end
        }
        // A daemon that cannot start is tried again and again by its spawner.
        let impatience = DispatchWorkItem { kill(process, SIGTERM) }
        DispatchQueue.global().asyncAfter(deadline: .now() + startLimit, execute: impatience)
        var line: [UInt8] = []
        while !line.contains(10), let more = try node.read() { line += more }
        impatience.cancel()
        guard line.starts(with: Array("READY ".utf8)) else {
            let words = ((try? String(contentsOfFile: said, encoding: .utf8)) ?? "").trimmingCharacters(in: .whitespacesAndNewlines)
            throw Failure.failed(
                "installation",
                "The node for this call did not start: "
                    + (words.isEmpty ? "it said nothing; run: sudo bulkhead doctor" : escaped(String(words.suffix(4096)))))
        }
        var options = options
        options.state = folder + "/state"
        return try await NodeClient.with(options, body)
    }
}
