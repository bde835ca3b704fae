//! Tests of which changes are told to whom, and how.

use super::super::server::Xenstore;
use super::super::tests::{Wire, store_with_guest};
use super::super::wire::MessageType;

fn watch(s: &mut Xenstore, who: Wire, path: &str, token: &str) {
    s.watch(who.0, path.as_bytes(), token.as_bytes(), None)
        .unwrap();
    s.announce();
    who.events(s);
}

fn watch_depth(s: &mut Xenstore, who: Wire, path: &str, depth: u32) {
    s.watch(
        who.0,
        path.as_bytes(),
        format!("d{depth}").as_bytes(),
        Some(depth),
    )
    .unwrap();
    s.announce();
    who.events(s);
}

fn write(s: &mut Xenstore, who: Wire, path: &str) {
    s.write(who.0, 0, path.as_bytes(), b"v").unwrap();
    s.announce();
}

fn rm(s: &mut Xenstore, who: Wire, path: &str) {
    s.rm(who.0, 0, path.as_bytes()).unwrap();
    s.announce();
}

#[test]
fn changes_at_and_below_are_told_in_the_form_of_the_watch() {
    let (mut s, dom0, guest) = store_with_guest();
    watch(&mut s, guest, "data", "rel");
    watch(&mut s, guest, "/local/domain/1/data", "abs");
    watch(&mut s, dom0, "/", "root");
    write(&mut s, guest, "data/k");
    assert_eq!(
        guest.events(&mut s),
        ["data/k rel", "/local/domain/1/data/k abs"]
    );
    assert_eq!(dom0.events(&mut s), ["/local/domain/1/data/k root"]);
    write(&mut s, dom0, "/local/domain/1/data");
    assert_eq!(
        guest.events(&mut s),
        ["data rel", "/local/domain/1/data abs"]
    );
    write(&mut s, dom0, "/local/domain/1/database");
    assert!(guest.events(&mut s).is_empty());
}

#[test]
fn every_kind_of_change_is_told() {
    let (mut s, dom0, guest) = store_with_guest();
    watch(&mut s, dom0, "/local/domain/1/data", "t");
    for (kind, payload) in [
        (MessageType::WRITE, &b"data/k\0v"[..]),
        (MessageType::WRITE, b"data/k\0v"),
        (MessageType::SET_PERMS, b"data/k\0n1\0r2\0"),
        (MessageType::RM, b"data/k\0"),
        (MessageType::MKDIR, b"data/k\0"),
    ] {
        guest.ask(&mut s, kind, 0, payload).unwrap();
        assert_eq!(
            dom0.events(&mut s),
            ["/local/domain/1/data/k t"],
            "{kind:?}"
        );
    }
    guest
        .ask(&mut s, MessageType::MKDIR, 0, b"data/k\0")
        .unwrap();
    guest
        .ask(&mut s, MessageType::RM, 0, b"data/nothing\0")
        .unwrap();
    assert!(dom0.events(&mut s).is_empty());
}

#[test]
fn removal_tells_watches_below_of_their_own_path() {
    let (mut s, dom0, guest) = store_with_guest();
    write(&mut s, guest, "data/a/b/c");
    watch(&mut s, guest, "data/a/b", "b");
    watch(&mut s, guest, "data/a/b/c", "c");
    watch(&mut s, guest, "data/a/b/none", "none");
    watch(&mut s, guest, "data", "top");
    rm(&mut s, dom0, "/local/domain/1/data/a");
    assert_eq!(
        guest.events(&mut s),
        ["data/a/b/c c", "data/a/b b", "data/a top"]
    );
}

#[test]
fn watches_may_wait_for_what_does_not_exist() {
    let (mut s, _, guest) = store_with_guest();
    watch(&mut s, guest, "data/later/on", "t");
    write(&mut s, guest, "data/later");
    assert!(guest.events(&mut s).is_empty());
    write(&mut s, guest, "data/later/on/deep");
    assert_eq!(guest.events(&mut s), ["data/later/on/deep t"]);
}

