// SPDX-License-Identifier: Apache-2.0

/// One line of `bulkhead doctor`.
public struct HealthCheck: Hashable, Sendable, Codable {
    public enum State: String, Hashable, Sendable, Codable {
        case ok
        /// Something is left out or weaker than it could be, and the seal still holds.
        case missing
        /// Without it no worker may start.
        case required
    }
    public var name: String
    public var state: State
    /// What was found.
    public var found: String
    /// Why it is needed.
    public var neededFor: String
    /// The package or kernel setting that mends it; empty where all is well.
    public var remedy: String

    public init(_ name: String, _ state: State, found: String, neededFor: String, remedy: String) {
        self.name = name
        self.state = state
        self.found = found
        self.neededFor = neededFor
        self.remedy = state == .ok ? "" : remedy
    }

    /// A check that is well or, where not, ``State/missing`` or ``State/required``.
    public init(_ name: String, isWell: Bool, else state: State, found: String, neededFor: String, remedy: String) {
        self.init(name, isWell ? .ok : state, found: found, neededFor: neededFor, remedy: remedy)
    }
}

extension HealthCheck {
    /// The runtimes' parts.
    public static func runtimes(_ inventory: HostInventory) -> [HealthCheck] {
        func found(_ interpreter: HostInventory.Interpreter?) -> String { interpreter?.executable ?? "not found" }
        return [
            HealthCheck(
                "python3", isWell: inventory.python != nil, else: .missing, found: found(inventory.python),
                neededFor: "the runtime python3 (3.9 or newer)", remedy: "apt-get install python3-minimal"),
            HealthCheck(
                "node", isWell: inventory.node != nil, else: .missing, found: found(inventory.node),
                neededFor: "the runtime nodejs (16 or newer)", remedy: "apt-get install nodejs"),
            HealthCheck(
                "bsdtar", isWell: inventory.bsdtar != nil, else: .required, found: inventory.bsdtar ?? "not found in /usr",
                neededFor: "deploy: code is unpacked by it inside a sandbox", remedy: "apt-get install libarchive-tools"),
        ]
    }

    /// What the spawner's probe printed: one ability a line, `name<TAB>yes|no<TAB>needed|used<TAB>detail`. Other lines are skipped.
    public static func abilities(probe: String) -> [HealthCheck] {
        probe.split(separator: "\n").compactMap { line in
            let parts = line.split(separator: "\t", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 4, ["yes", "no"].contains(parts[1]), ["needed", "used"].contains(parts[2]) else { return nil }
            let isNeeded = parts[2] == "needed"
            return HealthCheck(
                parts[0], isWell: parts[1] == "yes", else: isNeeded ? .required : .missing,
                found: parts[1] == "yes" ? parts[3] : "not there",
                neededFor: (isNeeded ? "every worker: " : "one more layer: ") + parts[3], remedy: remedy(forAbility: parts[0]))
        }
    }

    /// The kernel setting or package that gives an ability which the spawner's probe misses.
    public static func remedy(forAbility name: String) -> String {
        let text = name.lowercased()
        let table = [
            ("user namespace", "sysctl user.max_user_namespaces=15000; on Debian also kernel.unprivileged_userns_clone=1"),
            ("landlock", "Linux 5.13 or newer, booted with landlock in lsm="),
            ("seccomp", "a kernel with CONFIG_SECCOMP_FILTER, 5.0 or newer"),
            ("idmapped", "put the state directory on ext4, xfs or btrfs"), ("mount", "Linux 5.12 or newer"),
            ("pidfd", "Linux 5.4 or newer"), ("clone3", "Linux 5.7 or newer"),
            ("cgroup", "boot with systemd.unified_cgroup_hierarchy=1; where only memory is lacking, with cgroup_enable=memory"),
            ("overlay", "modprobe overlay"), ("root", "run it as root"),
            ("capabilit", "run it as root"), ("namespace", "a kernel with CONFIG_NAMESPACES"),
        ]
        return table.first { text.contains($0.0) }?.1 ?? "a newer kernel (Linux 5.15 or newer)"
    }
}
