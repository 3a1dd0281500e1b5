// SPDX-License-Identifier: Apache-2.0
import CSandbox
import Glibc
import Kernel

/// A live worker, read from outside and compared with what was promised. Nothing here asks the worker.
public enum Posture {
    public struct Check: Sendable, Hashable {
        public let name: String
        public let expected: String
        public let actual: String
        public let isHeld: Bool
        public init(name: String, expected: String, actual: String, isHeld: Bool) {
            self.name = name
            self.expected = expected
            self.actual = actual
            self.isHeld = isHeld
        }
    }

    public struct Expectation: Sendable {
        var reaper: Int32
        var uid: UInt32
        var processes: UInt32
        var cgroupSuffix: String
        var cgroupLines: Int
        var buckets: Buckets?
        var layers: Layers?
        public init(
            reaper: Int32, uid: UInt32, processes: UInt32, cgroupSuffix: String, cgroupLines: Int, buckets: Buckets? = nil,
            layers: Layers? = nil
        ) {
            self.reaper = reaper
            self.uid = uid
            self.processes = processes
            self.cgroupSuffix = cgroupSuffix
            self.cgroupLines = cgroupLines
            self.buckets = buckets
            self.layers = layers
        }
    }

    /// The host's number of the worker's main process: the reaper's first child.
    public static func mainProcess(of reaper: Int32) -> Int32? {
        SmallFile.read("/proc/\(reaper)/task/\(reaper)/children").flatMap { Int32($0.split(separator: " ").first ?? "") }
    }

    public static func read(_ expectation: Expectation) -> [Check] {
        guard let main = mainProcess(of: expectation.reaper) else { return [] }
        var checks: [Check] = []
        for (who, pid) in [("reaper", expectation.reaper), ("main", main)] {
            status(who, pid, expectation, &checks)
            namespaces(who, pid, &checks)
        }
        descriptors(main, &checks)
        mounts(main, expectation.buckets, expectation.layers, &checks)
        limits(main, expectation, &checks)
        let lines = (SmallFile.read("/proc/\(main)/cgroup") ?? "").split(separator: "\n").filter { $0.hasSuffix(expectation.cgroupSuffix) }
        checks.append(
            Check(
                name: "main: cgroup", expected: "\(expectation.cgroupLines) x \(expectation.cgroupSuffix)", actual: "\(lines.count)",
                isHeld: lines.count >= expectation.cgroupLines))
        let score = SmallFile.read("/proc/\(main)/oom_score_adj")?.split(separator: "\n").first.map(String.init) ?? ""
        checks.append(Check(name: "main: oom_score_adj", expected: ">= 500", actual: score, isHeld: Int(score) ?? 0 >= 500))
        return checks
    }

