//! RFC 3339 times in UTC, without a time zone database.

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// `2026-11-22T04:10:00.123456789Z` of nanoseconds since the Unix epoch; all nine digits, so that lines align.
pub fn rfc3339_nanos(epoch_ns: i64) -> String {
    let nanos = epoch_ns.rem_euclid(NANOS_PER_SECOND);
    let seconds = epoch_ns.div_euclid(NANOS_PER_SECOND);
    let (year, month, day) = date_of(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of the Gregorian calendar, counted in years that begin in March and in eras of 400 years, which all have
/// the same number of days.
fn date_of(epoch_day: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    const EPOCH_FROM_YEAR_ZERO_MARCH: i64 = 719_468;
    let day = epoch_day + EPOCH_FROM_YEAR_ZERO_MARCH;
    let (era, day_of_era) = (day.div_euclid(DAYS_PER_ERA), day.rem_euclid(DAYS_PER_ERA));
    // Take the leap days of 4, 100 and 400 years out, and all years are 365 days long.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, months of 31 and 30 days alternate so that five of them have 153.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (epoch_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199_000_000_001, "2024-02-29T23:59:59.000000001Z"),
            (4_107_542_399_000_000_000, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(rfc3339_nanos(epoch_ns), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = date_of(-1);
        for day in 0..60_000 {
            let date = date_of(day);
            let next_day = date.2 == before.2 + 1 && date.1 == before.1 && date.0 == before.0;
            let next_month = date.2 == 1 && (date.1 == before.1 + 1 && date.0 == before.0 || date.1 == 1 && date.0 == before.0 + 1);
            assert!(next_day || next_month, "{before:?} {date:?}");
            before = date;
        }
    }
}
