// SPDX-License-Identifier: Apache-2.0
import Core

/// Alarms of events that end badly: the first of a function is told, those that follow are counted, and that it is over is told, too.
extension EventEngine {
    func tellBadEnd(_ kind: EventAlarms.Kind, _ function: FunctionID, _ text: String) {
        guard endAlarms.happened(kind, function, at: now()) else { return }
        alarmed(Self.alarm(kind, function, text, isRecovery: false))
    }

    /// Once a second.
    func passEndAlarms() {
        for one in endAlarms.pass(at: now()) {
            let minutes = EventAlarms.quiet / .seconds(60)
            let text =
                switch one.kind {
                case .deadLetter: "no event of \(one.function) became a dead letter for \(minutes) minutes; \(one.count) did before"
                case .givenUp: "no outcome of \(one.function) was given up for \(minutes) minutes; \(one.count) were before"
                }
            alarmed(Self.alarm(one.kind, one.function, text, isRecovery: true))
        }
    }

    private static func alarm(_ kind: EventAlarms.Kind, _ function: FunctionID, _ text: String, isRecovery: Bool) -> Alarm {
        switch kind {
        case .deadLetter:
            Alarm(kind: .deadLetter, tenant: function.tenant, subject: "\(function)", text: text, isRecovery: isRecovery)
        case .givenUp:
            Alarm(kind: .webhookGivenUp, tenant: function.tenant, subject: "destination of \(function)", text: text, isRecovery: isRecovery)
        }
    }
}
