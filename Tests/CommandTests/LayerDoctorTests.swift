// SPDX-License-Identifier: Apache-2.0

import Core
import Foundation
import Glibc
import Testing

@testable import CommandKit

@Suite struct LayerDoctorTests {
    let folder: TemporaryFolder
    private var configuration: String { folder.path + "/etc" }

    init() throws {
        folder = try TemporaryFolder()
        try folder.write("", to: "etc/bulkhead.yaml")
    }

    private func layer(_ name: String, owner: UInt32 = 0, mode: UInt32 = 0o755) throws {
        try folder.write("", to: "etc/layers/\(name)/hooks.py")
        let path = configuration + "/layers/" + name
        try #require(unsafe chown(path, owner, 0) == 0 && chmod(path, mode) == 0, "run it as root")
    }
    private func tenant(_ name: String, _ rules: String) throws {
        try folder.write("tenant: \(name)\n\(rules)\n", to: "etc/tenants.d/\(name).yaml")
    }

    /// By their names; of two of the same name the last.
    private func checks(state: String? = nil) -> [String: HealthCheck] {
        let paths = NodePaths(executableFolder: "/nowhere", environment: [:])
        let doctor = HostDoctor(paths: paths, state: state, port: nil, configuration: state == nil ? configuration : nil)
        return Dictionary(doctor.layers().map { ($0.name, $0) }) { $1 }
    }

    @Test("every layer is named with those who have it")
    func present() throws {
        #expect(checks().mapValues(\.found) == ["layers": "none in \(configuration)/layers"])
        for name in ["scrub", "tracing", "spare"] { try layer(name) }
        try layer("tracing.new", owner: 1000, mode: 0o777)
        try tenant("acme", "layers: {force: [scrub], allow: ['tracing'] } # not [absent]")
        try tenant("globex", "layers:\n  force:\n    - scrub # not absent\n    - \"tracing\"\nweight: 1")
        let found = checks()
        #expect(found.values.allSatisfy { $0.state == .ok && $0.remedy.isEmpty })
        #expect(
            found.mapValues(\.found) == [
                "layer scrub": "\(configuration)/layers/scrub, for every function of acme, globex",
                "layer tracing": "\(configuration)/layers/tracing, for every function of globex, functions of acme that name it",
                "layer spare": "\(configuration)/layers/spare, for nobody: no tenant's file names it",
            ])
    }

    @Test("a layer that a tenant's file names and that there is not, or as a link alone")
    func absent() throws {
        try layer("scrub")
        try FileManager.default.createSymbolicLink(atPath: configuration + "/layers/linked", withDestinationPath: "scrub")
        try tenant("acme", "layers: {force: [scrub, absent], allow: [linked]}")
        let found = checks()
        #expect(found["layer scrub"]?.state == .ok)
        for name in ["absent", "linked"] {
            let check = try #require(found["layer \(name)"])
            #expect(check.state == .required && check.found.contains("no folder \(configuration)/layers/\(name)"))
            #expect(check.neededFor.contains("acme") && check.remedy.contains("install -d -m 755 \(configuration)/layers/\(name)"))
        }
    }

    @Test("what the spawner refuses is named with the way out")
    func refused() throws {
        try layer("foreign", owner: 12345)
        try layer("loose", owner: 12345, mode: 0o775)
        try layer("closed", mode: 0o700)
        try tenant("acme", "layers: {allow: [loose]}")
        let path = configuration + "/layers"
        let found = checks()
        #expect(found.values.allSatisfy { $0.state == .missing } && found.count == 3)
        #expect(found["layer foreign"]?.found == "\(path)/foreign belongs to user 12345")
        #expect(found["layer loose"]?.found == "\(path)/loose belongs to user 12345 and may be written by others than root (mode 775)")
        #expect(found["layer loose"]?.remedy.hasPrefix("chown root \(path)/loose && chmod go-w \(path)/loose") == true)
        #expect(found["layer loose"]?.neededFor == "functions of acme that name it")
        #expect(found["layer closed"]?.remedy == "chmod -R o+rX \(path)/closed")
    }

    @Test("no layer is well in a folder that the spawner refuses")
    func wholeFolder() throws {
        try layer("scrub")
        let path = configuration + "/layers"
        unsafe chmod(path, 0o1777)
        #expect(checks().keys.sorted() == ["layers"])
        #expect(checks()["layers"]?.found == "\(path) may be written by others than root (mode 1777)")
        unsafe chmod(path, 0o700)
        #expect(checks()["layer scrub"]?.state == .ok)
        try FileManager.default.moveItem(atPath: path, toPath: path + ".real")
        try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: path + ".real")
        #expect(checks()["layers"]?.state == .missing && checks()["layers"]?.found == "\(path) is no folder (a link is none)")
    }

    @Test("a tenant's file that is not understood is named")
    func unclear() throws {
        try tenant("acme", "layers: {force: [scrub}")
        #expect(checks()["layers"]?.state == .missing && checks()["layers"]?.found.contains("tenants.d/acme.yaml") == true)
    }

    @Test("the configuration is that of the node on a state directory, whether it runs or not")
    func places() throws {
        let state = folder.path + "/state"
        #expect(checks(state: state).isEmpty)
        let none = LayerDoctor(configuration: folder.path + "/none").checks()
        #expect(none.count == 1 && none[0].state == .missing && none[0].remedy.contains("--config"))
        try folder.write("", to: "state/data/version")
        #expect(checks(state: state).isEmpty)
        try folder.write("tenant: default\nlayers: {force: [mine]}\n", to: "state/config/tenants.d/default.yaml")
        #expect(checks(state: state)["layer mine"]?.state == .required)
        try layer("scrub")
        try folder.write(configuration + "\n", to: "state/config.source")
        #expect(checks(state: state)["layer scrub"]?.state == .ok)
    }
}
