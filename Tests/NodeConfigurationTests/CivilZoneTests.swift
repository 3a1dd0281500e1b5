// SPDX-License-Identifier: Apache-2.0
import Core
import Foundation
import NodeConfiguration
import Testing

@Suite struct CivilZoneTests {
    @Test(
        "a daily time is once on each date of ten years, in every kind of place",
        arguments: [
            "UTC", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Gaza", "Antarctica/Troll",
            "Asia/Kathmandu",
        ])
    func daily(name: String) throws {
        let zone = try #require(CivilZone(name)), place = try #require(TimeZone(identifier: name))
        for text in ["30 2 * * *", "0 0 * * *", "30 0 * * *", "15 1 * * *"] {
            let schedule = try CronSchedule(parsing: text)
            var time: Int64 = 1_704_067_200
            var before: Int64?
            for _ in 0..<3650 {
                time = try #require(zone.next(schedule, after: time))
                let day = (time + Int64(place.secondsFromGMT(for: Date(timeIntervalSince1970: TimeInterval(time))))) / 86_400
                if let before { #expect(day == before + 1, "\(text) at \(time)") }
                before = day
            }
        }
    }

    @Test("the clock of a place, and names that are none")
    func names() throws {
        #expect(try #require(CivilZone("Europe/Berlin")).offset(at: 1_711_846_799) == 3600)
        #expect(try #require(CivilZone("Europe/Berlin")).offset(at: 1_711_846_800) == 7200)
        let night = try CronSchedule(parsing: "30 2 * * *")
        #expect(CivilZone("Europe/Berlin")?.catchUp(night, lastRun: 1_711_700_000, now: 1_711_850_000) == 1_711_846_800)
        for name in ["", "Mars/Olympus", "GMT+7"] { #expect(CivilZone(name) == nil) }
    }
}