#[test]
fn depth_limits_what_is_told() {
    let (mut s, dom0, _) = store_with_guest();
    watch_depth(&mut s, dom0, "/w", 0);
    watch_depth(&mut s, dom0, "/w", 1);
    // Both are told of the highest new node in their reach.
    write(&mut s, dom0, "/w/a/b");
    assert_eq!(dom0.events(&mut s), ["/w d0", "/w/a d1"]);
    write(&mut s, dom0, "/w/a/b");
    assert!(dom0.events(&mut s).is_empty());
    write(&mut s, dom0, "/w/a");
    assert_eq!(dom0.events(&mut s), ["/w/a d1"]);
    rm(&mut s, dom0, "/w/a/b");
    assert!(dom0.events(&mut s).is_empty());
    rm(&mut s, dom0, "/w");
    assert_eq!(dom0.events(&mut s), ["/w d0", "/w d1"]);
}

#[test]
fn events_of_hidden_nodes_are_kept_back() {
    let (mut s, dom0, guest) = store_with_guest();
    watch(&mut s, guest, "/", "all");
    // Neither the node nor its directory is readable.
    write(&mut s, dom0, "/elsewhere/x");
    write(&mut s, dom0, "/local/domain/1/secret/x");
    assert!(guest.events(&mut s).is_empty());
    rm(&mut s, dom0, "/elsewhere");
    assert!(guest.events(&mut s).is_empty());
    // Who may list the directory knows of the node.
    write(&mut s, dom0, "/local/domain/1/secret");
    assert_eq!(guest.events(&mut s), ["/local/domain/1/secret all"]);
    // Losing the right to read is the last thing to be told.
    write(&mut s, dom0, "/local/domain/1/data/d/x");
    guest.events(&mut s);
    for (path, perm, told) in [
        ("data/d", "n0", true),
        ("data/d/x", "n0", true),
        ("data/d/x", "n3", false),
        ("data/d/x", "r3", true),
    ] {
        let payload = format!("/local/domain/1/{path}\0{perm}\0");
        dom0.ask(&mut s, MessageType::SET_PERMS, 0, payload.as_bytes())
            .unwrap();
        assert_eq!(!guest.events(&mut s).is_empty(), told, "{path} {perm}");
    }
}

#[test]
fn transactions_tell_at_the_commit() {
    let (mut s, dom0, guest) = store_with_guest();
    watch(&mut s, dom0, "/local/domain/1/data", "t");
    for commit in [false, true] {
        let tx = s.start_transaction(guest.0).unwrap();
        for key in ["data/b/c", "data/a"] {
            s.write(guest.0, tx, key.as_bytes(), b"").unwrap();
        }
        s.announce();
        assert!(dom0.events(&mut s).is_empty());
        s.end_transaction(guest.0, tx, commit).unwrap();
        s.announce();
    }
    let told = ["a", "b", "b/c"].map(|key| format!("/local/domain/1/data/{key} t"));
    assert_eq!(dom0.events(&mut s), told);
}

#[test]
fn closing_takes_watches_away() {
    let (mut s, dom0, guest) = store_with_guest();
    watch(&mut s, dom0, "/local", "t");
    s.close(dom0.0);
    write(&mut s, guest, "data/k");
    assert_eq!(s.watches.count(dom0.0), 0);
    assert!(!s.is_transport_awaited());
    s.release_domain(1);
    assert!(!s.is_introduced(1));
    assert!(!s.release_domain(1));
}

#[test]
fn an_event_too_long_for_a_message_names_the_watched_path() {
    let (mut s, dom0, _) = store_with_guest();
    let token = "t".repeat(3900);
    watch(&mut s, dom0, "/w", &token);
    write(&mut s, dom0, &format!("/w/{}", "n".repeat(300)));
    assert_eq!(dom0.events(&mut s), [format!("/w {token}")]);
}
