//! Tests of the handle: other threads, queues, transactions, saved state.

use super::super::tests::Wire;
use super::super::wire::MessageType;
use super::*;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn values_text_and_errors() {
    let store = StoreHandle::new().unwrap();
    store.write("/a/b", "text").unwrap();
    store.write("/a/bytes", [0xff]).unwrap();
    assert_eq!(store.read("/a/b").unwrap(), b"text");
    assert_eq!(store.try_read("/a/b").unwrap().as_deref(), Some("text"));
    assert_eq!(store.try_read("/a/none").unwrap(), None);
    assert!(matches!(
        store.read_string("/a/bytes"),
        Err(StoreError::NotText { .. })
    ));
    assert_eq!(store.list("/a").unwrap(), ["b", "bytes"]);
    assert!(store.exists("/a").unwrap() && !store.exists("/b").unwrap());
    store
        .set_perms("/a", &[Perm::none(0), Perm::read(1)])
        .unwrap();
    assert_eq!(store.perms("/a").unwrap(), [Perm::none(0), Perm::read(1)]);
    let error = store.read("/a/none").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Cannot read xenstore path '/a/none': ENOENT"
    );
    assert_eq!(
        store.write("/a b", "").unwrap_err().errno(),
        Some(XsErrno::EINVAL)
    );
    store.rm("/a").unwrap();
    assert!(store.list("/a").is_err());
    assert_eq!(store.dump().len(), 1);
}

#[test]
fn queues_hand_out_events_across_threads() {
    let store = StoreHandle::new().unwrap();
    let queue = store.watch_queue().unwrap();
    store.watch(&queue, "/w", "token").unwrap();
    assert_eq!(queue.try_next().unwrap().path, "/w");
    assert_eq!(queue.try_next(), None);
    let error = store.watch(&queue, "/w", "token").unwrap_err();
    assert_eq!(error.errno(), Some(XsErrno::EEXIST));
    let writer = store.clone();
    let thread = std::thread::spawn(move || {
        for i in 0..100 {
            writer.write(&format!("/w/{i}"), "").unwrap();
        }
    });
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 100 {
        let event = queue.wait(SOON).unwrap();
        assert_eq!(event.token, "token");
        seen.insert(event.path);
    }
    thread.join().unwrap();
    store.unwatch(&queue, "/w", "token").unwrap();
    store.write("/w", "").unwrap();
    assert_eq!(queue.wait(Duration::from_millis(1)), None);
    assert!(store.unwatch(&queue, "/w", "token").is_err());
}

#[test]
fn a_queues_descriptor_tells_when_to_look() {
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
    let store = StoreHandle::new().unwrap();
    let queue = store.watch_queue().unwrap();
    let epoll = Epoll::new().unwrap();
    let interest = EpollEvent::new(EventSet::IN, 0);
    epoll
        .ctl(
            ControlOperation::Add,
            std::os::fd::AsRawFd::as_raw_fd(&queue),
            interest,
        )
        .unwrap();
    let readable = || epoll.wait(0, &mut [EpollEvent::default()]).unwrap() == 1;
    assert!(!readable());
    store.watch(&queue, "/w", "t").unwrap();
    assert!(readable());
    assert!(queue.try_next().is_some());
    assert!(queue.try_next().is_none());
    assert!(!readable());
}

#[test]
fn watches_end_with_the_last_clone() {
    let store = StoreHandle::new().unwrap();
    let queue = store.watch_queue().unwrap();
    let conn = queue.conn();
    store.watch(&queue, "/w", "t").unwrap();
    let other = queue.clone();
    drop(queue);
    assert_eq!(store.with(|s| s.watches.count(conn)), 1);
    drop(other);
    assert_eq!(store.with(|s| s.watches.count(conn)), 0);
    assert!(store.with(|s| s.connection(conn).is_err()));
}

#[test]
fn special_watches_tell_of_domains() {
    let store = StoreHandle::new().unwrap();
    let queue = store.watch_queue().unwrap();
    for special in ["@introduceDomain", "@releaseDomain"] {
        store.watch(&queue, special, "s").unwrap();
        assert_eq!(queue.try_next().unwrap().path, special);
    }
    store.with(|s| s.introduce_domain(1));
    assert_eq!(queue.try_next().unwrap().path, "@introduceDomain");
    store.domain_shut_down(1);
    assert_eq!(queue.try_next().unwrap().path, "@releaseDomain");
    assert_eq!(queue.try_next(), None);
}

