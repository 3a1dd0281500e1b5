// SPDX-License-Identifier: Apache-2.0
import Core

enum FunctionIDs {
    static var sample: FunctionID? {
        guard let tenant = Name("acme"), let function = Name("hello") else { return nil }
        return FunctionID(tenant: tenant, function: function)
    }
}
