// SPDX-License-Identifier: Apache-2.0
import CSandbox
public import Core
import Glibc

/// The operator's layers that one worker is to see, each at `/layers/NAME`.
public struct Layers: Hashable, Sendable {
    /// The folder that all layers are in.
    public var root: String
    public var names: [Name]

    /// Nil where there are none.
    public init?(root: String, names: [Name]) {
        guard !names.isEmpty else { return nil }
        self.root = root
        self.names = names
    }

    static func target(_ name: Name) -> String { "/layers/\(name)" }
}

/// A worker's layers as mounts that nobody sees yet, and the folder with their mount points; closed with the value.
@safe final class LayerMounts {
    let list: UnsafeMutablePointer<sbx_bucket>
    private(set) var count = 0
    /// -1 where there are no layers.
    private(set) var folder: Int32 = -1

    init(_ layers: Layers?, failStage: UInt32) throws(SandboxFailure) {
        let names = layers?.names ?? []
        unsafe list = .allocate(capacity: max(1, names.count))
        guard let layers else { return }
        for name in names {
            var tree: Int32 = -1
            let error = failStage == SBX_LAYER_OPEN.rawValue ? EREMOTEIO : unsafe sbx_open_layer(layers.root, name.text, &tree)
            guard error == 0 else { throw SandboxFailure(stage: SBX_LAYER_OPEN.rawValue, errno: error, subject: name.text) }
            unsafe list[count] = unsafe sbx_bucket(source: nil, target: strdup(Layers.target(name)), is_writable: 0, tree_fd: tree)
            count += 1
        }
        let error = failStage == SBX_LAYER_FOLDER.rawValue ? EREMOTEIO : unsafe sbx_bucket_folder(list, count, &folder)
        guard error == 0 else { throw SandboxFailure(stage: SBX_LAYER_FOLDER.rawValue, errno: error) }
    }

    deinit {
        if folder >= 0 { close(folder) }
        for index in 0..<count {
            let layer = unsafe list[index]
            unsafe close(layer.tree_fd)
            unsafe free(UnsafeMutablePointer(mutating: layer.target))
        }
        unsafe list.deallocate()
    }
}
