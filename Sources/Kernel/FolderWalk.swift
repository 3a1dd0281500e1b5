// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc

/// A walk through a tree that may change meanwhile, in slices: between two of them it holds no descriptor, and its memory is its depth.
///
/// What stays in place for the whole walk is met once; what comes, goes or moves meanwhile is met or not. The order is the directories'.
public struct FolderWalk: Sendable {
    /// One open place for each level: how long the path is there, and where in the directory it is.
    struct Frame: Hashable, Sendable {
        var length: Int
        var position: Int64
    }
    public enum Step: Sendable { case skip, descend }

    private(set) var frames: [Frame]
    private(set) var path: [UInt8]
    /// Directories that could not be opened or lie too deep: what is in them is not known.
    public private(set) var unreached = 0

    /// - Parameter path: where to begin, relative to the top that every slice is given; empty for the top itself.
    public init(from path: [UInt8] = []) {
        self.path = path
        frames = [Frame(length: path.count, position: 0)]
    }

    public var isDone: Bool { frames.isEmpty }

    /// Goes on for about `limit` names. `file` is told of everything but directories and says whether to go on; `folder` of each directory before anything in it is read.
    public mutating func step(
        in top: borrowing OwnedFD, limit: Int, folder: (_ path: [UInt8], FileFacts) -> Step,
        file: (_ path: [UInt8], FileFacts) -> Bool
    ) {
        var entries = [ck_entry](repeating: ck_entry(), count: 256)
        var met = 0
        while met < limit, let frame = frames.last {
            path.removeSubrange(frame.length...)
            let here: OwnedFD
            do throws(KernelError) { here = try HostileFiles.folder(path, in: top) } catch {
                // Gone is no loss; locked is.
                if error.number != ENOENT && error.number != ENOTDIR { unreached += 1 }
                frames.removeLast()
                continue
            }
            var position = frame.position, end: Int32 = 0
            var hasPaused = false
            while !hasPaused, met < limit {
                let count = unsafe ck_entries(here.rawValue, &position, &entries, Int32(min(entries.count, limit - met)), &end)
                if count < 0 {
                    unreached += 1
                    end = 1
                }
                for index in 0..<max(0, Int(count)) {
                    met += 1
                    frames[frames.count - 1].position = entries[index].next
                    let name = Self.name(&entries[index])
                    guard let facts = HostileFiles.look(name, in: here) else { continue }
                    let child = path.isEmpty ? name : path + [0x2F] + name
                    if !facts.isFolder {
                        guard file(child, facts) else { return }
                    } else if folder(child, facts) == .descend {
                        guard child.count <= HostileFiles.pathLimit else {
                            unreached += 1
                            continue
                        }
                        path = child
                        frames.append(Frame(length: child.count, position: 0))
                        hasPaused = true
                        break
                    }
                }
                if !hasPaused, end == 1 {
                    frames.removeLast()
                    hasPaused = true
                }
            }
        }
    }

    private static func name(_ entry: inout ck_entry) -> [UInt8] {
        unsafe withUnsafeBytes(of: &entry.name) { bytes in
            let length = unsafe bytes.firstIndex(of: 0) ?? bytes.count
            return unsafe Array(bytes.prefix(length))
        }
    }
}

extension FolderWalk {
    /// Where the walk is, as bytes that ``init(resuming:)`` takes.
    public var bookmark: [UInt8] {
        var bytes = [UInt8(min(255, frames.count))]
        for frame in frames.prefix(255) {
            bytes += [UInt8(truncatingIfNeeded: frame.length >> 8), UInt8(truncatingIfNeeded: frame.length)]
            for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: frame.position >> shift)) }
        }
        return bytes + path.prefix(frames.last?.length ?? 0)
    }

    /// Nil where the bytes are no bookmark. One that somebody made up leads to places below the same top, no further.
    public init?(resuming bytes: [UInt8]) {
        guard let count = bytes.first.map(Int.init), count > 0, bytes.count >= 1 + count * 10 else { return nil }
        var frames: [Frame] = []
        for index in 0..<count {
            let part = bytes[(1 + index * 10)..<(11 + index * 10)]
            let length = part.prefix(2).reduce(0) { $0 << 8 | Int($1) }
            let position = part.dropFirst(2).reduce(Int64(0)) { $0 << 8 | Int64($1) }
            guard length >= frames.last.map({ $0.length + 1 }) ?? 0, position >= 0 else { return nil }
            frames.append(Frame(length: length, position: position))
        }
        let path = Array(bytes[(1 + count * 10)...])
        guard path.count == frames.last?.length, path.count <= HostileFiles.pathLimit, !path.contains(0) else { return nil }
        for frame in frames where frame.length > 0 && frame.length < path.count {
            guard path[frame.length] == 0x2F else { return nil }
        }
        self.frames = frames
        self.path = path
    }
}
