// SPDX-License-Identifier: Apache-2.0
import Core
import NodeConfiguration
import Testing

private func function(_ name: String, _ text: String) throws -> FunctionManifest {
    try FunctionManifest(yaml: Array("function: \(name)\nruntime: python3\nhandler: a.b\n\(text)\n".utf8))
}

@Suite struct DeployLintTests {
    private let acme: Name

    init() throws { acme = try #require(Name("acme")) }

    private func refusals(_ text: String, others: [FunctionManifest] = []) throws -> [String] {
        DeployLint.refusals(try function("x", text), tenant: acme, others: others)
    }

    @Test(
        "a function that starts itself by what it writes is refused, with what meets what",
        arguments: [
            (
                "buckets: {p: write}\ntriggers: [{bucket: p, prefix: in/, suffix: .jpg}]",
                "it may write p/*, and its trigger bucket-1 starts it for p/in/*.jpg;"
            ),
            ("buckets: {p: {access: write, prefix: in/a/}}\ntriggers: [{bucket: p, prefix: in/}]", "it may write p/in/a/*"),
            ("buckets: {p: {access: write, prefix: in/}}\ntriggers: [{bucket: p, prefix: in/a}]", "it may write p/in/*"),
            ("async: {onFailure: \"bucket:p/in/\"}\ntriggers: [{bucket: p}]", "its `onFailure` writes p/in/*"),
            ("async: {onSuccess: function:x}", "its `onSuccess` is itself"),
            ("triggers: [{outcome: x, on: failure}]", "starts it at its own end"),
            ("calls: [x]", "its `calls` names itself"),
        ])
    func selfStarts(text: String, sentence: String) throws {
        let told = try refusals(text)
        #expect(told.count == 1 && told.first?.contains(sentence) == true, "\(told)")
        #expect(told.first?.hasPrefix("acme/x would start itself: ") == true && told.first?.contains("`recursion: {maxDepth") == true)
        #expect(try refusals(text + "\nrecursion: {maxDepth: 2, maxDescendants: 5}").isEmpty)
    }

    @Test(
        "what is allowed and hardly meant is a warning",
        arguments: [
            ("calls: [y]", "`calls` names y, and tenant acme has no such function"),
            ("async: {onFailure: function:y}", "`onFailure` names y,"), ("async: {onSuccess: function:y}", "`onSuccess` names y,"),
            ("triggers: [{outcome: y, on: failure}]", "the trigger outcome-1 names y,"),
            ("triggers: [{bucket: p, suffix: \"*.jpg\"}]", "`suffix: *.jpg` of the trigger bucket-1 is no pattern"),
            ("triggers: [{bucket: p, prefix: \"in/?\"}]", "`prefix: in/?` of the trigger bucket-1 is no pattern"),
            ("async: {onSuccess: 'bucket:p/ok'}", "names its objects okID.json: write bucket:p/ok/ for ok/ID.json"),
            (
                "users: {rate: 1/s, key: 'claim:sub'}\ntriggers: [{http: /hook, auth: 'hmac:HOOK'}]",
                "those of the trigger http-1, too, and who signs what it sends (a webhook) has none"
            ),
            ("cpu: 3", "`cpu: 3` is more than the 1.5 that tenant acme has in all"),
            ("memory: 2GiB", "`memory` is 2048 MiB, and the node's workers have 1024 MiB in all"),
        ])
    func warnings(text: String, sentence: String) throws {
        let told = try warnings(of: text)
        #expect(told.count == 1 && told.first?.contains(sentence) == true, "\(told)")
    }

    @Test("what is there and fits is no warning; the machine's processors are a ceiling, too")
    func fits() throws {
        let fine = """
            calls: [z]
            async: {onFailure: function:z, onSuccess: 'bucket:q/ok/of-'}
            users: {rate: 1/s, key: 'header:X-User'}
            triggers: [{http: /hook, auth: 'hmac:HOOK'}, {outcome: z, on: failure}, {bucket: p, prefix: in/, suffix: .jpg}]
            cpu: 1.5
            memory: 1GiB
            """
        #expect(try warnings(of: fine).isEmpty)
        #expect(try warnings(of: "cpu: 3", nodeCPU: 1000).first?.contains("more than the 1 that this machine has") == true)
    }

    private func warnings(of text: String, nodeCPU: UInt32 = 4000) throws -> [String] {
        DeployLint.warnings(
            try function("x", text), tenant: acme, functions: Set(["x", "z"].compactMap { Name($0) }),
            room: DeployLint.Room(tenantCPU: 1500, nodeCPU: nodeCPU, nodeMemoryBytes: 1 << 30))
    }

    @Test("the ways out are named, and they are ways out")
    func waysOut() throws {
        let told = try refusals("buckets: {p: write}\ntriggers: [{bucket: p, prefix: in/}]")
        #expect(told.first?.contains("`p: {access: write, prefix: out/}`), grant `p: read`, or state") == true)
        #expect(try refusals("buckets: {p: {access: write, prefix: out/}}\ntriggers: [{bucket: p, prefix: in/}]").isEmpty)
        #expect(try refusals("buckets: {p: read}\ntriggers: [{bucket: p, prefix: in/}]").isEmpty)
        #expect(
            try refusals("buckets: {q: write}\ntriggers: [{bucket: p}]\nasync: {onFailure: function:y, onSuccess: \"bucket:q/\"}").isEmpty)
        #expect(try refusals("triggers: [{cron: every 1m}, {http: /}, {queue: key}, {outcome: y, on: both}]").isEmpty)
    }

