//! A change that was begun is looked for, whatever became of it.

use super::*;

#[test]
fn a_change_is_under_way_until_it_ends_and_then_the_store_is_looked_at() {
    let changes = Arc::new(Changes::default());
    assert_eq!((changes.oldest(), changes.take_lagging()), (None, false));
    let (first, second) = (changes.begin(), changes.begin());
    assert!(changes.oldest().is_some());
    assert!(!changes.take_lagging(), "not before it ended: the store would not say it yet");
    drop(first);
    assert!(changes.oldest().is_some() && changes.take_lagging());
    drop(second);
    assert_eq!((changes.oldest(), changes.take_lagging(), changes.take_lagging()), (None, true, false));
}
