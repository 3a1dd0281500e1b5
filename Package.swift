// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import Foundation
import PackageDescription

// BULKHEAD_CORE_ONLY=1 builds only what needs no server library: the pure targets, Kernel, the sandbox, the spawner and the
// worker SDK, with their tests. It takes seconds where the whole house takes minutes, and it is how the static spawner is built.
let coreOnly = Context.environment["BULKHEAD_CORE_ONLY"] == "1"

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
]

let strictC: [CSetting] = [
    .enableWarning("all"),
    .enableWarning("extra"),
    .treatAllWarnings(as: .error),
]

let collections: Package.Dependency = .package(url: "https://github.com/apple/swift-collections", from: "1.6.0")
let system: Package.Dependency = .package(url: "https://github.com/apple/swift-system", from: "1.8.1")

func product(_ name: String, _ package: String) -> Target.Dependency { .product(name: name, package: package) }

var dependencies: [Package.Dependency] = [collections, system]

var targets: [Target] = [
    // Floor 0: pure decisions and C.
    .target(
        name: "Core", dependencies: [product("DequeModule", "swift-collections"), product("HeapModule", "swift-collections")],
        swiftSettings: strict),
    .target(name: "CKernel", cSettings: strictC),
    .systemLibrary(name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    .systemLibrary(name: "CLibcap", pkgConfig: "libcap", providers: [.apt(["libcap-dev"])]),
    .target(
        name: "CSandbox", dependencies: ["CSeccomp", "CLibcap"], path: "Sandbox", exclude: ["README.md", "policy", "runtimes"],
        cSettings: strictC),

    // Floor 1: bytes to values, Linux calls as Swift values.
    .target(name: "Wire", dependencies: ["Core"], swiftSettings: strict),
    .target(name: "Kernel", dependencies: ["CKernel", product("SystemPackage", "swift-system")], swiftSettings: strict),

    // Floor 2.
    .target(
        name: "SandboxKit",
        dependencies: ["Core", "Kernel", "CSandbox", product("SystemPackage", "swift-system")], swiftSettings: strict),

    // Floor 4.
    .target(name: "WorkerSDK", dependencies: ["Core", "Wire"], swiftSettings: strict),
    .executableTarget(name: "worker-sample", dependencies: ["WorkerSDK"], path: "Tests/Runtimes/Sample", swiftSettings: strict),
    .executableTarget(
        name: "bulkhead-spawner",
        dependencies: ["Core", "Wire", "Kernel", "SandboxKit", product("SystemPackage", "swift-system")], swiftSettings: strict),

    // Loops through the outside, honest work and tenants that compete, in virtual time, for the tests and for the figures.
    .target(name: "LoopSimulation", dependencies: ["Core"], path: "Tests/Simulation", swiftSettings: strict),
    .testTarget(name: "CoreTests", dependencies: ["Core", "LoopSimulation"], swiftSettings: strict),
    .testTarget(name: "WireTests", dependencies: ["Core", "Wire"], swiftSettings: strict),
    .testTarget(name: "KernelTests", dependencies: ["Kernel"], swiftSettings: strict),
    // Single-threaded, as the spawner is; the tests themselves are not.
    .executableTarget(
        name: "sandbox-driver", dependencies: ["Core", "Kernel", "SandboxKit"], path: "Tests/SandboxDriver", swiftSettings: strict),
    // Build it with -c release; a debug build's figures say nothing.
    .executableTarget(
        name: "decision-bench", dependencies: ["Core", "LoopSimulation"], path: "Tests/Bench/Decision", swiftSettings: strict),
    .executableTarget(
        name: "governor-bench", dependencies: ["Core", "LoopSimulation"], path: "Tests/Bench/Governor", swiftSettings: strict),
    .testTarget(
        name: "SandboxTests", dependencies: ["Core", "SandboxKit", "CSandbox", "sandbox-driver"],
        exclude: ["Resources"], swiftSettings: strict),
]

if !coreOnly {
    dependencies += [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    ]
    let nio = [product("NIOCore", "swift-nio"), product("NIOPosix", "swift-nio")]
    let log = product("Logging", "swift-log")
    targets += [
        .target(name: "ControlAPI", swiftSettings: strict),
        .target(
            name: "NodeConfiguration",
            dependencies: [
                "Core", "Wire", product("Yams", "Yams"), product("Crypto", "swift-crypto"), product("CryptoExtras", "swift-crypto"),
            ],
            swiftSettings: strict),
        .target(
            name: "Store",
            dependencies: [
                "Core", "Kernel", product("GRDB", "GRDB.swift"), product("GRDBSQLite", "GRDB.swift"), product("Crypto", "swift-crypto"),
                product("CryptoExtras", "swift-crypto"), product("DequeModule", "swift-collections"),
                product("HeapModule", "swift-collections"),
            ],
            swiftSettings: strict),
        .target(name: "Egress", dependencies: ["Core", "Kernel"] + nio, swiftSettings: strict),
        .target(name: "Supervision", dependencies: ["Core", "Wire", "Kernel", "Store", log] + nio, swiftSettings: strict),
        .target(
            name: "Gateway",
            dependencies: ["Core", "ControlAPI", "Kernel", "Store", "Supervision", log, product("NIOHTTP1", "swift-nio")] + nio,
            swiftSettings: strict),
        .executableTarget(
            name: "bulkheadd",
            dependencies: [
                "Core", "Wire", "Kernel", "Store", "NodeConfiguration", "Supervision", "ControlAPI", "Egress", "Gateway", log,
                product("AsyncHTTPClient", "async-http-client"), product("NIOHTTP1", "swift-nio"),
            ] + nio,
            swiftSettings: strict),
        .target(name: "CommandKit", dependencies: ["Core", "CKernel", "Wire", product("Crypto", "swift-crypto")], swiftSettings: strict),
        .executableTarget(
            name: "bulkhead",
            dependencies: [
                "Core", "CommandKit", "ControlAPI", product("ArgumentParser", "swift-argument-parser"),
                product("AsyncHTTPClient", "async-http-client"), product("NIOHTTP1", "swift-nio"),
            ] + nio, swiftSettings: strict),
        // Keeps a usage ledger until it is killed.
        .executableTarget(
            name: "ledger-driver", dependencies: ["Core", "Kernel", "Store"], path: "Tests/LedgerDriver", swiftSettings: strict),
        // Submits, claims and settles events until it is killed.
        .executableTarget(
            name: "event-driver", dependencies: ["Core", "Kernel", "Store"], path: "Tests/EventDriver", exclude: ["disk.c"],
            swiftSettings: strict),
        // Build it with -c release; a debug build's figures say nothing.
        .executableTarget(
            name: "event-bench", dependencies: ["Core", "Store", product("GRDBSQLite", "GRDB.swift")], path: "Tests/Bench/Events",
            swiftSettings: strict),
        .testTarget(
            name: "StoreTests",
            dependencies: [
                "Core", "Kernel", "Store", "ledger-driver", "event-driver", product("GRDB", "GRDB.swift"),
                product("Crypto", "swift-crypto"),
                product("CryptoExtras", "swift-crypto"),
            ], swiftSettings: strict),
        .testTarget(name: "EgressTests", dependencies: ["Core", "Egress"] + nio, swiftSettings: strict),
        .testTarget(name: "NodeConfigurationTests", dependencies: ["Core", "Wire", "NodeConfiguration"], swiftSettings: strict),
        .testTarget(
            name: "GatewayTests",
            dependencies: [
                "Core", "Wire", "Store", "NodeConfiguration", "ControlAPI", "Supervision", "Gateway", "bulkheadd", log,
                product("NIOEmbedded", "swift-nio"), product("NIOHTTP1", "swift-nio"),
            ] + nio, swiftSettings: strict),
        // The reference is what the code says of itself, and every command that the texts show is one that there is.
        .testTarget(
            name: "ReferenceTests",
            dependencies: [
                "Core", "Wire", "CommandKit", "ControlAPI", "NodeConfiguration", "Store", "Supervision", "Gateway", "bulkhead", "bulkheadd",
                product("ArgumentParser", "swift-argument-parser"), product("Yams", "Yams"),
            ], swiftSettings: strict),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "Core", "Wire", "CommandKit", "ControlAPI", "NodeConfiguration", "bulkhead",
                product("ArgumentParser", "swift-argument-parser"),
            ], swiftSettings: strict),
    ]
}

// What libFuzzer drives: `Tests/Fuzz/run`. Files of Store and Gateway are links there, so that no server library is built for it.
if Context.environment["BULKHEAD_FUZZ"] == "1", !coreOnly {
    targets.append(
        .executableTarget(
            name: "bulkhead-fuzz", dependencies: ["Core", "Wire", "NodeConfiguration", product("Crypto", "swift-crypto")],
            path: "Tests/Fuzz", exclude: ["run", "seeds.py"], swiftSettings: strict))
}

let package = Package(
    name: "bulkhead",
    products: [.library(name: "WorkerSDK", targets: ["WorkerSDK"])],
    dependencies: dependencies,
    targets: targets,
    cLanguageStandard: .gnu17
)
