// SPDX-License-Identifier: Apache-2.0
public import Core
import Foundation
import Wire

/// Which of the operator's layers the functions of a tenant have: those that each of them gets, and those that a manifest may name.
public struct LayerRules: Hashable, Sendable {
    /// The most layers of one function, and in each of the two lists: as many as a worker may have.
    public static let maximum = LayerNames.maximum

    public var allow: [Name] = []
    /// Every function has them, before its own.
    public var force: [Name] = []

    public init(allow: [Name] = [], force: [Name] = []) { (self.allow, self.force) = (allow, force) }

    var isEmpty: Bool { allow.isEmpty && force.isEmpty }

    /// What a function that names these has, in the order of their hooks, and which of them its tenant may not use.
    public func applied(to wanted: [Name]) -> (granted: [Name], missing: [Name]) {
        let own = wanted.filter { !force.contains($0) }
        return (force + own.filter(allow.contains), own.filter { !allow.contains($0) })
    }
}

extension Mapping {
    /// `layers: {allow: [tracing], force: [scrub]}` of a tenant.
    func layerRules() -> LayerRules {
        guard let section = mapping("layers") else { return LayerRules() }
        let rules = LayerRules(allow: section.layerNames("allow"), force: section.layerNames("force"))
        if rules.force.count + Set(rules.allow).subtracting(rules.force).count > LayerRules.maximum {
            document.fail(value("layers"), "`layers` names more than \(LayerRules.maximum) layers: one function could have them all")
        }
        section.finish()
        return rules
    }

    /// In the order in which they are written: it is that of their hooks.
    func layerNames(_ key: String) -> [Name] {
        let names = list(key, limit: LayerRules.maximum, of: "layers' names") { Name($0) } ?? []
        if Set(names).count < names.count { document.fail(value(key), "`\(key)` names a layer twice") }
        return names
    }
}

extension NodeConfiguration {
    /// The most layers of a node.
    public static let layerLimit = 64

    /// The folders in `layers/`. The spawner looks at what they are each time that one is mounted; here it is known which names mean something.
    mutating func readLayers(_ directory: String, _ errors: inout [ConfigurationError]) {
        let folder = directory + "/layers"
        // Where there is none, what tenants name is missing all the same.
        let isThere = FileManager.default.fileExists(atPath: folder)
        guard let names = isThere ? try? FileManager.default.contentsOfDirectory(atPath: folder) : [] else {
            return errors.append(ConfigurationError(file: folder, sentence: "the folder cannot be read: check its permissions"))
        }
        func isFolder(_ name: String) -> Bool {
            let attributes = try? FileManager.default.attributesOfItem(atPath: folder + "/" + name)
            return attributes?[.type] as? FileAttributeType == .typeDirectory
        }
        // A name that is none is somebody's copy on its way (`tracing.new`), and nobody can ask for it.
        layers = names.compactMap { name in isFolder(name) ? Name(name) : nil }.sorted()
        if layers.count > Self.layerLimit {
            errors.append(
                ConfigurationError(file: folder, sentence: "there are \(layers.count) layers; a node has at most \(Self.layerLimit)"))
        }
        let known = Set(layers)
        for tenant in tenants where !tenant.layers.isEmpty {
            for name in (tenant.layers.force + tenant.layers.allow) where !known.contains(name) {
                errors.append(
                    ConfigurationError(
                        file: "tenants.d/\(tenant.tenant).yaml",
                        sentence: "`layers` names `\(name)`, and there is no folder layers/\(name) (a link is none)"))
            }
        }
    }
}
