// SPDX-License-Identifier: Apache-2.0
import Core

/// The operator's layers that a worker is to see: names, never paths. The spawner knows the one folder that they are in.
public enum LayerNames {
    /// The most that one worker may have.
    public static let maximum = 8
}

extension ByteWriter {
    mutating func layers(_ names: [Name]) {
        integer(UInt8(clamping: names.count))
        for name in names { string(name.text) }
    }
}

extension ByteReader {
    mutating func layers() throws(WireError) -> [Name] {
        let count = Int(try integer(UInt8.self))
        guard count <= LayerNames.maximum else { throw WireError("\(count) layers, at most \(LayerNames.maximum)") }
        var names: [Name] = []
        for _ in 0..<count {
            guard let name = Name(try string(maximum: Name.maximumLength)) else { throw WireError("a layer's name that is none") }
            guard !names.contains(name) else { throw WireError("layer \(name) is given twice") }
            names.append(name)
        }
        return names
    }
}
