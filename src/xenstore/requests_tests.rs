//! Tests of the requests through the wire: arguments, answers and errors by
//! name.

use super::super::path::ABS_PATH_MAX;
use super::super::tests::{Wire, store_with_guest};
use super::*;

type Answer = Result<Vec<u8>, String>;

fn err(name: &str) -> Answer {
    Err(name.to_owned())
}

fn ok() -> Answer {
    Ok(OK.to_vec())
}

#[test]
fn values_and_directories() {
    let (mut s, dom0, _) = store_with_guest();
    let mut ask = |kind, payload: &[u8]| dom0.ask(&mut s, kind, 0, payload);
    assert_eq!(ask(MessageType::WRITE, b"/a/b\0val\0ue"), ok());
    assert_eq!(ask(MessageType::READ, b"/a/b\0"), Ok(b"val\0ue".to_vec()));
    assert_eq!(ask(MessageType::READ, b"/a\0"), Ok(vec![]));
    assert_eq!(ask(MessageType::READ, b"/x\0"), err("ENOENT"));
    assert_eq!(ask(MessageType::MKDIR, b"/a/c\0"), ok());
    assert_eq!(ask(MessageType::MKDIR, b"/a/b\0"), ok());
    assert_eq!(ask(MessageType::READ, b"/a/b\0"), Ok(b"val\0ue".to_vec()));
    assert_eq!(ask(MessageType::DIRECTORY, b"/a\0"), Ok(b"b\0c\0".to_vec()));
    assert_eq!(ask(MessageType::DIRECTORY, b"/a/c\0"), Ok(vec![]));
    assert_eq!(ask(MessageType::DIRECTORY, b"/x\0"), err("ENOENT"));
    assert_eq!(ask(MessageType::RM, b"/a\0"), ok());
    assert_eq!(ask(MessageType::RM, b"/a\0"), ok());
    assert_eq!(ask(MessageType::RM, b"/a/b\0"), err("ENOENT"));
    assert_eq!(ask(MessageType::RM, b"/\0"), err("EINVAL"));
}

#[test]
fn malformed_arguments_are_einval() {
    let (mut s, dom0, _) = store_with_guest();
    for (kind, payload) in [
        (MessageType::READ, &b""[..]),
        (MessageType::READ, b"/a"),
        (MessageType::READ, b"/a\0/b\0"),
        (MessageType::READ, b"\0"),
        (MessageType::READ, b"/a/\0"),
        (MessageType::READ, b"/\xff\0"),
        (MessageType::READ, b"@releaseDomain\0"),
        (MessageType::WRITE, b"/a"),
        (MessageType::WRITE, b"//\0x"),
        (MessageType::MKDIR, b"a/\0"),
        (MessageType::DIRECTORY, b"/a b\0"),
        (MessageType::DIRECTORY_PART, b"/\0"),
        (MessageType::DIRECTORY_PART, b"/\0\0"),
        (MessageType::DIRECTORY_PART, b"/\0-1\0"),
        (MessageType::DIRECTORY_PART, b"/\0x\0"),
        (MessageType::SET_PERMS, b"/local\0"),
        (MessageType::SET_PERMS, b"/local\0r\0"),
        (MessageType::SET_PERMS, b"/local\0q1\0"),
        (MessageType::SET_PERMS, b"/local\0r1"),
        (MessageType::WATCH, b"/local\0"),
        (MessageType::WATCH, b"/local\0t\0x\0"),
        (MessageType::WATCH, b"/local\0t\0\0"),
        (MessageType::WATCH, b"/local\0t\x001\x002\0"),
        (MessageType::WATCH, b"@nothing\0t\0"),
        (MessageType::UNWATCH, b"/local\0"),
        (MessageType::GET_DOMAIN_PATH, b"\0"),
        (MessageType::GET_DOMAIN_PATH, b"65536\0"),
        (MessageType::IS_DOMAIN_INTRODUCED, b"one\0"),
        (MessageType::TRANSACTION_END, b"X\0"),
    ] {
        let text = payload.escape_ascii();
        assert_eq!(
            dom0.ask(&mut s, kind, 0, payload),
            err("EINVAL"),
            "{kind:?} {text}"
        );
    }
    let long = format!("/{}\0", "a".repeat(ABS_PATH_MAX));
    assert_eq!(
        dom0.ask(&mut s, MessageType::READ, 0, long.as_bytes()),
        err("EINVAL")
    );
}

