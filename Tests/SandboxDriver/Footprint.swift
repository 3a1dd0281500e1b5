// SPDX-License-Identifier: Apache-2.0
import Glibc
import Kernel

/// What a start may not change of the process that made it: its descriptors and what they are, its mounts, the namespaces it is in, its ids, capabilities and signal mask.
struct Footprint {
    private let facts: [String: String]

    init() {
        var facts: [String: String] = [:]
        for (folder, name) in [("/proc/self/fd", "descriptor"), ("/proc/self/ns", "namespace")] {
            for entry in Self.entries(folder) {
                // The one that reads the folder is gone by now.
                if let link = Self.link(folder + "/" + entry) { facts["\(name) \(entry)"] = link }
            }
        }
        for line in (SmallFile.read("/proc/self/mountinfo") ?? "").split(separator: "\n") { facts["mount \(line)"] = "" }
        for line in (SmallFile.read("/proc/self/status") ?? "").split(separator: "\n") {
            let fields = line.split(separator: ":", maxSplits: 1).map(String.init)
            if fields.count == 2, ["Uid", "Gid", "Groups", "SigBlk"].contains(fields[0]) || fields[0].hasPrefix("Cap") {
                facts[fields[0]] = fields[1]
            }
        }
        self.facts = facts
    }

    /// What differs from an earlier one, and what there still is of a worker, as sentences. Its pid 1 has been waited for: the rest of it has ended before that.
    func leftovers(since before: Footprint, uid: UInt32) -> [String] {
        var found: [String] = []
        for key in Set(facts.keys).union(before.facts.keys).sorted() where facts[key] != before.facts[key] {
            found.append("\(key) was \(before.facts[key] ?? "not there") and is \(facts[key] ?? "gone")")
        }
        for entry in Self.entries("/proc") where Int32(entry) != nil {
            let status = SmallFile.read("/proc/\(entry)/status") ?? ""
            let ids = status.split(separator: "\n").first { $0.hasPrefix("Uid:") }?.split(whereSeparator: \.isWhitespace).dropFirst() ?? []
            if ids.contains(Substring("\(uid)")) { found.append("process \(entry) has its uid") }
        }
        if waitpid(-1, nil, WNOHANG) >= 0 { found.append("there is a child") }
        return found
    }

    private static func entries(_ folder: String) -> [String] {
        guard let stream = unsafe opendir(folder) else { return [] }
        defer { unsafe closedir(stream) }
        var out: [String] = []
        while let entry = unsafe readdir(stream) {
            out.append(
                unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                    unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
                })
        }
        return out.filter { !$0.hasPrefix(".") }
    }

    private static func link(_ path: String) -> String? {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = unsafe readlink(path, &bytes, bytes.count)
        return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
    }
}