#[test]
fn transactions_are_repeated_until_they_go_through() {
    let store = StoreHandle::new().unwrap();
    store.write("/n", "0").unwrap();
    let count = |store: StoreHandle| {
        move || {
            for _ in 0..200 {
                store
                    .transaction(|t| {
                        let n: u32 = t.try_read("/n")?.unwrap().parse().unwrap();
                        t.write("/n", (n + 1).to_string())
                    })
                    .unwrap();
            }
        }
    };
    let threads: Vec<_> = (0..2)
        .map(|_| std::thread::spawn(count(store.clone())))
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(store.read_string("/n").unwrap(), "400");
    let failed = store.transaction(|t| {
        t.rm("/n")?;
        t.list("/none").map(drop)
    });
    assert!(failed.is_err());
    assert!(store.exists("/n").unwrap());
    assert_eq!(
        store.with(|s| s.connection(LOCAL).unwrap().transaction_ids().count()),
        0
    );
    let other = store.clone();
    let hopeless = store.transaction(|t| {
        other.write("/n", "x")?;
        t.write("/n", "y")
    });
    assert!(matches!(hopeless, Err(StoreError::Conflict { .. })));
}

#[test]
fn a_store_goes_on_after_save_and_restore() {
    let store = StoreHandle::new().unwrap();
    let guest = Wire(store.with(|s| s.introduce_domain(1)));
    store.write("/local/domain/1/data", "x").unwrap();
    store
        .set_perms("/local/domain/1/data", &[Perm::none(1), Perm::read(0)])
        .unwrap();
    let tx = store.with(|s| {
        s.set_perms(LOCAL, 0, b"@releaseDomain", &[Perm::read(0)])
            .unwrap();
        s.watch(guest.0, b"data", b"tok", Some(3)).unwrap();
        s.announce();
        guest.drain(s);
        let tx = s.start_transaction(guest.0).unwrap();
        // Half a request, and half an answer not yet read.
        guest.send(s, MessageType::READ, 0, b"data\0");
        s.consume_output(guest.0, 10);
        s.push_input(guest.0, &[2, 0, 0, 0, 77, 0]).unwrap();
        tx
    });
    let state = store.save();
    let text = serde_json::to_string(&state).unwrap();
    let again = serde_json::from_str::<StoreState>(&text).unwrap();
    assert_eq!(again, state);
    let restored = StoreHandle::restore(&again).unwrap();
    assert_eq!(restored.save(), state);
    assert_eq!(restored.dump(), store.dump());
    restored.with(|s| {
        let guest = Wire(s.introduce_domain(1));
        let rest = s.pending_output(guest.0).to_vec();
        assert_eq!(rest, [0, 0, 1, 0, 0, 0, b'x'], "{rest:?}");
        s.consume_output(guest.0, rest.len());
        s.push_input(guest.0, &[0, 0, 0, 0, 0, 0, 5, 0, 0, 0])
            .unwrap();
        s.push_input(guest.0, b"data\0").unwrap();
        let answers = guest.drain(s);
        assert_eq!(answers[0].payload, b"x");
        let end = guest.ask(s, MessageType::TRANSACTION_END, tx, b"T\0");
        assert_eq!(end, Err("EAGAIN".to_owned()));
        s.write(LOCAL, 0, b"/local/domain/1/data/k", b"").unwrap();
        s.announce();
        assert_eq!(guest.events(s), ["data/k tok"]);
    });
}

#[test]
fn senseless_saved_state_is_refused() {
    let store = StoreHandle::new().unwrap();
    store.with(|s| {
        let guest = s.introduce_domain(1);
        s.watch(guest, b"data", b"t", None).unwrap();
    });
    let state = serde_json::to_value(store.save()).unwrap();
    for (pointer, value) in [
        ("/nodes/0/path", serde_json::json!("//")),
        ("/nodes/0/perms", serde_json::json!([])),
        ("/domains/0/watches/0/path", serde_json::json!("@x")),
        (
            "/domains/0/input",
            serde_json::json!([
                255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0
            ]),
        ),
        (
            "/domains/0/input",
            serde_json::json!([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
    ] {
        let mut state = state.clone();
        *state.pointer_mut(pointer).unwrap() = value;
        let state = serde_json::from_value(state).unwrap();
        assert!(StoreHandle::restore(&state).is_err(), "{pointer}");
    }
}