#[test]
fn directories_come_in_parts_when_they_are_long() {
    let (mut s, dom0, _) = store_with_guest();
    let names: Vec<String> = (0..900).map(|i| format!("child-number-{i:04}")).collect();
    for name in &names {
        let payload = format!("/big/{name}\0");
        dom0.ask(&mut s, MessageType::MKDIR, 0, payload.as_bytes())
            .unwrap();
    }
    assert_eq!(
        dom0.ask(&mut s, MessageType::DIRECTORY, 0, b"/big\0"),
        err("E2BIG")
    );
    let (mut list, mut generations) = (Vec::new(), Vec::new());
    loop {
        let payload = format!("/big\0{}\0", list.len());
        let part = dom0
            .ask(&mut s, MessageType::DIRECTORY_PART, 0, payload.as_bytes())
            .unwrap();
        let (generation, rest) = first_string(&part).unwrap();
        generations.push(generation.to_vec());
        list.extend(rest);
        if list.ends_with(b"\0\0") {
            break;
        }
    }
    list.pop();
    let got: Vec<&[u8]> = strings(&list).unwrap();
    assert_eq!(got, names.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert!(generations.len() > 1 && generations.iter().all(|g| *g == generations[0]));
    dom0.ask(&mut s, MessageType::RM, 0, b"/big/child-number-0000\0")
        .unwrap();
    let part = dom0
        .ask(&mut s, MessageType::DIRECTORY_PART, 0, b"/big\x000\0")
        .unwrap();
    assert_ne!(first_string(&part).unwrap().0, generations[0]);
    // An empty directory and an offset behind the list: just the end mark.
    dom0.ask(&mut s, MessageType::MKDIR, 0, b"/empty\0")
        .unwrap();
    for payload in [&b"/empty\x000\0"[..], b"/big\x00999999\0"] {
        let part = dom0
            .ask(&mut s, MessageType::DIRECTORY_PART, 0, payload)
            .unwrap();
        assert_eq!(first_string(&part).unwrap().1, b"\0");
    }
}

#[test]
fn permissions_go_over_the_wire() {
    let (mut s, dom0, guest) = store_with_guest();
    let perms = dom0.ask(&mut s, MessageType::GET_PERMS, 0, b"/local/domain/1\0");
    assert_eq!(perms, Ok(b"n0\0r1\0".to_vec()));
    assert_eq!(
        guest.ask(&mut s, MessageType::GET_PERMS, 0, b"data\0"),
        Ok(b"n1\0".to_vec())
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::GET_PERMS, 0, b"secret\0"),
        err("EACCES")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::SET_PERMS, 0, b"data\0n1\0b2\0"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::SET_PERMS, 0, b"data\0n2\0"),
        err("EPERM")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::SET_PERMS, 0, b"name\0n1\0"),
        err("EACCES")
    );
    let six = b"data\0n1\0r2\0r3\0r4\0r5\0r6\0";
    assert_eq!(
        guest.ask(&mut s, MessageType::SET_PERMS, 0, six),
        err("ENOSPC")
    );
}

