//! Few are recorded, many are counted.

use super::*;

#[test]
fn a_burst_is_recorded_then_one_a_second_and_the_rest_is_counted() {
    let strangers = Strangers::default();
    let start = Timestamp::from_unix_secs(1_790_000_000);
    let admitted = |now, tries: u64| (0..tries).filter(|_| strangers.admits(now)).count();
    assert_eq!(admitted(start, 250), 100);
    assert_eq!((strangers.take_uncounted(), strangers.take_uncounted()), (150, 0));
    assert_eq!(admitted(start.plus_millis(999), 5), 0);
    assert_eq!(admitted(start.plus_secs(3), 5), 3);
    // A clock that steps back frees nothing, and a long time frees no more than the burst.
    assert_eq!(admitted(start.plus_secs(-500), 5), 0);
    assert_eq!(admitted(start.plus_secs(86_400), 250), 100);
}
