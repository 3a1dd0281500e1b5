// SPDX-License-Identifier: Apache-2.0

/// A stable word for what went wrong, in problem documents (RFC 9457, member `code`) and, with `--json`, on a command's standard error.
public struct ErrorCode: Hashable, Sendable {
    public let code: String
    public let meaning: String
    /// HTTP statuses that it comes with; none where only the command itself says it.
    public let statuses: [Int]

    init(_ code: String, _ statuses: [Int], _ meaning: String) {
        self.code = code
        self.statuses = statuses
        self.meaning = meaning
    }

    /// Every code of the node, then those of the command alone.
    public static let all: [ErrorCode] = outcomes + node + command
    private static let known = Set(all.map(\.code))
    public static func isKnown(_ code: String) -> Bool { known.contains(code) }

    /// How invocations end.
    public static let outcomes: [ErrorCode] = [
        ErrorCode("functionError", [500], "The function threw, or answered that it failed; type, message and stack are in the document."),
        ErrorCode("initError", [500], "The function's code could not be loaded."),
        ErrorCode("timedOut", [504], "The function ran out of its time."),
        ErrorCode("outOfMemory", [507], "The function used more memory than it may."),
        ErrorCode("crashed", [502], "The worker ended; the cause is named."),
        ErrorCode(
            "throttled", [429],
            "A ceiling of the tenant, the function, the end user or of tokens that are verified at once is reached; Retry-After says when to come back."
        ),
        ErrorCode("overBudget", [429], "The budget of this hour, day or month is used up."),
        ErrorCode("overloaded", [503], "The whole node is at its limit, starts, or drains."),
        ErrorCode("loop", [508], "The call is part of a loop that was cut."),
        ErrorCode("cancelled", [499], "The caller went away, or the invocation was stopped."),
        ErrorCode("expired", [408], "The event or the caller's deadline was over before it could run."),
        ErrorCode("internal", [500], "The node failed, and the function is not to blame."),
    ]

    private static let node: [ErrorCode] = [
        ErrorCode("badRequest", [400], "The request cannot be understood; the detail says what is wrong."),
        ErrorCode("unauthorized", [401], "A key is needed, or this one is not valid."),
        ErrorCode(
            "badToken", [401, 403],
            "The token that tells the end user is missing, not valid or out of its time (401), or says nothing of who that is (403)."),
        ErrorCode("forbidden", [403], "The key's scope, or the user, does not allow it."),
        ErrorCode("suspended", [403], "The operator has suspended the tenant: nothing of it is run until that is over."),
        ErrorCode("notFound", [404], "There is no such thing, or it is not the caller's: the two look alike."),
        ErrorCode("methodNotAllowed", [405], "The path takes other methods; Allow names them."),
        ErrorCode("conflict", [409], "The object was changed in a way that does not fit, or a name is a folder and an object."),
        ErrorCode("exists", [409], "The name is taken."),
        ErrorCode("notEmpty", [409], "The bucket holds objects."),
        ErrorCode("tooMany", [409], "The tenant has as many as it may."),
        ErrorCode("busy", [409], "Another reload is under way."),
        ErrorCode("inUse", [409], "An alias names the version."),
        ErrorCode("latest", [409], "The alias latest is moved by deploys and rollbacks alone."),
        ErrorCode("nothingBefore", [409], "There is no version before to go back to."),
        ErrorCode("tooLarge", [413], "The body is larger than the limit."),
        ErrorCode("badArchive", [422], "The archive is refused: damaged, hostile, or past a bound."),
        ErrorCode(
            "badBatch", [400, 413], "The batch of events is refused, by the line that is wrong; nothing of it was stored."),
        ErrorCode(
            "keyReused", [422],
            "The idempotency key is that of another event (`invocation`), which has another body or content type; nothing was stored."),
        ErrorCode("badManifest", [422], "function.yaml is refused; every mistake is named with its place."),
        ErrorCode("badAlias", [422], "The alias is refused: its name, its versions or their weights."),
        ErrorCode("configuration", [422], "The configuration is refused and nothing was changed; `errors` names every mistake."),
        ErrorCode("headersTooLarge", [431], "The request's head is larger than the limit."),
        ErrorCode("storage", [500], "The disk did not take it; nothing was changed."),
        ErrorCode("draining", [503], "An operator has stopped the node from taking new work."),
        ErrorCode("noRestart", [500], "No new daemon took over; the old one serves on, and the detail says why."),
        ErrorCode("unavailable", [503], "What would check a signature or a token is not in the tenant's file."),
        ErrorCode("overQuota", [507], "The buckets' quota is used up."),
    ]

    private static let command: [ErrorCode] = [
        ErrorCode("usage", [], "The command line, or what it names, is wrong."),
        ErrorCode("unreachable", [], "No node answers at its control socket."),
        ErrorCode("notRoot", [], "The command needs root."),
        ErrorCode("functionStatus", [], "The function answered with an HTTP status of an error."),
        ErrorCode("unreachableFolder", [], "The daemon's user may not enter a folder above the state."),
        ErrorCode("answerCut", [], "The answer broke off."),
        ErrorCode("archive", [], "The function's folder cannot be packed."),
        ErrorCode("backup", [], "The backup cannot be written."),
        ErrorCode("badBackup", [], "The backup is damaged, or none."),
        ErrorCode("newerBackup", [], "The backup was made by a newer release."),
        ErrorCode("newerArchive", [], "The tenant's archive was made by a newer release."),
        ErrorCode("diskFull", [], "The disk has no room."),
        ErrorCode("export", [], "The tenant's archive cannot be written."),
        ErrorCode("restore", [], "The state cannot be restored."),
        ErrorCode("stateNotEmpty", [], "The folder to restore into holds something."),
        ErrorCode("stateInUse", [], "A node runs on the state directory."),
        ErrorCode("stateVersion", [], "The state directory is of a newer release, or none."),
        ErrorCode("state", [], "The state directory cannot be used."),
        ErrorCode("ids", [], "No range of user ids is free."),
        ErrorCode("init", [], "The template cannot be written."),
        ErrorCode("installation", [], "A part of the installation is missing."),
        ErrorCode("tar", [], "The program tar is missing."),
    ]
}
