// SPDX-License-Identifier: Apache-2.0
import Core
import Testing

@Suite struct GrantGraphTests {
    private func name(_ text: String) throws -> Name { try #require(Name(text)) }
    private func id(_ function: String, _ tenant: String = "acme") throws -> FunctionID {
        FunctionID(tenant: try name(tenant), function: try name(function))
    }
    private func pattern(_ prefix: String, _ suffix: String = "", bucket: String = "photos") throws -> ObjectPattern {
        ObjectPattern(bucket: try name(bucket), prefix: prefix, suffix: suffix)
    }
    private func reads(_ prefix: String, _ suffix: String = "", bucket: String = "photos") throws -> TriggerSource {
        .objects(owner: try name("acme"), try pattern(prefix, suffix, bucket: bucket))
    }
    private func writes(_ prefix: String, _ suffix: String = "", bucket: String = "photos") throws -> GrantedWrite {
        .objects(owner: try name("acme"), try pattern(prefix, suffix, bucket: bucket))
    }
    private func edge(_ function: String, _ trigger: String = "t") throws -> EdgeID {
        EdgeID(trigger: try name(trigger), function: try id(function))
    }
    private func function(
        _ text: String, _ trigger: TriggerSource, _ writes: Set<GrantedWrite> = [], declares: Bool = false
    ) throws -> GrantGraph.Function {
        GrantGraph.Function(id: try id(text), triggers: [try name("t"): trigger], writes: writes, declaresRecursion: declares)
    }

    @Test("patterns meet exactly where some key fits both", arguments: 0..<30)
    func patterns(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        // All keys of two letters up to length 8 hold a witness for patterns of length up to 4, if there is one.
        var keys: [String] = [""]
        var all = keys
        for _ in 0..<8 {
            keys = keys.flatMap { [$0 + "a", $0 + "b"] }
            all += keys
        }
        func text() -> String { String((0..<Int.random(in: 0...4, using: &random)).map { _ in Bool.random(using: &random) ? "a" : "b" }) }
        for _ in 0..<20 {
            let (p, q) = (try pattern(text(), text()), try pattern(text(), text()))
            let witness = all.contains {
                $0.hasPrefix(p.prefix) && $0.hasSuffix(p.suffix) && $0.hasPrefix(q.prefix) && $0.hasSuffix(q.suffix)
            }
            #expect(p.meets(q) == witness, "\(p) \(q)")
            #expect(q.meets(p) == witness)
        }
        #expect(try pattern("", bucket: "a").meets(pattern("", bucket: "b")) == false)
    }

    @Test("a function that writes where it is triggered is refused, unless it says so")
    func selfTrigger() throws {
        let refused = GrantGraph([try function("thumb", reads("in/", ".jpg"), [writes("in/thumbs/")])])
        let text = refused.refusals(of: try id("thumb")).joined()
        #expect(text.contains("acme/thumb") && text.contains("acme/photos/in/thumbs/*") && text.contains("trigger t"))
        #expect(text.contains("recursion: {maxDepth, maxDescendants, minInterval}"))
        #expect(refused.isOnCycle(try edge("thumb")))

        for (trigger, grant) in [("in/", "out/"), ("in/", "inner/")] {
            let fine = GrantGraph([try function("thumb", reads(trigger), [writes(grant)])])
            #expect(fine.refusals(of: try id("thumb")).isEmpty)
            #expect(!fine.isOnCycle(try edge("thumb")))
        }
        let bySuffix = GrantGraph([try function("thumb", reads("", ".jpg"), [writes("", ".png")])])
        #expect(bySuffix.refusals(of: try id("thumb")).isEmpty)
        let declared = GrantGraph([try function("thumb", reads("in/"), [writes("in/")], declares: true)])
        #expect(declared.refusals(of: try id("thumb")).isEmpty)
        #expect(declared.isOnCycle(try edge("thumb")), "declared, but a cycle all the same")
    }

    @Test("a function that calls, feeds or follows itself is refused")
    func otherSelfTriggers() throws {
        let acme = try name("acme")
        let me = try id("f")
        for (trigger, grant) in [
            (TriggerSource.invocation, Set([GrantedWrite.function(me)])), (.queue(owner: acme, acme), [.queue(owner: acme, acme)]),
            (.outcome(of: me), []),
        ] {
            let graph = GrantGraph([try function("f", trigger, grant)])
            #expect(graph.refusals(of: me).count == 1, "\(trigger)")
            #expect(graph.isOnCycle(try edge("f")))
        }
        // The same names of another tenant are other things.
        let foreign = GrantGraph([try function("f", .queue(owner: acme, acme), [.queue(owner: name("umbrella"), acme)])])
        #expect(foreign.refusals(of: me).isEmpty)
        #expect(try foreign.isOnCycle(edge("f")) == false)
    }

    @Test("a cycle through others is seen and drawn, not refused; what only leads into it or out of it is free")
    func longCycle() throws {
        let graph = GrantGraph([
            try function("door", .http, [.function(id("a"))]),
            GrantGraph.Function(
                id: try id("a"), triggers: [try name("t"): .invocation, try name("files"): try reads("back/")], writes: [try writes("b/")]),
            try function("b", reads("b/"), [writes("c/"), writes("log/")]),
            try function("c", reads("c/"), [writes("back/")]),
            try function("log", reads("log/")),
        ])
        #expect(try graph.edgesOnCycles == [edge("a", "files"), edge("b"), edge("c")])
        #expect(try graph.cycle(through: edge("a", "files")) == [id("a"), id("b"), id("c")])
        #expect(try graph.cycle(through: edge("c")) == [id("c"), id("a"), id("b")])
        #expect(try graph.cycle(through: edge("log")) == nil)
        for function in ["door", "a", "b", "c", "log"] { #expect(graph.refusals(of: try id(function)).isEmpty) }
    }

    @Test("free egress can come back through any http trigger; a schedule through nothing")
    func egress() throws {
        let graph = GrantGraph([
            try function("hook", .http, [.function(id("work"))]), try function("work", .invocation, [.egress]),
            try function("closed", .http), try function("tick", .cron, [.egress, .function(id("tick"))]),
        ])
        #expect(try graph.edgesOnCycles == [edge("hook"), edge("work")])
        #expect(graph.refusals(of: try id("hook")).isEmpty)
        #expect(graph.isOnCycle(try edge("unknown")), "what is not known may loop")
    }

    @Test("equal to a search of all ways in random graphs", arguments: 0..<60)
    func random(seed: Int) throws {
        var random = Seeded(state: UInt64(seed))
        let count = Int.random(in: 1...12, using: &random)
        let ids = try (0..<count).map { try id("f\($0)") }
        var arcs: [[Int]] = []
        var functions: [GrantGraph.Function] = []
        for place in 0..<count {
            arcs.append((0..<count).filter { _ in Int.random(in: 0..<count, using: &random) < 1 + seed % 2 })
            let writes = Set(arcs[place].map { GrantedWrite.function(ids[$0]) })
            functions.append(GrantGraph.Function(id: ids[place], triggers: [try name("t"): .invocation], writes: writes))
        }
        let graph = GrantGraph(functions.shuffled(using: &random))
        // A function is on a cycle where it reaches itself.
        var reaches = arcs.map { Set($0) }
        for _ in 0..<count { for place in 0..<count { reaches[place].formUnion(reaches[place].flatMap { reaches[$0] }) } }
        for place in 0..<count {
            let edge = EdgeID(trigger: try name("t"), function: ids[place])
            #expect(graph.isOnCycle(edge) == reaches[place].contains(place), "seed \(seed)")
            guard let cycle = graph.cycle(through: edge) else {
                #expect(!reaches[place].contains(place))
                continue
            }
            let numbers = cycle.compactMap { ids.firstIndex(of: $0) }
            #expect(numbers.first == place)
            for (from, to) in zip(numbers, numbers.dropFirst() + [place]) { #expect(arcs[from].contains(to), "seed \(seed)") }
        }
    }

    @Test("a chain of 100,000 functions needs no stack")
    func long() throws {
        let ids = try (0..<100_000).map { try id("f\($0)") }
        let trigger = try name("t")
        let functions = ids.indices.map {
            GrantGraph.Function(id: ids[$0], triggers: [trigger: .invocation], writes: [.function(ids[($0 + 1) % ids.count])])
        }
        #expect(GrantGraph(functions).edgesOnCycles.count == ids.count)
        #expect(GrantGraph(Array(functions.dropLast())).edgesOnCycles.isEmpty)
    }
}
