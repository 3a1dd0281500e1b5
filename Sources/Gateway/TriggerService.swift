// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core

/// What the gateway asks of the daemon about requests from outside that a trigger takes. All of it on the supervisor's loop: nothing here may wait.
public protocol TriggerService: Sendable {
    /// What answers a path of a tenant; ``RouteTable/Match/none`` also for a tenant that is not there.
    func route(_ tenant: Name, _ method: String, _ path: String) -> RouteTable.Match
    /// Who may push to a queue; nil where there is none.
    func queue(_ function: FunctionID, _ trigger: Name) -> TriggerAuthorization?
    /// Why a message is not from somebody who has the tenant's secret of this name; nil where it is.
    func signatureProblem(_ tenant: Name, secret: String, header: (String) -> String?, body: [UInt8]) -> Problem?
    /// The lineage in a token that this node has signed for the tenant; nil for every other token.
    func lineage(_ token: String, of tenant: Name) -> Lineage?
}
