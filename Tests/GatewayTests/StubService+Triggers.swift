// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Gateway
import Supervision
import Synchronization

/// A signature is right where it says so, and a token brings a lineage where it is its tenant's name.
extension StubService {
    func route(_ tenant: Name, _ method: String, _ path: String) -> RouteTable.Match {
        routes.withLock { $0[tenant]?.match(method, path) } ?? .none
    }
    func queue(_ function: FunctionID, _ trigger: Name) -> TriggerAuthorization? { queues.withLock { $0["\(function)/\(trigger)"] } }
    func signatureProblem(_ tenant: Name, secret: String, header: (String) -> String?, body: [UInt8]) -> Problem? {
        guard header("bulkhead-signature") == "\(secret) \(body.count)" else {
            return Problem(code: "unauthorized", title: "Unauthorized", status: 401, detail: "wrong")
        }
        return nil
    }
    func lineage(_ token: String, of tenant: Name) -> Lineage? {
        guard token == tenant.text else { return nil }
        return Lineage(root: InvocationID(milliseconds: 1, random: (2, 3)), born: Instant(nanoseconds: 0)).returned
    }
}