    @Test("two functions with one route are refused with both names; the version that is replaced does not count")
    func routes() throws {
        let other = try function("other", "triggers: [{http: /a, methods: [GET]}]")
        let told = try refusals("triggers: [{http: /a}]\nrecursion: {maxDepth: 2, maxDescendants: 5}", others: [other])
        #expect(told.count == 1 && told.first?.contains("x (trigger http-1) and other (trigger http-1)") == true, "\(told)")
        let old = try function("x", "triggers: [{http: /a}]")
        #expect(try refusals("triggers: [{http: /a, methods: [PUT]}]", others: [old, other]).isEmpty)
    }

    @Test("an emit comes back through a queue's trigger, to the functions that the emitter may call", arguments: ["", "calls: [f, g]"])
    func emits(calls: String) throws {
        let topic = "triggers: [{queue: key, name: topic}]\n"
        let graph = DeployLint.graph(
            acme, [try function("f", topic + calls), try function("g", "calls: [f]"), try function("h", topic + "calls: []")])
        func edge(_ name: String) throws -> EdgeID {
            EdgeID(trigger: try #require(Name("topic")), function: FunctionID(tenant: acme, function: try #require(Name(name))))
        }
        #expect(graph.isOnCycle(try edge("f")))
        #expect(!graph.isOnCycle(try edge("h")))
    }

    @Test("a function that may reach the network can ask for its tenant's routes and queues, which no grant of it says")
    func network() throws {
        let graph = DeployLint.graph(
            acme,
            [
                try function("f", "network: egress\ncalls: []\ntriggers: [{http: /}, {queue: key}]"),
                try function("g", "triggers: [{http: /g}]\ncalls: []"),
            ])
        func edge(_ name: String, _ trigger: String) throws -> EdgeID {
            EdgeID(trigger: try #require(Name(trigger)), function: FunctionID(tenant: acme, function: try #require(Name(name))))
        }
        #expect(try graph.isOnCycle(edge("f", "http-1")) && graph.isOnCycle(edge("f", "queue-1")) && !graph.isOnCycle(edge("g", "http-1")))
        #expect(try graph.grantees(of: edge("f", "http-1")).isEmpty && graph.grantees(of: edge("f", "queue-1")).isEmpty)
    }

    @Test("who may make a trigger fire is who was granted it: by calls, by what it writes, by destinations and by being waited for")
    func grantees() throws {
        let graph = DeployLint.graph(
            acme,
            [
                try function(
                    "a", "buckets: {p: {access: write, prefix: out/}}\ntriggers: [{bucket: p, prefix: in/}, {cron: every 1m}]\ncalls: [c]"),
                try function("b", "buckets: {p: read}\nasync: {onSuccess: \"bucket:p/in/\", onFailure: \"function:d\"}\ncalls: []"),
                try function("c", "triggers: [{outcome: d, on: both}, {queue: key}, {http: /}]\ncalls: []"), try function("d", "calls: []"),
            ])
        for (edge, expected) in [
            ("a/bucket-1", "b"), ("a/cron-1", ""), ("a/direct", ""), ("c/outcome-1", "d"), ("c/queue-1", "a"), ("c/http-1", ""),
            ("c/direct", "a"),
            ("d/direct", "b"),
        ] {
            let words = edge.split(separator: "/").map(String.init)
            let id = EdgeID(
                trigger: try #require(Name(words[1])), function: FunctionID(tenant: acme, function: try #require(Name(words[0]))))
            #expect(graph.grantees(of: id).map(\.function.text).joined(separator: " ") == expected, "\(edge)")
        }
    }

    @Test("the graph knows what can come back: grants, destinations, outcomes and calls")
    func graph() throws {
        let graph = DeployLint.graph(
            acme,
            [
                try function(
                    "a", "buckets: {p: {access: write, prefix: out/}}\ntriggers: [{bucket: p, prefix: in/}, {cron: every 1m}]\ncalls: []"),
                try function("b", "triggers: [{bucket: p, prefix: out/}]\nasync: {onSuccess: \"bucket:p/in/\"}\ncalls: []"),
                try function("c", "triggers: [{outcome: d, on: both}]\ncalls: []"), try function("d", "calls: []"),
                try function("e", "triggers: [{http: /}]\nasync: {onFailure: \"webhook:https://x/\"}\ncalls: []"),
            ])
        func isOnCycle(_ function: String, _ trigger: String) throws -> Bool {
            graph.isOnCycle(
                EdgeID(trigger: try #require(Name(trigger)), function: FunctionID(tenant: acme, function: try #require(Name(function)))))
        }
        #expect(try isOnCycle("a", "bucket-1") && isOnCycle("b", "bucket-1") && isOnCycle("e", "http-1"))
        #expect(try !isOnCycle("a", "cron-1") && !isOnCycle("c", "outcome-1") && !isOnCycle("a", "direct") && !isOnCycle("d", "direct"))
        // Without `calls` anything may be called.
        let open = DeployLint.graph(acme, [try function("f", ""), try function("g", "calls: [f]")])
        for name in ["f", "g"] {
            let id = FunctionID(tenant: acme, function: try #require(Name(name)))
            #expect(open.isOnCycle(EdgeID(trigger: TriggerSpec.direct, function: id)))
        }
    }
}
