// SPDX-License-Identifier: Apache-2.0

import Foundation
import Wire

extension TemporaryFolder {
    /// The tenants' files that a copy of the configuration holds, by their names, and their stamps.
    func copiedTenants(_ copy: String) throws -> [String: (text: String, stamp: TenantBundle.Stamp?)] {
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path + "/" + copy + "/tenants.d")))
        let head = try TenantBundle.head(bytes.prefix(TenantBundle.headLength))
        var place = TenantBundle.headLength + head.indexLength
        var found: [String: (String, TenantBundle.Stamp?)] = [:]
        for entry in try TenantBundle.entries(bytes[TenantBundle.headLength..<place], head, contents: bytes.count - place) {
            found[entry.name] = (String(decoding: bytes[place..<place + entry.length], as: UTF8.self), entry.stamp)
            place += entry.length
        }
        return found
    }

    /// What the copy says of one tenant; nil where it has no such file.
    func copiedTenant(_ name: String, _ copy: String = "data/config") throws -> String? { try copiedTenants(copy)[name + ".yaml"]?.text }
}
