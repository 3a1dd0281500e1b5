// SPDX-License-Identifier: Apache-2.0
import Core
import Glibc
import NodeConfiguration
import Testing

private func errors(manifest text: String) -> String {
    do throws(ConfigurationErrors) {
        _ = try FunctionManifest(yaml: Array(text.utf8))
        return ""
    } catch { return error.description }
}

private func errors(tenant text: String) -> String {
    do throws(ConfigurationErrors) {
        _ = try TenantConfiguration(yaml: Array(text.utf8), file: "acme.yaml", name: "acme")
        return ""
    } catch { return error.description }
}

@Suite struct ConfigurationTests {
    @Test("a whole manifest")
    func manifest() throws {
        let text = """
            function: thumbnail
            runtime: python3
            handler: main.handler
            memory: 256MiB
            cpu: 0.5
            timeout: 30s
            concurrency: 4
            processes: 32
            temporary: 16MiB
            workers: {min: 1, max: 5, idle: 5m}
            environment: {SIZE: "360"}
            """
        let manifest = try FunctionManifest(yaml: Array(text.utf8))
        #expect(manifest.limits.memoryBytes == 256 << 20 && manifest.limits.cpuMilli == 500 && manifest.limits.processes == 32)
        #expect(manifest.timeout == 30_000_000_000 && manifest.idle == 300_000_000_000 && manifest.instanceConcurrency == 4)
        #expect(manifest.minimumWorkers == 1 && manifest.maximumWorkers == 5 && manifest.environment == ["SIZE": "360"])
    }

