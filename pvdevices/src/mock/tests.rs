//! The made-up domain itself: what it promises to the tests that stand on it.

use std::time::Duration;

use super::{MockDomain, MockStore};
use crate::domain::{Access, Domain, Grant, GrantError, Store};

#[test]
fn grants_are_accounted_for() {
    let domain = MockDomain::new(1, 4);
    let page = domain.granted_page(Access::Write);
    let readable = domain.granted_page(Access::Read);
    let table = domain.grants();
    let grant = Grant::map(&table, page.gref(), Access::Write).unwrap();
    assert!(grant.copy_in(100, b"backend"));
    assert_eq!(page.bytes(100, 7), b"backend");
    assert_eq!(domain.mapped(), [page.gref()]);
    assert!(!domain.end_grant(page.gref()));
    drop(grant);
    assert!(domain.end_grant(page.gref()));
    let refused = Grant::map(&table, readable.gref(), Access::Write).unwrap_err();
    assert_eq!(refused, GrantError::ReadOnly(readable.gref()));
    domain.assert_released();
}

#[test]
#[should_panic(expected = "grants that are still mapped")]
fn what_is_not_released_is_told() {
    let domain = MockDomain::new(1, 1);
    let page = domain.granted_page(Access::Read);
    let _grant = Grant::map(&domain.grants(), page.gref(), Access::Read).unwrap();
    domain.assert_released();
}

#[test]
fn frames_that_cannot_be_shared_are_refused() {
    let domain = MockDomain::new(1, 2);
    let outside = domain.grant(2, Access::Write);
    domain.protect(0);
    let protected = domain.grant(0, Access::Write);
    let table = domain.grants();
    for (gref, access) in [(outside, Access::Read), (protected, Access::Write)] {
        let refused = Grant::map(&table, gref, access).unwrap_err();
        assert_eq!(refused, GrantError::BadFrame(gref));
    }
    assert!(Grant::map(&table, protected, Access::Read).is_ok());
}

#[test]
fn a_port_is_bound_once_and_carries_events_both_ways() {
    let domain = MockDomain::new(1, 1);
    let port = domain.alloc_port();
    let channel = domain.bind(port.number()).unwrap();
    assert!(domain.bind(port.number()).is_err());
    assert!(!port.wait(Duration::ZERO));
    channel.notify();
    channel.notify();
    assert!(port.wait(Duration::ZERO));
    assert!(!port.wait(Duration::ZERO));
    assert_eq!(port.events(), 2);
    drop(channel);
    assert!(domain.bind(port.number()).is_ok());
    let number = port.number();
    drop(port);
    assert!(domain.bind(number).is_err());
}

#[test]
fn watches_fire_first_and_for_what_is_below() {
    let store = MockStore::new();
    let mut watch = store.watch(&["/a/b"]).unwrap();
    assert_eq!(watch.next().as_deref(), Some("/a/b"));
    assert_eq!(watch.next(), None);
    store.set("/a/b/c", "1");
    store.set("/a/bc", "1");
    store.set("/a", "1");
    assert_eq!(watch.next().as_deref(), Some("/a/b/c"));
    assert_eq!(watch.next(), None);
    assert_eq!(store.list("/a").unwrap(), ["b", "bc"]);
    store.take("/a");
    assert_eq!(watch.next().as_deref(), Some("/a/b"));
    assert_eq!(watch.next().as_deref(), Some("/a/b/c"));
    assert_eq!(store.get("/a/b/c"), None);
}
