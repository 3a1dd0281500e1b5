// SPDX-License-Identifier: Apache-2.0
public import ControlAPI
public import Core
public import Supervision

/// The one place where outcomes become HTTP statuses.
public enum OutcomeMapping {
    /// The problem that an invocation's end is for its caller; nil where the function answered.
    public static func problem(_ report: InvocationReport) -> Problem? {
        var problem: Problem
        let function = report.version.function
        switch report.verdict {
        case .completed(.ok): return nil
        case .completed(let outcome):
            problem = self.problem(
                outcome, "\(function) reported an error: \(report.fault.map { Phrase.error($0.type, $0.message) } ?? "none given")")
            if report.fault?.type == "RetryLater" { problem.retryAfter = 1 }
        case .refused(let refusal):
            problem = self.problem(refusal.outcome, sentence(refusal, function))
            problem.level = refusal.level.rawValue
            problem.ceiling = refusal.ceiling
            problem.limit = refusal.limit
            problem.value = refusal.value
            problem.retryAfter = refusal.retryAfter
            if refusal.ceiling == "draining" { problem.code = Problem.draining.code }
            suspend(&problem, refusal)
        case .failed(let outcome, let reason, _): problem = self.problem(outcome, "\(function): \(reason)")
        case .initFailed(let type, let message):
            problem = self.problem(.functionError, "the code of \(function) could not be loaded: \(Phrase.error(type, message))")
            problem.code = "initError"
            problem.errorType = type
            problem.errorMessage = message
        }
        problem.invocation = report.id.description
        if let fault = report.fault {
            problem.errorType = fault.type
            problem.errorMessage = fault.message
            problem.errorStack = fault.stack
        }
        return problem
    }

    /// What an event that was not stored is for its sender.
    static func problem(_ outcome: Outcome, _ sentence: String, _ refusal: Refusal?) -> Problem {
        var problem = self.problem(outcome, sentence)
        problem.level = refusal?.level.rawValue
        problem.ceiling = refusal?.ceiling
        problem.limit = refusal?.limit
        problem.value = refusal?.value
        problem.retryAfter = refusal?.retryAfter
        if let refusal { suspend(&problem, refusal) }
        return problem
    }

    /// What a key that was used for another event already is for its sender, as draft-ietf-httpapi-idempotency-key-header has it; `line`: of a batch.
    static func keyReused(_ first: InvocationID, line: Int? = nil) -> Problem {
        let place = line.map { "line \($0): " } ?? "", whole = line == nil ? "Nothing" : "Nothing of the batch"
        var problem = Problem(
            code: "keyReused", title: "The idempotency key was used for something else", status: 422,
            detail: "\(place)event \(first) has this idempotency key, with another body or content type. \(whole) was stored: "
                + "send the same again, or use another key")
        problem.invocation = first.description
        return problem
    }

    /// A suspended tenant's callers have nothing to wait for: 403, and no limit to compare with.
    private static func suspend(_ problem: inout Problem, _ refusal: Refusal) {
        guard refusal.ceiling == Node.suspended else { return }
        problem.code = "suspended"
        (problem.title, problem.status) = ("The tenant is suspended", 403)
        (problem.limit, problem.value) = (nil, nil)
    }

    /// RFC 9110 and, for 508, RFC 5842.
    public static func status(_ outcome: Outcome) -> Int {
        switch outcome {
        case .ok: 200
        case .functionError: 500
        case .timedOut: 504
        case .outOfMemory: 507
        case .crashed: 502
        case .throttled, .overBudget: 429
        case .overloaded: 503
        case .loop: 508
        case .cancelled: 499
        case .expired: 408
        case .internal: 500
        }
    }

    private static func problem(_ outcome: Outcome, _ detail: String) -> Problem {
        let title: String =
            switch outcome {
            case .ok: "OK"
            case .functionError: "The function failed"
            case .timedOut: "The function ran out of time"
            case .outOfMemory: "The function ran out of memory"
            case .crashed: "The worker crashed"
            case .throttled: "A ceiling is reached"
            case .overBudget: "The budget is used up"
            case .overloaded: "The node is at its limit"
            case .loop: "The function calls itself in a loop"
            case .cancelled: "The invocation was cancelled"
            case .expired: "The invocation expired"
            case .internal: "The node failed"
            }
        return Problem(code: outcome.rawValue, title: title, status: status(outcome), detail: detail)
    }

    /// What refused a call of `function`, with its limit and the present value.
    public static func sentence(_ refusal: Refusal, _ function: FunctionID) -> String {
        if refusal.outcome == .loop {
            return "\(function) was called through \(refusal.value) functions; at most \(refusal.limit) may call each other in a chain"
        }
        if refusal.ceiling == Node.suspended { return "tenant \(function.tenant) is suspended by the operator" }
        if refusal.ceiling == "draining" { return "the node takes no new work: it starts, stops, or an operator drains it" }
        let who: String =
            switch refusal.level {
            case .tenant: "tenant \(function.tenant)"
            case .function: "function \(function)"
            default: "the \(refusal.level.rawValue)"
            }
        return "\(who) is at its limit of \(refusal.ceiling): \(refusal.value) of \(refusal.limit)"
    }
}

extension Problem {
    /// What anybody may know of how a call ended: that it did, whether waiting helps, and the id under which the owner finds the rest. Others stay as they are.
    var forAnybody: Problem {
        guard code == "initError" || Outcome(rawValue: code) != nil else { return self }
        var plain = Problem(
            code: code, title: title, status: status,
            detail: "the request was not served; the function's owner finds the reason under the invocation's id")
        plain.retryAfter = retryAfter
        plain.invocation = invocation
        return plain
    }
    /// 404 for what is not there and for what is not the caller's: the two look alike.
    public static func notFound(_ what: String) -> Problem {
        Problem(code: "notFound", title: "Not found", status: 404, detail: "there is no \(what)")
    }
    public static func badRequest(_ detail: String) -> Problem {
        Problem(code: "badRequest", title: "Bad request", status: 400, detail: detail)
    }
    public static func tooLarge(_ limit: Int) -> Problem {
        Problem(
            code: "tooLarge", title: "The body is too large", status: 413, detail: "the body is larger than the limit of \(limit) bytes")
    }
    public static func storage(_ detail: String) -> Problem {
        Problem(code: "storage", title: "The state could not be changed", status: 500, detail: detail)
    }
}
