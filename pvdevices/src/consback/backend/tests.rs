//! A backend with a real character device.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use xenner_console::config::{ChardevBackend, ChardevConfig, SocketAddress, SocketRole};
use xenner_console::{ChardevOptions, InheritedFds};

use super::super::ring::tests::{Events, Frontend, TestPage};
use super::*;
use crate::domain::SharedPage;

struct Rig {
    backend: ConsoleBackend,
    frontend: Frontend,
    user: UnixStream,
    _dir: tempfile::TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let address = SocketAddress::Unix(path.clone());
    let role = SocketRole::Server { wait: false };
    let socket = ChardevBackend::Socket {
        address,
        role,
        nodelay: false,
    };
    let config = ChardevConfig::new("serial0", socket);
    let options = ChardevOptions::default();
    let end = Chardev::open(&config, options, &mut InheritedFds::default()).unwrap();
    let mut backend = ConsoleBackend::new(end);
    let page = TestPage::new();
    backend.connect(Box::new(Arc::clone(&page)), Box::new(Events::default()));
    let user = UnixStream::connect(&path).unwrap();
    user.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut rig = Rig {
        backend,
        frontend: Frontend(page),
        user,
        _dir: dir,
    };
    rig.turn();
    assert!(rig.backend.end().is_connected());
    rig
}

impl Rig {
    /// One turn of an event loop. True if there was something to do.
    fn turn(&mut self) -> bool {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let mut fds = [PollFd::new(&self.backend, PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0;
        if ready {
            self.backend.on_ready();
        }
        ready
    }

    fn seen(&mut self) -> Vec<u8> {
        let mut buf = vec![0; 1 << 20];
        let count = self.user.read(&mut buf).unwrap_or(0);
        buf.truncate(count);
        buf
    }
}

#[test]
fn bytes_pass_both_ways() {
    let mut rig = rig();
    rig.frontend.print(b"login: ");
    rig.backend.on_guest_event();
    assert_eq!(rig.seen(), b"login: ");
    rig.user.write_all(b"root\n").unwrap();
    while rig.turn() {}
    assert_eq!(rig.frontend.read(100), b"root\n");
    assert_eq!(rig.backend.take_events(), [ChardevEvent::Opened]);
}

#[test]
fn a_paste_larger_than_the_ring_arrives_as_the_domain_reads() {
    let mut rig = rig();
    let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let mut user = rig.user.try_clone().unwrap();
    let paste = text.clone();
    let typist = std::thread::spawn(move || user.write_all(&paste).unwrap());
    let mut got = Vec::new();
    while got.len() < text.len() {
        let part = rig.frontend.read(usize::MAX);
        if part.is_empty() {
            rig.turn();
        } else {
            got.extend(part);
            rig.backend.on_guest_event();
        }
    }
    typist.join().unwrap();
    assert_eq!(got, text);
    assert!(!rig.turn(), "nothing is left to do");
}

#[test]
fn a_slow_user_gets_everything_and_the_loop_sleeps_meanwhile() {
    let mut rig = rig();
    let text: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 3 {
        let count = rig.frontend.print(&text[sent..]);
        sent += count;
        rig.backend.on_guest_event();
        quiet = if count == 0 && !rig.turn() {
            quiet + 1
        } else {
            0
        };
    }
    assert!(sent < text.len(), "the domain is stalled");
    let mut got = Vec::new();
    while got.len() < text.len() {
        got.extend(rig.seen());
        rig.turn();
        sent += rig.frontend.print(&text[sent..]);
        rig.backend.on_guest_event();
    }
    assert_eq!(got, text);
}

#[test]
fn hypervisor_output_comes_between_with_carriage_returns() {
    let mut rig = rig();
    rig.backend.write_debug(b"(early) one\ntwo\r\n");
    rig.frontend.print(b"three");
    rig.backend.on_guest_event();
    assert_eq!(rig.seen(), b"(early) one\r\ntwo\r\nthree");
}

#[test]
fn hypervisor_output_beyond_the_bound_is_counted() {
    let mut rig = rig();
    for _ in 0..2000 {
        rig.backend.write_debug(&[b'd'; 1000]);
    }
    assert!(rig.backend.debug.len() <= DEBUG_BOUND);
    let mut got = Vec::new();
    while !got.ends_with(b"lost\r\n") {
        got.extend(rig.seen());
        rig.turn();
    }
    let text = String::from_utf8(got).unwrap();
    let (body, note) = text.split_once("\r\nxenner: ").unwrap();
    let lost: usize = note.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(body.len() + lost, 2_000_000);
}

#[test]
fn a_violation_is_told_once_and_a_new_domain_starts_afresh() {
    let mut rig = rig();
    rig.frontend.0.write(3084, &u32::MAX.to_le_bytes());
    for _ in 0..3 {
        rig.backend.on_guest_event();
    }
    let said = String::from_utf8(rig.seen()).unwrap();
    assert_eq!(said.matches("broke the ring's protocol").count(), 1);
    let page = TestPage::new();
    rig.backend
        .connect(Box::new(Arc::clone(&page)), Box::new(Events::default()));
    rig.frontend = Frontend(page);
    rig.frontend.print(b"again");
    rig.backend.on_guest_event();
    assert_eq!(rig.seen(), b"again");
}

#[test]
fn the_last_words_of_a_domain_are_taken() {
    let mut rig = rig();
    let mut user = rig.user.try_clone().unwrap();
    user.set_read_timeout(None).unwrap();
    while !rig.backend.pump() {
        rig.frontend.print(&[b'x'; 2048]);
    }
    rig.frontend.print(b"");
    let slow = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        let mut all = Vec::new();
        user.read_to_end(&mut all).unwrap();
        all
    });
    rig.backend.finish(Duration::from_secs(5));
    let (cons, prod) = (&mut [0; 4], &mut [0; 4]);
    rig.frontend.0.read(3080, cons);
    rig.frontend.0.read(3084, prod);
    assert_eq!(cons, prod, "the ring is empty");
    let printed = u32::from_le_bytes(*prod) as usize;
    drop(rig);
    assert_eq!(slow.join().unwrap().len(), printed);
}

#[test]
fn finishing_gives_up_on_a_listener_that_does_not_read() {
    let mut rig = rig();
    while !rig.backend.pump() {
        rig.frontend.print(&[b'x'; 2048]);
    }
    let start = Instant::now();
    rig.backend.finish(Duration::from_millis(100));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_console_moves_with_its_domain() {
    let mut old = rig();
    while !old.backend.pump() {
        old.frontend.print(&[b'x'; 2048]);
    }
    old.backend.write_debug(b"debug\n");
    let state = old.backend.save();
    assert!(!state.closed && !state.end.queued.is_empty());
    assert_eq!(state.debug, b"debug\r\n");

    let mut new = rig();
    let page = Arc::clone(&old.frontend.0);
    new.backend
        .connect(Box::new(page), Box::new(Events::default()));
    new.backend.restore(&state);
    let mut got = Vec::new();
    while !got.ends_with(b"debug\r\n") {
        got.extend(new.seen());
        new.turn();
    }

    let closed = ConsoleState {
        closed: true,
        ..ConsoleState::default()
    };
    new.backend.restore(&closed);
    new.frontend = Frontend(Arc::clone(&old.frontend.0));
    new.frontend.print(b"unheard");
    new.backend.on_guest_event();
    assert_eq!(new.seen(), b"");
}

#[test]
fn a_backend_may_be_used_by_any_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<ConsoleBackend>();
}
