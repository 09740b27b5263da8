//! Instants and spans as people read them, in UTC and in words.

use countersign_proto::time::Timestamp;

/// `2026-11-22 09:08:03 UTC`.
#[must_use]
pub fn utc(at: Timestamp) -> String {
    let secs = at.unix_secs();
    let (days, in_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `09:08:03` if it is the day of `now`, else `2026-11-22 09:08:03`; both in UTC.
#[must_use]
pub fn short(at: Timestamp, now: Timestamp) -> String {
    let whole = utc(at);
    let text = whole.trim_end_matches(" UTC");
    let same_day = at.unix_secs().div_euclid(86_400) == now.unix_secs().div_euclid(86_400);
    match text.split_once(' ') {
        Some((_, time)) if same_day => time.to_owned(),
        _ => text.to_owned(),
    }
}

/// `2026-11-22T09:08:03Z`, for the `datetime` attribute.
#[must_use]
pub fn machine(at: Timestamp) -> String {
    let text = utc(at);
    text.replacen(' ', "T", 1).replacen(" UTC", "Z", 1)
}

/// `in 4 min 10 s`, `2 h 3 min ago`, `now`.
#[must_use]
pub fn from_now(at: Timestamp, now: Timestamp) -> String {
    let secs = at.secs_since(now);
    match secs {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(secs)),
        ..0 => format!("{} ago", span(secs.saturating_neg())),
    }
}

fn span(secs: i64) -> String {
    let parts = [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "min"), (secs % 60, "s")];
    let shown = parts.iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0);
    shown.map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// Days since 1970-01-01 as a date of the proleptic Gregorian calendar.
const fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc() {
        let check = |secs, expected: &str| assert_eq!(utc(Timestamp::from_unix_secs(secs)), expected);
        check(0, "1970-01-01 00:00:00 UTC");
        check(-1, "1969-12-31 23:59:59 UTC");
        check(951_782_399, "2000-02-28 23:59:59 UTC");
        check(951_782_400, "2000-02-29 00:00:00 UTC");
        check(1_735_689_599, "2024-12-31 23:59:59 UTC");
        check(4_107_542_400, "2100-03-01 00:00:00 UTC");
        assert_eq!(machine(Timestamp::from_unix_secs(0)), "1970-01-01T00:00:00Z");
        let noon = Timestamp::from_unix_secs(43_200);
        assert_eq!(short(noon.plus_secs(-1), noon), "11:59:59");
        assert_eq!(short(noon.plus_secs(-43_201), noon), "1969-12-31 23:59:59");
    }

    #[test]
    fn spans_name_their_two_largest_units() {
        let now = Timestamp::from_unix_secs(1_000_000);
        let check = |secs, expected: &str| assert_eq!(from_now(now.plus_secs(secs), now), expected);
        check(0, "now");
        check(250, "in 4 min 10 s");
        check(60, "in 1 min");
        check(-7380, "2 h 3 min ago");
        check(-59, "59 s ago");
        check(90_061, "in 1 d 1 h");
        check(3_601, "in 1 h");
    }
}
