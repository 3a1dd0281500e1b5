// SPDX-License-Identifier: Apache-2.0
import Core
import Logging

extension SupervisorState {
    /// The machine has so many bytes less available than it should; 0 where it has enough. Once a second while it is short, and once when it no longer is.
    public func memoryIsShort(by bytes: UInt64) {
        guard bytes > 0 || node.isMemoryShort else { return }
        let (was, before) = (node.isMemoryShort, node.pressureEvictions)
        handle(.memoryShort(bytes: bytes))
        if !was {
            logger.warning("the machine is short of memory: idle workers end", metadata: ["missingMiB": "\(bytes >> 20)"])
        } else if bytes == 0 {
            logger.notice("the machine has enough memory again")
        }
        if node.pressureEvictions > before {
            logger.info("idle workers end for the machine's memory", metadata: ["workers": "\(node.pressureEvictions - before)"])
        }
    }
}
