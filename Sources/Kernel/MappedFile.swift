// SPDX-License-Identifier: Apache-2.0
import CKernel
import Glibc
import SystemPackage

/// A file of 64-bit words in shared memory (mmap(2), `MAP_SHARED`). What is stored is in the kernel's page cache at once: it outlives the process,
/// however that ends. A failure of power is another matter: the kernel writes pages back when it likes.
///
/// The disk space is taken when the file is made (posix_fallocate(3)), so that no store can fail for want of it (which would be SIGBUS).
// Unchecked, for the owner keeps the rule: words are stored by one thread at a time, and copied by others only after it told them how many are whole.
@safe public final class MappedFile: @unchecked Sendable {
    private let words: UnsafeMutablePointer<UInt64>
    /// Words in the file.
    public let count: Int

    /// Makes `path`, which must not exist, of `count` zero words. Nothing is left behind on failure.
    public init(create path: String, count: Int) throws(KernelError) {
        let bytes = count * MemoryLayout<UInt64>.stride
        let file = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw KernelError("create \(path)") }
        defer { close(file) }
        var failure = posix_fallocate(file, 0, off_t(bytes))
        let address = failure == 0 ? unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : nil
        if failure == 0, unsafe address == ck_map_failed() { failure = errno }
        guard failure == 0, let address = unsafe address else {
            unsafe unlink(path)
            throw KernelError("make \(path) of \(bytes) bytes", .init(rawValue: failure))
        }
        unsafe words = address.bindMemory(to: UInt64.self, capacity: count)
        self.count = count
    }

    deinit { unsafe munmap(words, count * MemoryLayout<UInt64>.stride) }

    /// Stores words in any order.
    public func store(_ source: Span<UInt64>, at index: Int) {
        precondition(index >= 0 && source.count <= count - index, "outside of the file")
        unsafe source.withUnsafeBufferPointer { source in
            guard let base = source.baseAddress else { return }
            unsafe (words + index).update(from: base, count: source.count)
        }
    }

    /// Stores one word after everything that was stored before (release): whoever finds it finds the rest.
    public func publish(_ word: UInt64, at index: Int) {
        precondition(index >= 0 && index < count, "outside of the file")
        unsafe ck_store_release(words + index, word)
    }

    /// Makes the pages of some words ready to be stored into, so that whoever stores does not wait for the file system. May be called by any thread, and may do
    /// nothing: a kernel before 5.14 cannot.
    public func prepare(_ range: Range<Int>) {
        let size = MemoryLayout<UInt64>.stride, page = 4096
        let first = max(0, range.lowerBound) * size / page * page
        let end = min(count, range.upperBound) * size
        guard first < end else { return }
        _ = unsafe madvise(UnsafeMutableRawPointer(words) + first, end - first, CInt(MADV_POPULATE_WRITE))
    }

    /// A copy of some words.
    public func copy(_ range: Range<Int>) -> [UInt64] {
        precondition(range.lowerBound >= 0 && range.upperBound <= count, "outside of the file")
        return unsafe Array(UnsafeBufferPointer(start: words + range.lowerBound, count: range.count))
    }
}

extension MappedFile {
    /// The words of any file, by reading and not by mapping: a file that is cut or whose disk fails is an error here and no signal.
    /// What does not fill a word at the end is dropped, and so is what lies beyond `limit` words.
    public static func words(of path: String, limit: Int) throws(KernelError) -> [UInt64] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw KernelError("open \(path)") }
        defer { close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { throw KernelError("look at \(path)") }
        var words = [UInt64](repeating: 0, count: min(limit, Int(status.st_size) / MemoryLayout<UInt64>.stride))
        let bytes = words.count * MemoryLayout<UInt64>.stride
        var done = 0
        while done < bytes {
            let count = unsafe words.withUnsafeMutableBytes {
                unsafe pread(file, $0.baseAddress.map { unsafe $0 + done }, bytes - done, off_t(done))
            }
            guard count > 0 else { throw KernelError("read \(path)") }
            done += count
        }
        return words
    }
}
