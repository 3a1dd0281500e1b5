// SPDX-License-Identifier: Apache-2.0
import ControlAPI
import Core
import Testing

@testable import Gateway
@testable import Supervision
@testable import bulkheadd

/// Where sentences of the node are made with texts of functions and of other programs.
@Suite struct JointTests {
    @Test(
        "no text of others doubles the punctuation of the sentence around it",
        arguments: ["", "boom", "boom.", "boom: ", "boom;", "cut..."])
    func joints(text: String) throws {
        let function = FunctionID(tenant: try #require(Name("acme")), function: try #require(Name("f")))
        func report(_ verdict: Verdict, _ fault: FunctionFault? = nil) -> InvocationReport {
            InvocationReport(
                id: InvocationID(milliseconds: 1, random: (2, 3)), version: VersionID(function: function, number: 1), verdict: verdict,
                fault: fault, duration: 0, billed: 0, logTail: [])
        }
        let reports = [
            report(.completed(.functionError), FunctionFault(type: "ValueError", message: text, stack: "")),
            report(.initFailed(type: "ImportError", message: text)),
        ]
        var sentences = [Daemon.noRestart(text).detail]
        for report in reports {
            sentences += [try #require(OutcomeMapping.problem(report)).detail, EventEngine.sentence(report)]
            sentences.append(Wording.decision(.replied(report.verdict)).detail)
        }
        for sentence in sentences {
            #expect(!sentence.replacing("...", with: "").contains(/[.:;,]\s*[.:;,]/), "\(sentence)")
            #expect(!text.isEmpty || sentence.last != " ", "\(sentence)")
        }
    }
}
