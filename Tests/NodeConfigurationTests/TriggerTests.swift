// SPDX-License-Identifier: Apache-2.0
import Core
import NodeConfiguration
import Testing

private func function(_ text: String) throws(ConfigurationErrors) -> FunctionManifest {
    try FunctionManifest(yaml: Array(("function: x\nruntime: python3\nhandler: a.b\n" + text).utf8))
}

private func mistakes(_ text: String) -> String {
    do throws(ConfigurationErrors) {
        _ = try function(text)
        return ""
    } catch { return error.description }
}

private func name(_ text: String) throws -> Name { try #require(Name(text)) }

@Suite struct TriggerTests {
    @Test("every kind of trigger, with its defaults and with its options")
    func kinds() throws {
        let manifest = try function(
            """
            triggers:
              - {http: /thumbs/*, methods: [POST, GET], auth: none, shape: aws-apigw-v2}
              - {http: /hook, auth: "hmac:GITHUB", name: github}
              - {cron: "*/5 * * * *", timezone: Europe/Berlin, payload: "{}", overlap: allow}
              - {cron: every 10m}
              - {bucket: photos, prefix: in/, suffix: .jpg, on: [created, renamed]}
              - {bucket: photos}
              - {outcome: other, on: both}
              - {outcome: other, on: failure, name: failed}
              - {queue: key}
            """)
        #expect(
            manifest.triggers.map(\.name.text) == [
                "http-1", "github", "cron-1", "cron-2", "bucket-1", "bucket-2", "outcome-1", "failed", "queue-1",
            ])
        let photos = try name("photos"), other = try name("other")
        #expect(
            manifest.triggers.map(\.kind) == [
                .http(route: "/thumbs/*", methods: ["GET", "POST"], authorization: .none, shape: .awsAPIGateway2),
                .http(route: "/hook", methods: [], authorization: .hmac(secret: "GITHUB"), shape: .bulkhead),
                .cron(schedule: "*/5 * * * *", timeZone: "Europe/Berlin", payload: "{}", overlap: .allow),
                .cron(schedule: "every 10m", timeZone: "UTC", payload: "", overlap: .skip),
                .bucket(photos, prefix: "in/", suffix: ".jpg", changes: [.created, .renamed]),
                .bucket(photos, prefix: "", suffix: "", changes: [.created]), .outcome(of: other, onSuccess: true, onFailure: true),
                .outcome(of: other, onSuccess: false, onFailure: true), .queue(authorization: .key),
            ])
    }

    @Test("a route is closed unless the file opens it")
    func closed() throws {
        guard case .http(_, _, let authorization, _)? = try function("triggers: [{http: /}]\n").triggers.first?.kind else {
            Issue.record("no route")
            return
        }
        #expect(authorization == .key)
    }

    @Test("buckets, calls, secrets, recursion and what becomes of asynchronous calls")
    func grants() throws {
        let manifest = try function(
            """
            buckets: {thumbs: write, photos: read, mixed: {access: write, prefix: out/}}
            async: {attempts: 0, age: 7d, onSuccess: {webhook: "https://example.org:8443/x?y=1", secret: HOOK}, onFailure: "bucket:dead/x/"}
            recursion: {maxDepth: 8, maxDescendants: 100, minInterval: 1s}
            calls: [b, a]
            secrets: [API_TOKEN, A]
            """)
        #expect(
            manifest.buckets == [
                BucketGrant(bucket: try name("mixed"), isWritable: true, prefix: "out/"),
                BucketGrant(bucket: try name("photos"), isWritable: false), BucketGrant(bucket: try name("thumbs"), isWritable: true),
            ])
        #expect(manifest.async.retry == RetryPolicy(maxAttempts: 0, maxAgeMs: 604_800_000))
        #expect(manifest.async.onSuccess == .webhook(url: "https://example.org:8443/x?y=1", secret: "HOOK"))
        #expect(manifest.async.onFailure == .bucket(try name("dead"), prefix: "x/"))
        #expect(manifest.recursion == DeclaredRecursion(maxDepth: 8, maxDescendants: 100, minInterval: .seconds(1)))
        #expect(manifest.calls?.map(\.text) == ["a", "b"] && manifest.secrets == ["A", "API_TOKEN"])
        let texts = try function("async: {onSuccess: function:next, onFailure: \"webhook:http://[::1]:80/\"}\ncalls: []\n")
        #expect(texts.async.onSuccess == .function(try name("next")) && texts.async.retry == .standard)
        #expect(texts.async.onFailure == .webhook(url: "http://[::1]:80/", secret: nil) && texts.calls == [])
        let plain = try function("")
        #expect(plain.buckets.isEmpty && plain.triggers.isEmpty && plain.async == AsyncSpec() && plain.recursion == nil)
        #expect(plain.calls == nil && plain.secrets.isEmpty)
    }

    @Test("each kind of trigger may have a rate of its own, in the notation of all others")
    func rates() throws {
        let manifest = try function(
            """
            triggers:
            - {http: /, rate: 200/s burst 400}
            - {cron: every 1m, rate: 5/h}
            - {bucket: photos, rate: 30/m}
            - {outcome: other, on: both, rate: 1/s burst 1}
            - {queue: key, rate: 1000000/s burst 10000000}
            - {queue: key}
            """)
        func rate(_ count: UInt64, _ seconds: UInt64, _ burst: UInt64) -> RateSpec? {
            RateSpec(count: count, period: .seconds(seconds), burst: burst)
        }
        #expect(
            manifest.triggers.map(\.rate) == [
                rate(200, 1, 400), rate(5, 3600, 5), rate(30, 60, 30), rate(1, 1, 1), rate(1_000_000, 1, 10_000_000), nil,
            ])
        #expect(manifest.rate == nil)
    }

    @Test("a bucket and a queue may have a batch, and how long it gathers")
    func batches() throws {
        let manifest = try function(
            "triggers: [{queue: key, batch: 100, wait: 5s}, {bucket: photos, batch: 1}, {queue: key}, {bucket: a, batch: 7, wait: 5m}]\n")
        #expect(
            manifest.triggers.map(\.batch) == [
                BatchSpec(size: 100, waitMs: 5000), BatchSpec(size: 1), nil, BatchSpec(size: 7, waitMs: 300_000),
            ])
        let spec = BatchSpec(size: 2, waitMs: 5000)
        #expect(spec.due(10_000) == 15_000 && spec.due(14_999) == 15_000 && BatchSpec(size: 2).due(7) == 7 && spec.due(.max) == .max)
    }

    @Test(
        "a trigger that makes no sense is refused where it stands",
        arguments: [
            ("triggers: [{queue: key, batch: 0}]", "4:32: `batch` must be from 1 to 100"),
            ("triggers: [{queue: key, batch: -1}]", "`batch` must be from 1 to 100"),
            ("triggers: [{queue: key, batch: 101}]", "`batch` must be from 1 to 100"),
            ("triggers: [{queue: key, batch: 99999999999999999999}]", "`batch` must be written as a whole number"),
            ("triggers: [{queue: key, batch: [1]}]", "`batch` must be"),
            ("triggers: [{queue: key, wait: 5s}]", "4:31: `wait` says how long a batch gathers"),
            ("triggers: [{queue: key, batch: 5, wait: 0s}]", "`wait` must be from 1s to 300s"),
            ("triggers: [{queue: key, batch: 5, wait: 301s}]", "`wait` must be from 1s to 300s"),
            ("triggers: [{queue: key, batch: 5, wait: -1s}]", "`wait` must be written as a time"),
            ("triggers: [{http: /, batch: 5}]", "4:29: `batch` is for triggers of the kinds bucket and queue"),
            ("triggers: [{cron: every 1m, batch: 5}]", "`batch` is for triggers of the kinds bucket and queue"),
            ("triggers: {http: /}", "4:11: `triggers` must be a list of at most 16 entries"),
            ("triggers: [x]", "4:12: each entry of `triggers`"),
            ("triggers: [{name: x}]", "4:12: a trigger needs its kind as a key: one of http, cron, bucket, outcome, queue"),
            ("triggers: [{http: /, cron: every 1m}]", "4:12: one trigger has one kind, not `http` and `cron`"),
            ("triggers: [{http: x}]", "4:19: `http` must be written as a path"), ("triggers: [{http: /a/../b}]", "`http` must be"),
            ("triggers: [{http: /a/*/b}]", "* only as the last part"), ("triggers: [{http: /a//b}]", "`http` must be"),
            ("triggers: [{http: /a*}]", "`http` must be"), ("triggers: [{http: /a%20b}]", "`http` must be"),
            ("triggers: [{http: \"/a?b\"}]", "`http` must be"), ("triggers: [{http: /, methods: [get]}]", "`methods` are GET, HEAD"),
            ("triggers: [{http: /, auth: open}]", "4:28: `auth` must be written as none, key or hmac:NAME"),
            ("triggers: [{http: /, auth: \"hmac:\"}]", "`auth` must be"), ("triggers: [{http: /, shape: aws}]", "aws-apigw-v2 or fc-http"),
            ("triggers: [{http: /, method: GET}]", "did you mean `methods`?"), ("triggers: [{cron: hourly}]", "five or six fields"),
            ("triggers: [{cron: every 5}]", "4:19: `cron`: `every` is followed by a time"),
            ("triggers: [{cron: 0 0 30 2 *}]", "never fires"),
            ("triggers: [{cron: every 5m, timezone: Mars/Olympus}]", "`timezone` must be"),
            ("triggers: [{cron: every 5m, overlap: no}]", "skip, queue or allow"), ("triggers: [{bucket: Photos}]", "`bucket` must be"),
            ("triggers: [{bucket: a, on: changed}]", "created, removed, renamed"), ("triggers: [{bucket: a, on: []}]", "`on` must be"),
            ("triggers: [{bucket: a, prefix: /in}]", "`prefix` must be"), ("triggers: [{bucket: a, prefix: ../x/}]", "`prefix` must be"),
            ("triggers: [{outcome: a}]", "`on` is missing: success, failure or both"),
            ("triggers: [{outcome: a, on: end}]", "success, failure or both"),
            // What is another tenant's has no name here, so nothing of it can be asked for, let alone granted.
            ("triggers: [{outcome: other/a, on: both}]", "`outcome` must be written as a name"),
            ("triggers: [{bucket: other/a}]", "`bucket` must be written as a name"), ("calls: [other/a]", "`calls` lists functions' names"),
            ("async: {onSuccess: \"function:other/a\"}", "`onSuccess` must be"),
            ("buckets: {other/a: read}", "`other/a` is not a bucket's name"),
            ("triggers: [{queue: none}]", "`queue` must be written as key"),
            ("triggers: [{http: /, rate: fast}]", "4:28: `rate` must be written as a rate like 200/s"),
            ("triggers: [{cron: every 1m, rate: 0/s}]", "`rate` must be"),
            ("triggers: [{queue: key, rate: 5/s burst 0}]", "`rate` must be"),
            ("triggers: [{rate: 5/s}]", "4:12: a trigger needs its kind as a key"),
            ("triggers: [{http: /, name: A}]", "`name` must be"), ("triggers: [{http: /, name: direct}]", "cannot be named `direct`"),
            ("triggers: [{http: /, name: a}, {http: /b, name: a}]", "4:49: two triggers are named `a`"),
            ("triggers: [{http: /, name: cron-1}, {cron: every 1m}]", "two triggers are named `cron-1`"),
        ])
    func refused(line: String, sentence: String) {
        let text = mistakes(line + "\n")
        #expect(text.hasPrefix("function.yaml:4:") && text.contains(sentence), "\(text)")
    }

    @Test(
        "a grant that makes no sense is refused where it stands",
        arguments: [
            ("buckets: [a]", "`key: value` pairs"), ("buckets: {A: read}", "4:14: `A` is not a bucket's name"),
            ("buckets: {a: all}", "4:14: `a` must be written as read or write"), ("buckets: {a: {prefix: x/}}", "`access` is missing"),
            ("buckets: {a: {access: write, prefix: x}}", "is a directory: write `x/`"),
            ("buckets: {a: {access: read, prefix: x/}}", "this grant writes nothing"), ("buckets: {a: read, a: write}", "given twice"),
            ("async: {attempts: 26}", "4:19: `attempts` must be from 0 to 25"), ("async: {age: 59s}", "`age` must be from 60s to 7d"),
            ("async: {age: 8d}", "from 60s to 7d"), ("async: {retries: 1}", "unknown key `retries`"),
            ("async: {onFailure: mail:x}", "4:20: `onFailure` must be written as function:NAME, webhook:URL"),
            ("async: {onFailure: \"webhook:ftp://x/\"}", "`onFailure` must be"),
            ("async: {onFailure: \"webhook:https://u:p@x/\"}", "`onFailure` must be"),
            ("async: {onFailure: \"webhook:https:///x\"}", "`onFailure` must be"),
            ("async: {onFailure: \"webhook:https://x:0/\"}", "`onFailure` must be"),
            ("async: {onFailure: \"webhook:https://x/#y\"}", "`onFailure` must be"),
            ("async: {onFailure: \"bucket:a/../b/\"}", "`onFailure` must be"), ("async: {onFailure: function:A}", "`onFailure` must be"),
            ("async: {onFailure: {secret: A}}", "needs `webhook`"),
            ("async: {onFailure: {webhook: \"https://x\", secret: a-b}}", "`secret` must be"),
            ("recursion: {maxDepth: 1}", "4:12: `maxDescendants` is missing"),
            ("recursion: {maxDepth: 0, maxDescendants: 1}", "from 1 to 1000000"),
            ("recursion: {maxDepth: 1, maxDescendants: 1, minInterval: 25h}", "`minInterval` must be at most 24h"),
            ("calls: other", "`calls` must be a list"), ("calls: [Other]", "4:9: `calls` lists functions' names, not `Other`"),
            ("secrets: [a-b]", "4:11: `secrets` lists"), ("environment: {A: x}\nsecrets: [A]", "`A` is in `environment` too"),
        ])
    func refusedGrants(line: String, sentence: String) {
        let text = mistakes(line + "\n")
        #expect(text.hasPrefix("function.yaml:") && text.contains(sentence), "\(text)")
    }

    @Test("sixteen triggers and sixteen buckets, and not one more; an URL of 2048 bytes, and not one more")
    func bounds() {
        func triggers(_ count: Int) -> String { "triggers:\n" + (0..<count).map { "- {http: /\($0)}\n" }.joined() }
        func buckets(_ count: Int) -> String { "buckets:\n" + (0..<count).map { "  b\($0): read\n" }.joined() }
        #expect(mistakes(triggers(16)) == "" && mistakes(triggers(17)).contains("at most 16"))
        #expect(mistakes(buckets(16)) == "" && mistakes(buckets(17)).contains("at most 16"))
        let long = "async: {onFailure: \"webhook:https://x/"
        #expect(mistakes(long + String(repeating: "y", count: 2048 - 10) + "\"}") == "")
        #expect(mistakes(long + String(repeating: "y", count: 2048 - 9) + "\"}").contains("2048"))
    }
}
