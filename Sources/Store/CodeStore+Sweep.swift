// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Glibc

extension CodeStore {
    /// Throws where there is code and not the database that says whose it is: a node that began anew would remove all of it.
    ///
    /// A node makes the database, and syncs it, before it takes any code. A file without a byte is as good as none.
    public static func refuseLostDatabase(_ database: String, code: String) throws(StoreError) {
        var info = stat()
        guard unsafe stat(database, &info) != 0 || info.st_size == 0 else { return }
        guard let trees = try? FileManager.default.contentsOfDirectory(atPath: code), !trees.isEmpty else { return }
        throw StoreError(
            "\(database) is missing or empty, but \(code) holds the code of \(trees.count) versions: a node that begins anew would remove it. "
                + "Put the file back, or move the state directory away and run `bulkhead restore`; to begin anew, move \(code) away")
    }

    /// Removes the trees that no hash in `kept` names; returns how many. One that cannot be removed stays for the next time.
    @discardableResult public func sweep(keeping kept: Set<String>) throws(StoreError) -> Int {
        let names: [String]
        do { names = try FileManager.default.contentsOfDirectory(atPath: directory) } catch {
            throw StoreError("\(directory) cannot be read: \(Phrase.open(error.localizedDescription))")
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
