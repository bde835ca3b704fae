//! Tests of the bounds of what waits for a client.

use super::super::watch::{ConnId, Watch};
use super::*;

fn due(id: u64, path: &str) -> Due {
    let watch = Watch {
        id,
        conn: ConnId(1),
        domid: 0,
        path: StorePath::parse("/w").unwrap(),
        token: Arc::from(&b"t"[..]),
        relative: false,
        depth: None,
    };
    Due {
        watch: Arc::new(watch),
        path: StorePath::parse(path).unwrap(),
    }
}

fn messages(out: &mut OutQueue) -> usize {
    let mut n = 0;
    while !out.is_empty() {
        let len = out.front().len();
        out.advance(len);
        n += 1;
    }
    n
}

#[test]
fn an_event_that_waits_is_not_repeated() {
    let mut out = OutQueue::default();
    for _ in 0..5 {
        out.push_event(&due(1, "/w/a"));
    }
    out.push_event(&due(2, "/w/a"));
    out.push_event(&due(1, "/w/b"));
    assert_eq!(messages(&mut out), 3);
    out.push_event(&due(1, "/w/a"));
    assert_eq!(messages(&mut out), 1);
}

#[test]
fn a_flood_of_events_falls_back_to_one_per_watch() {
    let mut out = OutQueue::default();
    for i in 0..100_000 {
        out.push_event(&due(i % 3, &format!("/w/n{i}")));
    }
    assert!(out.is_over_limit() || out.bytes < quota::OUTSTANDING_BYTES);
    assert_eq!(messages(&mut out), quota::OUTSTANDING_EVENTS + 3);
    assert!(out.ledger.waiting.is_empty());
    assert_eq!((out.bytes, out.replies), (0, 0));
}

#[test]
fn messages_leave_in_pieces() {
    let mut out = OutQueue::default();
    out.push_reply(vec![1, 2, 3]);
    out.push_event(&due(1, "/w"));
    out.advance(2);
    assert_eq!(out.front(), [3]);
    let rest = out.to_bytes();
    assert_eq!(rest.len(), 1 + 16 + 5);
    out.advance(1);
    assert_eq!(out.front(), &rest[1..]);
    out.push_event(&due(1, "/w"));
    assert_eq!(messages(&mut out), 1);
    out.advance(0);
    assert!(out.front().is_empty());
}

#[test]
fn transaction_numbers_skip_zero_and_those_in_use() {
    let tree = Tree::new();
    let mut connection = Connection::new(0, Sink::Silent);
    assert_eq!(connection.start_transaction(&tree), Ok(1));
    connection.next_transaction = u32::MAX;
    assert_eq!(connection.start_transaction(&tree), Ok(u32::MAX));
    assert_eq!(connection.start_transaction(&tree), Ok(2));
    connection.abort_transactions();
    assert!(connection.transaction(1).is_err());
}
