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
        let text = answer.count < 64 ? String(decoding: answer, as: UTF8.self) : ""
        if text.trimmingCharacters(in: .whitespacesAndNewlines) == "null" { return [:] }
        let found: Answer
        do { found = try JSONDecoder().decode(Answer.self, from: Data(answer)) } catch {
            switch (error as? DecodingError).flatMap(place) {
            case 0: return all("\(form); this is another value")
            case 1: return all("\(form); here batchItemFailures is no list")
            case nil: return all("\(form); this is no JSON")
            default: return all("\(form); here an entry has no itemIdentifier that is a text")
            }
        }
        let known = Dictionary(ids.map { ($0.description, $0) }, uniquingKeysWith: { first, _ in first })
        var faults: [InvocationID: String] = [:]
        for item in found.batchItemFailures ?? [] {
            let text = item.itemIdentifier
            guard let id = known[text] else {
                let shown = String(decoding: text.utf8.prefix(80), as: UTF8.self)
                return all("the answer names `\(shown)`, which is no messageId of the batch")
            }
            faults[id] = "the function named it among those that failed"
        }
        return faults
    }

    private struct Answer: Decodable {
        struct Item: Decodable { var itemIdentifier: String }
        var batchItemFailures: [Item]?
    }

    /// How deep in the answer something of another kind stands; nil where it is no JSON.
    private static func place(_ error: DecodingError) -> Int? {
        switch error {
        case .typeMismatch(_, let context), .valueNotFound(_, let context): context.codingPath.count
        case .keyNotFound(_, let context): context.codingPath.count + 1
        default: nil
        }
    }
}