    private static func status(_ who: String, _ pid: Int32, _ expectation: Expectation, _ checks: inout [Check]) {
        var fields: [String: String] = [:]
        for line in (SmallFile.read("/proc/\(pid)/status") ?? "").split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            fields[String(line[..<colon])] = line[line.index(after: colon)...].split(whereSeparator: \.isWhitespace).joined(separator: " ")
        }
        func expect(_ key: String, _ wanted: String) {
            let actual = fields[key] ?? "missing"
            checks.append(Check(name: "\(who): \(key)", expected: wanted, actual: actual, isHeld: actual == wanted))
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let value = fields[set] ?? "missing"
            let mask = UInt64(value, radix: 16) ?? .max
            let text = mask == 0 ? value : "\(value) \(capabilities(mask))"
            checks.append(Check(name: "\(who): \(set)", expected: "none", actual: mask == 0 ? "none" : text, isHeld: mask == 0))
        }
        expect("NoNewPrivs", "1")
        expect("Seccomp", "2")
        expect("Uid", Array(repeating: "\(expectation.uid)", count: 4).joined(separator: " "))
        expect("Gid", Array(repeating: "\(expectation.uid)", count: 4).joined(separator: " "))
        expect("Groups", "")
        for map in ["uid_map", "gid_map"] {
            let actual = (SmallFile.read("/proc/\(pid)/\(map)") ?? "").split(whereSeparator: \.isWhitespace).joined(separator: " ")
            let wanted = "\(SBX_INNER_ID) \(expectation.uid) 1"
            checks.append(Check(name: "\(who): \(map)", expected: wanted, actual: actual, isHeld: actual == wanted))
        }
        let owner = "\(sbx_namespace_owner(pid))"
        checks.append(
            Check(
                name: "\(who): owner of the user namespace", expected: "\(expectation.uid)", actual: owner,
                isHeld: owner == "\(expectation.uid)"))
        let denied = (SmallFile.read("/proc/\(pid)/setgroups") ?? "").split(separator: "\n").first.map(String.init) ?? ""
        checks.append(Check(name: "\(who): setgroups", expected: "deny", actual: denied, isHeld: denied == "deny"))
    }

    private static func capabilities(_ mask: UInt64) -> String {
        guard let text = unsafe sbx_capability_text(mask) else { return "" }
        defer { unsafe free(text) }
        return unsafe String(cString: text)
    }

    private static func link(_ path: String) -> String {
        var bytes = [CChar](repeating: 0, count: 512)
        let count = unsafe readlink(path, &bytes, bytes.count)
        return count > 0 ? String(decoding: bytes.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self) : ""
    }

    private static func namespaces(_ who: String, _ pid: Int32, _ checks: inout [Check]) {
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let own = link("/proc/self/ns/\(kind)")
            let actual = link("/proc/\(pid)/ns/\(kind)")
            checks.append(
                Check(name: "\(who): \(kind) namespace", expected: "its own", actual: actual, isHeld: !actual.isEmpty && actual != own))
        }
    }

    private static func descriptors(_ pid: Int32, _ checks: inout [Check]) {
        // What a program opens inside its own root is its own business; the four that it was born with are ours.
        let kinds = [(0, "/dev/null"), (1, "pipe:"), (2, "pipe:"), (3, "socket:")]
        for (number, wanted) in kinds {
            let actual = link("/proc/\(pid)/fd/\(number)")
            checks.append(Check(name: "main: fd \(number)", expected: wanted, actual: actual, isHeld: actual.hasPrefix(wanted)))
        }
    }

    private static func mounts(_ pid: Int32, _ buckets: Buckets?, _ layers: Layers?, _ checks: inout [Check]) {
        // Whatever is not one of these must be read-only; devices are single nodes. Buckets and layers are compared one by one.
        let writable: Set<String> = ["/tmp", "/dev/shm", "/proc"]
        var surplus: [String] = []
        var loose: [String] = []
        var seen: [String] = []
        var seenLayers: [String] = []
        let lines = (SmallFile.read("/proc/\(pid)/mountinfo") ?? "").split(separator: "\n")
        for line in lines {
            let fields = line.split(separator: " ")
            guard fields.count > 6 else { continue }
            let target = String(fields[4])
            let options = fields[5].split(separator: ",")
            if !options.contains("nosuid") { loose.append(target) }
            if target.hasPrefix("/dev/"), target != "/dev/shm" { continue }
            if !options.contains("nodev") { loose.append(target) }
            if target.hasPrefix("/layers/") { seenLayers.append(target) }
            if target.hasPrefix("/buckets/") {
                let guards = ["noexec", "nosymfollow", "idmapped"].filter { !options.contains(Substring($0)) }
                seen.append("\(target) \(options.first ?? "")" + guards.map { " without \($0)" }.joined())
            } else if !writable.contains(target), !options.contains("ro") {
                surplus.append(target)
            }
        }
        let granted = Buckets.mounts(buckets?.grants ?? []).map { "\($0.target) \($0.isWritable ? "rw" : "ro")" }
        func list(_ mounts: [String]) -> String { mounts.isEmpty ? "none" : mounts.sorted().joined(separator: ", ") }
        checks.append(
            Check(name: "main: buckets", expected: list(granted), actual: list(seen), isHeld: seen.sorted() == granted.sorted()))
        // A mount of the operator's inside a layer goes along with it.
        let wanted = (layers?.names ?? []).map(Layers.target)
        let surplusLayers = seenLayers.filter { path in !wanted.contains { path == $0 || path.hasPrefix($0 + "/") } }
        checks.append(
            Check(
                name: "main: layers", expected: list(wanted), actual: list(seenLayers),
                isHeld: surplusLayers.isEmpty && wanted.allSatisfy(seenLayers.contains)))
        checks.append(
            Check(
                name: "main: writable mounts", expected: "/tmp /dev/shm",
                actual: surplus.isEmpty ? "/tmp /dev/shm" : surplus.joined(separator: " "),
                isHeld: surplus.isEmpty && !lines.isEmpty))
        checks.append(
            Check(
                name: "main: mounts without nosuid or nodev", expected: "none",
                actual: loose.isEmpty ? "none" : loose.joined(separator: " "),
                isHeld: loose.isEmpty))
        for hidden in ["/sys", "/root", "/home", "/var", "/run"] {
            let isThere = unsafe access("/proc/\(pid)/root\(hidden)", F_OK) == 0
            checks.append(Check(name: "main: \(hidden)", expected: "absent", actual: isThere ? "present" : "absent", isHeld: !isThere))
        }
    }

    private static func limits(_ pid: Int32, _ expectation: Expectation, _ checks: inout [Check]) {
        let text = SmallFile.read("/proc/\(pid)/limits") ?? ""
        func hard(_ name: String) -> String {
            for line in text.split(separator: "\n") where line.hasPrefix(name) {
                let words = line.dropFirst(name.count).split(separator: " ")
                return words.count >= 2 ? String(words[1]) : ""
            }
            return "missing"
        }
        for (name, most) in [
            ("Max core file size", UInt64(1)), ("Max realtime priority", 0), ("Max msgqueue size", 0), ("Max locked memory", 64 << 10),
            ("Max pending signals", 256), ("Max open files", UInt64(1 << 20)),
        ] {
            let actual = hard(name)
            checks.append(
                Check(name: "main: \(name)", expected: "<= \(most)", actual: actual, isHeld: UInt64(actual).map { $0 <= most } ?? false))
        }
    }
}