#[test]
fn transactions_over_the_wire() {
    let (mut s, dom0, guest) = store_with_guest();
    let start = |s: &mut _, who: Wire| -> u32 {
        let id = who
            .ask(s, MessageType::TRANSACTION_START, 0, b"\0")
            .unwrap();
        String::from_utf8(id)
            .unwrap()
            .strip_suffix('\0')
            .unwrap()
            .parse()
            .unwrap()
    };
    let tx = start(&mut s, guest);
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_START, tx, b"\0"),
        err("EBUSY")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::WRITE, tx, b"data/x\x001"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::READ, tx, b"data/x\0"),
        Ok(b"1".to_vec())
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::READ, 0, b"data/x\0"),
        err("ENOENT")
    );
    // Numbers belong to one connection.
    assert_eq!(
        dom0.ask(&mut s, MessageType::READ, tx, b"/local\0"),
        err("ENOENT")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_END, tx, b"T\0"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::READ, 0, b"data/x\0"),
        Ok(b"1".to_vec())
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_END, tx, b"T\0"),
        err("ENOENT")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_END, 0, b"T\0"),
        err("ENOENT")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::READ, 99, b"data/x\0"),
        err("ENOENT")
    );
    let tx = start(&mut s, guest);
    guest
        .ask(&mut s, MessageType::READ, tx, b"data/x\0")
        .unwrap();
    dom0.ask(
        &mut s,
        MessageType::WRITE,
        0,
        b"/local/domain/1/data/x\x002",
    )
    .unwrap();
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_END, tx, b"T\0"),
        err("EAGAIN")
    );
    let tx = start(&mut s, guest);
    guest
        .ask(&mut s, MessageType::WRITE, tx, b"data/x\x003")
        .unwrap();
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_END, tx, b"F\0"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::READ, 0, b"data/x\0"),
        Ok(b"2".to_vec())
    );
    for _ in 0..10 {
        start(&mut s, guest);
    }
    assert_eq!(
        guest.ask(&mut s, MessageType::TRANSACTION_START, 0, b"\0"),
        err("ENOSPC")
    );
    // A watch takes no part in a transaction; the number is not even looked at.
    assert_eq!(
        guest.ask(&mut s, MessageType::WATCH, 4711, b"data\0t\0"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::RESET_WATCHES, 0, b"\0"),
        ok()
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::UNWATCH, 0, b"data\0t\0"),
        err("ENOENT")
    );
    start(&mut s, guest);
}

#[test]
fn watches_over_the_wire() {
    let (mut s, dom0, guest) = store_with_guest();
    guest.send(&mut s, MessageType::WATCH, 0, b"data\0to ken\0");
    let messages = guest.drain(&mut s);
    let kinds: Vec<MessageType> = messages.iter().map(|m| m.kind).collect();
    assert_eq!(kinds, [MessageType::WATCH, MessageType::WATCH_EVENT]);
    assert_eq!(messages[1].payload, b"data\0to ken\0");
    assert_eq!(
        guest.ask(&mut s, MessageType::WATCH, 0, b"data\0to ken\0"),
        err("EEXIST")
    );
    assert_eq!(
        guest.ask(&mut s, MessageType::WATCH, 0, b"data\0other\0"),
        ok()
    );
    dom0.ask(&mut s, MessageType::WRITE, 0, b"/local/domain/1/data/k\0v")
        .unwrap();
    assert_eq!(guest.events(&mut s), ["data/k to ken", "data/k other"]);
    assert_eq!(
        guest.ask(&mut s, MessageType::UNWATCH, 0, b"data\0other\0"),
        ok()
    );
    // The absolute form names the same watch, whose events stay relative.
    let absolute = b"/local/domain/1/data\0to ken\0";
    assert_eq!(
        guest.ask(&mut s, MessageType::WATCH, 0, absolute),
        err("EEXIST")
    );
    assert_eq!(guest.ask(&mut s, MessageType::UNWATCH, 0, absolute), ok());
    assert_eq!(
        guest.ask(&mut s, MessageType::UNWATCH, 0, absolute),
        err("ENOENT")
    );
    for i in 0..128 {
        let payload = format!("data\0{i}\0");
        assert_eq!(
            guest.ask(&mut s, MessageType::WATCH, 0, payload.as_bytes()),
            ok()
        );
    }
    assert_eq!(
        guest.ask(&mut s, MessageType::WATCH, 0, b"data\0more\0"),
        err("ENOSPC")
    );
}