    @Test(
        "mistakes in a manifest have a place and a way out",
        arguments: [
            (
                "function: x\nruntime: python3\nhandler: a.b\nmemory: 12\n",
                "function.yaml:4:9: `memory` must be written as a size like 256MiB"
            ),
            ("function: x\nruntime: python3\nhandler: a.b\nmemory: 99999999999999TiB\n", "memory"),
            ("function: x\nruntime: python3\nhandler: a.b\nmemory: -1MiB\n", "memory"),
            ("function: x\nruntime: python3\nhandler: a.b\nconcurrency: 0\n", "from 1 to 200"),
            ("function: x\nruntime: python3\nhandler: a.b\nworkers: {min: 9, max: 2}\n", "`min` must not be above `max`"),
            (
                "function: x\nruntime: python3\nhandler: a.b\nmemry: 1MiB\n",
                "function.yaml:4:1: unknown key `memry`; did you mean `memory`?"
            ),
            ("function: x\nruntime: python3\nhandler: nodot\n", "file.function"),
            ("function: x\nruntime: command\nhandler: /bin/sh\n", "inside the function's folder"),
            ("function: x\nruntime: command\nhandler: /\u{301}bin/sh\n", "inside the function's folder"),
            ("function: x\nruntime: command\nhandler: ../\u{301}sh\n", "inside the function's folder"),
            ("runtime: python3\nhandler: a.b\n", "`function` (its name) is missing"),
            ("function: x\nruntime: python3\nhandler: a.b\nnetwork: host\n", "`network` must be none or egress"),
            ("function: x\nruntime: python3\nhandler: a.b\nenvironment: {\"1A\": x}\n", "not a name for an environment variable"),
            ("- a\n- b\n", "list of `key: value` lines"), ("", "empty"), ("a: b: c\n", "not valid YAML"),
            ("x: &anchor 1\n", "anchors and aliases"),
        ])
    func mistakes(text: String, sentence: String) { #expect(errors(manifest: text).contains(sentence), "\(errors(manifest: text))") }

    @Test(
        "an alias is found wherever it hides, before the parser follows it",
        arguments: [
            "a: 1 # x\r\nb: &b [1]\r\nc: *b\r\n", "{d: it's, a: &a [1], b: *a}", "d: \"x\n \", a: &a [1]\nb: *a\n", "- &a 1\n- *a\n",
            "? &a x\n: *a\n", "&a x: *a\n", "[&a x,*a]", "{x: 'y # z', a: &a 1, b: *a}", "a: !!str &a x\nb: !!str *a\n",
            "a: &a-b 1\nb: *a-b\n",
            "a:\t&a 1\nb:\t*a\n", "a: &a 1\u{2028}b: *a\n", "---\n&a [*a]\n",
        ])
    func aliases(text: String) {
        #expect(errors(manifest: text).contains("anchors and aliases") || errors(manifest: text).contains("YAML"), "\(text)")
    }

    @Test("ampersands and stars in texts are texts")
    func texts() throws {
        let text = """
            function: x
            runtime: python3
            handler: a.b
            description: "salt & pepper, 2*3, *.txt" # see *this*
            environment: {QUERY: a=1&b=2, GLOB: "*.c", STAR: '*x'}
            """
        #expect(try FunctionManifest(yaml: Array(text.utf8)).environment == ["QUERY": "a=1&b=2", "GLOB": "*.c", "STAR": "*x"])
    }

    @Test(
        "no file within the limit takes long to refuse",
        arguments: [
            ("a: ", " &", 120_000), ("? ", "k", 250_000), ("", "k#: 1\n", 25_000), ("", "[", 250_000), ("", "{a: ", 60_000),
            ("", "- ", 120_000),
            ("a: ", "* &x ", 50_000), ("handler: [", "a,", 120_000),
        ])
    func slow(begin: String, part: String, count: Int) {
        var text = begin
        for number in 0..<count { text += part.contains("#") ? part.replacing("#", with: "\(number)") : part }
        let start = Self.processorSeconds()
        let told = errors(manifest: text)
        #expect(!told.isEmpty && told.utf8.count < 100_000)
        #expect(Self.processorSeconds() - start < 30, "a debug build takes a second or two, and what grows with the square minutes")
    }

    /// What this thread has computed: others may have the processor meanwhile.
    private static func processorSeconds() -> Int {
        var time = timespec()
        unsafe clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return time.tv_sec
    }

    @Test("all mistakes of a file are told at once")
    func all() {
        let text = errors(manifest: "function: X\nruntime: cobol\nhandler: a.b\nmemory: x\nnonsense: 1\n")
        #expect(text.split(separator: "\n").count == 4, "\(text)")
    }

    @Test("not UTF-8, and too long")
    func bytes() {
        #expect(throws: ConfigurationErrors.self) { try FunctionManifest(yaml: [0x66, 0xFF, 0xFE]) }
        #expect(throws: ConfigurationErrors.self) { try FunctionManifest(yaml: Array(repeating: 0x23, count: (256 << 10) + 1)) }
    }

    @Test("a tenant's file")
    func tenant() throws {
        let text = "tenant: acme\nquota: {concurrency: 5, queue: 7, memory: 1GiB, cpu: 2.5, processes: 99}\n"
        let tenant = try TenantConfiguration(yaml: Array(text.utf8), file: "acme.yaml", name: "acme")
        #expect(tenant.concurrency == 5 && tenant.queue == 7 && tenant.limits.memoryBytes == 1 << 30 && tenant.limits.cpuMilli == 2500)
    }

    @Test(
        "mistakes in a tenant's file",
        arguments: [
            ("tenant: other\n", "must be the file's name"), ("tenant: acme\nquota: {concurrency: 0}\n", "from 1 to 100000"),
            ("tenant: acme\nquota: 5\n", "`key: value` pairs"),
            ("tenant: acme\nquota: {memory: 1GiB, memory: 2GiB}\n", "twice"),
        ])
    func tenantMistakes(text: String, sentence: String) { #expect(errors(tenant: text).contains(sentence), "\(errors(tenant: text))") }

    @Test(
        "a key that is given twice is reported where it stands the second time",
        arguments: [
            ("tenant: acme\nweight: 1\nquota:\n  memory: 1GiB\nweight: 2\n", 5, 1),
            ("tenant: acme\nquota:\n  memory: 1GiB\n  budget: {zone: UTC}\n  memory: 2GiB\n", 5, 3),
            ("tenant: acme\nquota: {memory: 1GiB, budget: {memory: 1}, 'memory' : 2GiB}\n", 2, 44),
            ("tenant: acme\nquota: {\n  memory: 1GiB,\n  memory: 2GiB}\n", 4, 3),
            ("tenant: acme\n\"weight\": 1\nx: {weight: 3}\nweightless: 1\nweight: 2\n", 5, 1),
        ])
    func duplicatePlace(text: String, line: Int, column: Int) throws {
        let error = #expect(throws: ConfigurationErrors.self) {
            try TenantConfiguration(yaml: Array(text.utf8), file: "acme.yaml", name: "acme")
        }
        let first = try #require(error?.errors.first)
        #expect(first.line == line && first.column == column, "\(first)")
    }
}
