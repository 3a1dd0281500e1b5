// SPDX-License-Identifier: Apache-2.0

/// Which function answers a path: the HTTP routes of one tenant's functions.
///
/// A route fits its own path; one that ends with `*` fits everything that begins with what stands before it. Of several that fit and take the method, the one with
/// the longest text before its `*` wins. Paths are compared as they were sent, byte by byte: routes hold no character that could be written in two ways.
public struct RouteTable: Sendable {
    public struct Route: Hashable, Sendable {
        public let function: Name
        public let trigger: TriggerSpec
        let methods: Set<String>

        /// `HEAD` is what `GET` would answer, without the body (RFC 9110, section 9.3.2).
        func takes(_ method: String) -> Bool { methods.isEmpty || methods.contains(method) || method == "HEAD" && methods.contains("GET") }
    }
    public enum Match: Hashable, Sendable {
        case route(Route)
        /// The path is known with these methods alone, sorted.
        case otherMethods([String])
        case none
    }

    private var exact: [String: [Route]] = [:]
    /// By what stands before the `*`.
    private var open: [String: [Route]] = [:]
    /// Of what stands before a `*`, the longest, in bytes: no more of a path has to be looked at.
    private var longestOpen = 0

    public init() {}

    /// Replaces all routes of a function; no triggers remove it.
    public mutating func set(_ function: Name, _ triggers: [TriggerSpec]) {
        exact = exact.compactMapValues { Self.without(function, $0) }
        open = open.compactMapValues { Self.without(function, $0) }
        for trigger in triggers {
            guard case .http(let path, let methods, _, _) = trigger.kind else { continue }
            let route = Route(function: function, trigger: trigger, methods: Set(methods))
            if path.utf8.last == 0x2A {
                open[String(path.dropLast()), default: []].append(route)
            } else {
                exact[path, default: []].append(route)
            }
        }
        longestOpen = open.keys.map(\.utf8.count).max() ?? 0
    }

    private static func without(_ function: Name, _ routes: [Route]) -> [Route]? {
        let rest = routes.filter { $0.function != function }
        return rest.isEmpty ? nil : rest
    }

    /// - Parameter path: below the tenant's root, beginning with `/`, without a query.
    public func match(_ method: String, _ path: String) -> Match {
        var others: Set<String> = []
        func find(_ routes: [Route]?) -> Route? {
            for route in routes ?? [] {
                if route.takes(method) { return route }
                others.formUnion(route.methods)
            }
            return nil
        }
        if let route = find(exact[path]) { return .route(route) }
        // By bytes: to a Character, a slash with a combining mark behind it is no slash.
        var rest = path.utf8.prefix(longestOpen)
        while let slash = rest.lastIndex(of: 0x2F) {
            if let route = find(open[String(Substring(path.utf8[...slash]))]) { return .route(route) }
            rest = path.utf8[..<slash]
        }
        return others.isEmpty ? .none : .otherMethods(others.sorted())
    }

    /// Why a function's triggers cannot be set: sentences, empty where they can. Two routes must never fit the same request equally well.
    public func conflicts(of function: Name, _ triggers: [TriggerSpec]) -> [String] {
        var table = self
        table.set(function, [])
        var sentences: [String] = []
        for trigger in triggers {
            guard case .http(let path, let methods, _, _) = trigger.kind else { continue }
            let isOpen = path.utf8.last == 0x2A
            let taken = isOpen ? table.open[String(path.dropLast())] : table.exact[path]
            for other in taken ?? [] where methods.isEmpty || other.methods.isEmpty || !other.methods.isDisjoint(with: methods) {
                let shared = methods.isEmpty ? other.methods : other.methods.isEmpty ? Set(methods) : other.methods.intersection(methods)
                let what = (shared.isEmpty ? "all methods" : shared.sorted().joined(separator: ", ")) + " of the route \(path)"
                sentences.append(
                    other.function == function
                        ? "the triggers \(other.trigger.name) and \(trigger.name) of \(function) both take \(what): remove one or part the methods"
                        : "\(function) (trigger \(trigger.name)) and \(other.function) (trigger \(other.trigger.name)) both take \(what): "
                            + "give one of them another path, or part the methods between them")
            }
            let route = Route(function: function, trigger: trigger, methods: Set(methods))
            if isOpen {
                table.open[String(path.dropLast()), default: []].append(route)
            } else {
                table.exact[path, default: []].append(route)
            }
        }
        return sentences
    }
}
