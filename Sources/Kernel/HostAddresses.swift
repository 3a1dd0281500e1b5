// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Where a host's name leads, and whether that is a place that a tenant may have the node call.
public enum HostAddresses {
    /// The addresses of a name or of an address in text, 4 or 16 bytes each; empty where there are none. Blocks for the resolver. getaddrinfo(3).
    public static func resolve(_ host: String) -> [[UInt8]] {
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var first: UnsafeMutablePointer<addrinfo>?
        guard unsafe getaddrinfo(host, nil, &hints, &first) == 0 else { return [] }
        defer { unsafe freeaddrinfo(first) }
        var found: [[UInt8]] = []
        var next = unsafe first
        while let entry = unsafe next {
            if let address = unsafe entry.pointee.ai_addr, let bytes = unsafe bytes(of: address) { found.append(bytes) }
            unsafe next = entry.pointee.ai_next
        }
        return found
    }

    /// The addresses of this machine's interfaces, 4 or 16 bytes each: some may be of the public internet, and what listens there is still this machine's.
    /// Nil where they cannot be read. getifaddrs(3).
    public static func own() -> Set<[UInt8]>? {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard unsafe getifaddrs(&first) == 0 else { return nil }
        defer { unsafe freeifaddrs(first) }
        var found: Set<[UInt8]> = []
        var next = unsafe first
        while let entry = unsafe next {
            if let address = unsafe entry.pointee.ifa_addr, let bytes = unsafe bytes(of: address) { found.insert(bytes) }
            unsafe next = entry.pointee.ifa_next
        }
        return found
    }

    /// Whether an address is certainly not of this machine: `own` are the machine's addresses, nil where they are not known.
    public static func isElsewhere(_ address: [UInt8], own: Set<[UInt8]>?) -> Bool {
        guard let own, !own.contains(address) else { return false }
        if address.count == 4 { return address[0] != 127 && address[0] != 0 }
        guard address.count == 16, let last = address.last else { return false }
        let isMapped = address.prefix(10).allSatisfy { $0 == 0 } && address[10] == 0xFF && address[11] == 0xFF
        if isMapped { return isElsewhere(Array(address.suffix(4)), own: own) }
        // :: and ::1.
        return !(address.dropLast().allSatisfy { $0 == 0 } && last <= 1)
    }

    private static func bytes(of address: UnsafeMutablePointer<sockaddr>) -> [UInt8]? {
        switch unsafe Int32(address.pointee.sa_family) {
        case AF_INET:
            unsafe address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { value in
                var raw = unsafe value.pointee.sin_addr
                return unsafe withUnsafeBytes(of: &raw) { unsafe Array($0) }
            }
        case AF_INET6:
            unsafe address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { value in
                var raw = unsafe value.pointee.sin6_addr
                return unsafe withUnsafeBytes(of: &raw) { unsafe Array($0) }
            }
        default: nil
        }
    }

    /// Whether an address is of the public internet: not this host, not a private network, not a link's, not a group's. RFC 6890.
    public static func isPublic(_ address: [UInt8]) -> Bool {
        if address.count == 4 {
            switch (address[0], address[1]) {
            case (0, _), (10, _), (127, _), (169, 254), (172, 16...31), (192, 168), (100, 64...127), (198, 18...19), (192, 0), (224..., _):
                return false
            default: return true
            }
        }
        guard address.count == 16 else { return false }
        let isMapped = address.prefix(10).allSatisfy { $0 == 0 } && address[10] == 0xFF && address[11] == 0xFF
        let isTranslated = address.prefix(12) == [0, 0x64, 0xFF, 0x9B, 0, 0, 0, 0, 0, 0, 0, 0]
        if isMapped || isTranslated { return isPublic(Array(address.suffix(4))) }
        // 2000::/3 is what is given out; 2002::/16 holds an IPv4 address.
        if address[0] == 0x20, address[1] == 0x02 { return isPublic(Array(address[2..<6])) }
        return address[0] & 0xE0 == 0x20
    }
}