#[test]
fn special_paths_open_up_by_permission() {
    let (mut s, dom0, guest) = store_with_guest();
    // it can be watched without permission, but events there are none
    let early = b"@releaseDomain\0early\0";
    assert_eq!(guest.ask(&mut s, MessageType::WATCH, 0, early), ok());
    guest.events(&mut s);
    s.domain_shut_down(1);
    assert_eq!(guest.events(&mut s), [""; 0]);
    assert_eq!(guest.ask(&mut s, MessageType::UNWATCH, 0, early), ok());
    let perms = b"@releaseDomain\0n0\0r1\0";
    assert_eq!(
        guest.ask(&mut s, MessageType::SET_PERMS, 0, perms),
        err("EACCES")
    );
    assert_eq!(dom0.ask(&mut s, MessageType::SET_PERMS, 0, perms), ok());
    let got = guest.ask(&mut s, MessageType::GET_PERMS, 0, b"@releaseDomain\0");
    assert_eq!(got, Ok(b"n0\0r1\0".to_vec()));
    let got = guest.ask(&mut s, MessageType::GET_PERMS, 0, b"@introduceDomain\0");
    assert_eq!(got, err("EACCES"));
    for (path, depth) in [
        ("@releaseDomain", ""),
        ("@releaseDomain", "1\0"),
        ("@releaseDomain/2", ""),
    ] {
        let payload = format!("{path}\0{}{}\0{depth}", path.len(), depth.len());
        assert_eq!(
            guest.ask(&mut s, MessageType::WATCH, 0, payload.as_bytes()),
            ok()
        );
    }
    s.introduce_domain(2);
    s.introduce_domain(3);
    assert!(guest.events(&mut s).is_empty());
    s.release_domain(3);
    assert_eq!(
        guest.events(&mut s),
        ["@releaseDomain 140", "@releaseDomain/3 142"]
    );
    s.domain_shut_down(2);
    let all = [
        "@releaseDomain/2 160",
        "@releaseDomain 140",
        "@releaseDomain/2 142",
    ];
    assert_eq!(guest.events(&mut s), all);
}

#[test]
fn requests_about_domains() {
    let (mut s, dom0, guest) = store_with_guest();
    let path = guest.ask(&mut s, MessageType::GET_DOMAIN_PATH, 0, b"5\0");
    assert_eq!(path, Ok(b"/local/domain/5\0".to_vec()));
    let known = |s: &mut _, id: &[u8]| dom0.ask(s, MessageType::IS_DOMAIN_INTRODUCED, 0, id);
    assert_eq!(known(&mut s, b"1\0"), Ok(b"T\0".to_vec()));
    assert_eq!(known(&mut s, b"2\0"), Ok(b"F\0".to_vec()));
    for kind in [0, 8, 9, 18, 19] {
        let answer = guest.ask(&mut s, MessageType(kind), 0, b"1\x001\x001\0");
        assert_eq!(answer, err("EACCES"), "{kind}");
    }
    for kind in [16, 20, 23, 24, 25, 26, 27, 1 << 31] {
        assert_eq!(
            guest.ask(&mut s, MessageType(kind), 0, b"1\0"),
            err("ENOSYS"),
            "{kind}"
        );
        assert_eq!(
            dom0.ask(&mut s, MessageType(kind), 0, b""),
            err("ENOSYS"),
            "{kind}"
        );
    }
    assert_eq!(guest.ask(&mut s, MessageType(15), 0, b"x"), err("ENOSYS"));
    assert_eq!(
        dom0.ask(&mut s, MessageType::INTRODUCE, 0, b"1\x002\x003\0"),
        ok()
    );
    assert_eq!(
        dom0.ask(&mut s, MessageType::INTRODUCE, 0, b"9\x002\x003\0"),
        err("ENOENT")
    );
    assert_eq!(
        dom0.ask(&mut s, MessageType::RELEASE, 0, b"1\0"),
        err("EACCES")
    );
}

#[test]
fn answers_that_wait_stop_the_reading_and_nothing_is_lost() {
    let (mut s, _, guest) = store_with_guest();
    let mut asked = 0;
    while s.wanted(guest.0).unwrap() > 0 {
        guest.send(&mut s, MessageType::READ, 0, b"data\0");
        asked += 1;
    }
    assert_eq!(asked, super::super::quota::OUTSTANDING_REPLIES);
    assert_eq!(guest.drain(&mut s).len(), asked);
    assert!(s.wanted(guest.0).unwrap() > 0);
}
