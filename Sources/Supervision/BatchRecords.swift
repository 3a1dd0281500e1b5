// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import Store

/// What a function is called with for a batch of events, and what its answer says of them, in the words of AWS Lambda.
enum BatchRecords {
    static let faultType = "BatchItemFailure"

    /// `{"Records": [{"messageId", "body", "contentType", "attempt"}]}`; a body that is no text is base64, and `isBase64Encoded` says so.
    static func encoded(_ leases: [EventLease], _ payloads: [[UInt8]]) -> [UInt8] {
        let records = zip(leases, payloads).map { lease, payload -> JSONPart in
            var record: [String: JSONPart] = [:]
            record["messageId"] = .text(lease.id.description)
            record["contentType"] = .text(lease.event.contentType)
            record["attempt"] = .number(Int(lease.attempt))
            if let text = String(validating: payload, as: UTF8.self) {
                record["body"] = .text(text)
            } else {
                record["body"] = .text(Data(payload).base64EncodedString())
                record["isBase64Encoded"] = .flag(true)
            }
            return .object(record)
        }
        return EventEngine.json(["Records": .list(records)])
    }

    /// Why each event failed that the answer names as `{"batchItemFailures": [{"itemIdentifier": ID}]}`. An empty answer, `null` and an object that names none say that all
    /// is done. An answer that cannot be understood, or that names another id, fails them all: better once more than lost.
    static func faults(_ answer: [UInt8], isCut: Bool, of ids: [InvocationID]) -> [InvocationID: String] {
        func all(_ sentence: String) -> [InvocationID: String] {
            Dictionary(ids.map { ($0, "\(sentence): the whole batch counts as failed") }, uniquingKeysWith: { first, _ in first })
        }
        guard !isCut else { return all("the answer to a batch is longer than \(AnswerCollector.limit) bytes") }
        guard !answer.isEmpty else { return [:] }
        let form = "the answer to a batch is null or an object, with the failed ones as batchItemFailures: [{itemIdentifier: ID}]"
        guard let found = try? JSONDecoder().decode(JSONPart.self, from: Data(answer)) else { return all("\(form); this is no JSON") }
        if found == .null { return [:] }
        guard case .object(let object) = found else { return all("\(form); this is another value") }
        let failures: [JSONPart]
        switch object["batchItemFailures"] {
        case nil, .null?: return [:]
        case .list(let list)?: failures = list
        default: return all("\(form); here batchItemFailures is no list")
        }
        let known = Dictionary(ids.map { ($0.description, $0) }, uniquingKeysWith: { first, _ in first })
        var faults: [InvocationID: String] = [:]
        for failure in failures {
            guard case .object(let item) = failure, case .text(let text)? = item["itemIdentifier"] else {
                return all("\(form); here an entry has no itemIdentifier that is a text")
            }
            guard let id = known[text] else { return all("the answer names `\(text.prefix(80))`, which is no messageId of the batch") }
            faults[id] = "the function named it among those that failed"
        }
        return faults
    }
}
