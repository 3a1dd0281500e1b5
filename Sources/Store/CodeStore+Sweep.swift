// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc

extension CodeStore {
    /// Removes the trees that no hash in `kept` names; returns how many. One that cannot be removed stays for the next time.
    @discardableResult public func sweep(keeping kept: Set<String>) throws(StoreError) -> Int {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: directory) } catch {
            throw StoreError("\(directory) cannot be read: \(error.localizedDescription)")
        }
        return names.reduce(0) { $0 + (!kept.contains($1) && remove($1) ? 1 : 0) }
    }

    /// Removes one tree. It moves away first: a tree is there whole or not at all, and what an interruption leaves is removed at the next start.
    public func remove(_ hash: String) -> Bool {
        let path = newPath("")
        guard unsafe rename(directory + "/" + hash, path) == 0 else { return false }
        discard(path)
        return true
    }
}
