// SPDX-License-Identifier: Apache-2.0
import Core
import Kernel
import Logging
import Supervision
import Synchronization

/// The machine's memory, watched once a second.
extension Daemon {
    /// Reads the kernel's figures off the loop; the loop hears of them only while they are bad.
    func tickMemory() async {
        let text = SmallFile.read("/proc/meminfo")
        guard let memory = MachineMemory(meminfo: text ?? "", pressure: SmallFile.read("/proc/pressure/memory")) else {
            let isFirst = memoryIsUnknown.withLock { isSaid in
                defer { isSaid = true }
                return !isSaid
            }
            if isFirst { logger.warning("/proc/meminfo cannot be read: idle workers stay when the machine is short of memory") }
            return
        }
        guard let missing = memoryRule.withLock({ $0.judge(memory) }) else { return }
        _ = try? await supervisor.onLoop { $0.memoryIsShort(by: missing) }
    }
}
