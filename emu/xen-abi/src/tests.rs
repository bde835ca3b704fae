//! Arithmetic of the few functions here; layouts are asserted at compile time.

use crate::io::ring::{needs_notify, ring_size};
use crate::io::xenbus::XenbusState;

#[test]
fn ring_sizes_of_the_known_protocols() {
    assert_eq!(ring_size(4096, 112), 32);
    assert_eq!(ring_size(4096, 12), 256);
    assert_eq!(ring_size(4096, 8), 256);
    assert_eq!(ring_size(64, 8), 0);
    assert_eq!(ring_size(4096, 0), 0);
}

#[test]
fn notification_only_when_the_event_index_was_passed() {
    assert!(needs_notify(0, 1, 1));
    assert!(!needs_notify(0, 1, 2));
    assert!(!needs_notify(1, 2, 1));
    assert!(needs_notify(u32::MAX, 1, 0));
}

#[test]
fn states_round_trip() {
    for n in 0..9 {
        assert_eq!(XenbusState::from_number(n).map(|s| s as u32), Some(n));
    }
    assert!(XenbusState::from_number(9).is_none());
}
