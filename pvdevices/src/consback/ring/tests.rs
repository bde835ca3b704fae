//! The ring against a frontend made for the purpose, honest and not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

/// A page in memory.
#[derive(Debug)]
pub(crate) struct TestPage(Mutex<Vec<u8>>);

impl TestPage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; 4096])))
    }
}

impl SharedPage for TestPage {
    fn load_u32(&self, off: usize) -> u32 {
        let page = self.0.lock().unwrap();
        u32::from_le_bytes(page[off..off + 4].try_into().unwrap())
    }

    fn store_u32(&self, off: usize, value: u32) {
        self.0.lock().unwrap()[off..off + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0.lock().unwrap()[off..off + buf.len()]);
    }

    fn write(&self, off: usize, data: &[u8]) {
        self.0.lock().unwrap()[off..off + data.len()].copy_from_slice(data);
    }
}

/// Counts events.
#[derive(Debug, Default)]
pub(crate) struct Events(pub(crate) AtomicUsize);

impl Notify for Events {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The domain's side of the ring.
pub(crate) struct Frontend<P = Arc<TestPage>>(pub(crate) P);

impl<P: SharedPage> Frontend<P> {
    /// Writes what fits, as a frontend does.
    pub(crate) fn print(&self, data: &[u8]) -> usize {
        let (cons, prod) = (self.0.load_u32(OUT_CONS), self.0.load_u32(OUT_PROD));
        let room = XENCONS_OUT_SIZE - prod.wrapping_sub(cons) as usize;
        let count = room.min(data.len());
        for (at, byte) in data[..count].iter().enumerate() {
            let place = prod.wrapping_add(at as u32) as usize % XENCONS_OUT_SIZE;
            self.0.write(OUT + place, &[*byte]);
        }
        self.0.store_u32(OUT_PROD, prod.wrapping_add(count as u32));
        count
    }

    pub(crate) fn read(&self, max: usize) -> Vec<u8> {
        let (cons, prod) = (self.0.load_u32(IN_CONS), self.0.load_u32(IN_PROD));
        let count = max.min(prod.wrapping_sub(cons) as usize);
        let mut data = vec![0; count];
        for (at, byte) in data.iter_mut().enumerate() {
            let place = cons.wrapping_add(at as u32) as usize % XENCONS_IN_SIZE;
            self.0.read(IN + place, std::slice::from_mut(byte));
        }
        self.0.store_u32(IN_CONS, cons.wrapping_add(count as u32));
        data
    }

    /// Makes the backend's next look find more output than the ring holds.
    pub(crate) fn overrun(&self) {
        let cons = self.0.load_u32(OUT_CONS);
        let beyond = cons.wrapping_add(XENCONS_OUT_SIZE as u32 + 1);
        self.0.store_u32(OUT_PROD, beyond);
    }

    pub(crate) fn connection(&self) -> u8 {
        let mut flag = [0];
        self.0.read(CONNECTION, &mut flag);
        flag[0]
    }
}

/// A user who reads and types at will.
#[derive(Debug, Default)]
struct User {
    seen: Vec<u8>,
    /// Bytes taken before writing stalls.
    patience: usize,
    typing: VecDeque<u8>,
}

impl ConsoleEnd for User {
    fn write(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.patience);
        self.patience -= count;
        self.seen.extend(&data[..count]);
        count
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.typing.len());
        for (place, byte) in buf.iter_mut().zip(self.typing.drain(..count)) {
            *place = byte;
        }
        count
    }
}

fn ring_at(start: u32) -> (Frontend, Arc<Events>, ConsoleRing) {
    let page = TestPage::new();
    for index in [IN_CONS, IN_PROD, OUT_CONS, OUT_PROD] {
        page.store_u32(index, start);
    }
    let events = Arc::new(Events::default());
    let ring = ConsoleRing::new(Box::new(Arc::clone(&page)), Box::new(Arc::clone(&events)));
    (Frontend(page), events, ring)
}

#[test]
fn output_is_consumed_at_once_and_answered_by_one_event() {
    let (frontend, events, mut ring) = ring_at(0);
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    assert_eq!(frontend.print(b"hello\r\n"), 7);
    let pumped = ring.pump(&mut user).unwrap();
    assert_eq!(
        pumped,
        Pumped {
            to_user: 7,
            wants_input: true,
            ..Pumped::default()
        }
    );
    assert_eq!(user.seen, b"hello\r\n");
    assert_eq!(frontend.0.load_u32(OUT_CONS), 7);
    assert_eq!(events.0.load(Ordering::SeqCst), 1);
    ring.pump(&mut user).unwrap();
    assert_eq!(
        events.0.load(Ordering::SeqCst),
        1,
        "nothing moved, nothing to say"
    );
}

#[test]
fn indices_run_through_the_ends_of_the_ring_and_of_the_number() {
    let (frontend, _, mut ring) = ring_at(u32::MAX - 1000);
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    let text: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
    let mut sent = 0;
    while sent < text.len() {
        sent += frontend.print(&text[sent..]);
        ring.pump(&mut user).unwrap();
    }
    assert_eq!(user.seen, text);
    user.typing.extend(&text);
    let mut read = Vec::new();
    while read.len() < text.len() {
        ring.pump(&mut user).unwrap();
        read.extend(frontend.read(700));
    }
    assert_eq!(read, text);
}

#[test]
fn a_slow_listener_stalls_the_domain_and_loses_nothing() {
    let (frontend, _, mut ring) = ring_at(0);
    let mut user = User {
        patience: 100,
        ..User::default()
    };
    assert_eq!(frontend.print(&[b'x'; 3000]), XENCONS_OUT_SIZE);
    let pumped = ring.pump(&mut user).unwrap();
    assert!(pumped.stalled);
    assert_eq!(frontend.0.load_u32(OUT_CONS), 100);
    assert_eq!(frontend.print(&[b'x'; 3000]), 100);
    user.patience = 5000;
    assert!(!ring.pump(&mut user).unwrap().stalled);
    assert_eq!(user.seen.len(), XENCONS_OUT_SIZE + 100);
}

#[test]
fn a_domain_that_does_not_read_stops_only_its_input() {
    let (frontend, _, mut ring) = ring_at(0);
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    user.typing.extend(std::iter::repeat_n(b'k', 3000));
    let pumped = ring.pump(&mut user).unwrap();
    assert_eq!(
        (pumped.to_domain, pumped.wants_input),
        (XENCONS_IN_SIZE, false)
    );
    assert_eq!(user.typing.len(), 3000 - XENCONS_IN_SIZE);
    frontend.print(b"still here");
    assert_eq!(ring.pump(&mut user).unwrap().to_user, 10);
    assert_eq!(frontend.read(10), b"kkkkkkkkkk");
    assert_eq!(ring.pump(&mut user).unwrap().to_domain, 10);
}

/// A page whose domain has always printed more.
struct Flood(Arc<TestPage>);

impl SharedPage for Flood {
    fn load_u32(&self, off: usize) -> u32 {
        match off {
            OUT_PROD => self
                .0
                .load_u32(OUT_CONS)
                .wrapping_add(XENCONS_OUT_SIZE as u32),
            _ => self.0.load_u32(off),
        }
    }

    fn store_u32(&self, off: usize, value: u32) {
        self.0.store_u32(off, value);
    }

    fn read(&self, off: usize, buf: &mut [u8]) {
        self.0.read(off, buf);
    }

    fn write(&self, off: usize, data: &[u8]) {
        self.0.write(off, data);
    }
}

#[test]
fn a_flood_does_not_hold_the_event_loop() {
    let events = Box::new(Events::default());
    let mut ring = ConsoleRing::new(Box::new(Flood(TestPage::new())), events);
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    let pumped = ring.pump(&mut user).unwrap();
    assert!(pumped.more);
    assert!(pumped.to_user <= BUDGET + XENCONS_OUT_SIZE);
}

#[test]
fn impossible_indices_close_the_console() {
    let too_far = XENCONS_OUT_SIZE as u32 + 1;
    for (index, value, name) in [
        (OUT_PROD, too_far, "out"),
        (OUT_PROD, u32::MAX, "out"),
        (IN_CONS, 1, "in"),
    ] {
        let (frontend, events, mut ring) = ring_at(0);
        assert_eq!(frontend.connection(), CONNECTED);
        frontend.0.store_u32(index, value);
        let mut user = User {
            patience: usize::MAX,
            ..User::default()
        };
        let violation = ring.pump(&mut user).unwrap_err();
        assert_eq!(violation.ring, name);
        assert!(ring.is_closed());
        assert_eq!(frontend.connection(), DISCONNECTED);
        assert_eq!(events.0.load(Ordering::SeqCst), 1);
        frontend.0.store_u32(index, 0);
        assert_eq!(ring.pump(&mut user), Ok(Pumped::default()));
    }
}

#[test]
fn a_domain_that_forges_the_backends_indices_is_overruled() {
    let (frontend, _, mut ring) = ring_at(0);
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    frontend.print(b"abc");
    frontend.0.store_u32(OUT_CONS, 77);
    frontend.0.store_u32(IN_PROD, 99);
    user.typing.extend(b"k");
    ring.pump(&mut user).unwrap();
    assert_eq!(user.seen, b"abc");
    assert_eq!(frontend.0.load_u32(OUT_CONS), 3);
    assert_eq!(frontend.0.load_u32(IN_PROD), 1);
}

#[test]
fn a_ring_is_taken_up_where_it_stands() {
    let (frontend, _, mut ring) = ring_at(5);
    let mut user = User {
        patience: 2,
        ..User::default()
    };
    frontend.print(b"abcdef");
    ring.pump(&mut user).unwrap();
    drop(ring);
    assert_eq!(frontend.connection(), DISCONNECTED);
    let page = Box::new(Arc::clone(&frontend.0));
    let mut ring = ConsoleRing::new(page, Box::new(Events::default()));
    user.patience = 100;
    ring.pump(&mut user).unwrap();
    assert_eq!(user.seen, b"abcdef");
}

#[test]
fn two_threads_see_every_byte_once() {
    /// The same page with real atomics for its indices.
    struct Atomic(Arc<TestPage>, Arc<[AtomicU32; 4]>);
    impl SharedPage for Atomic {
        fn load_u32(&self, off: usize) -> u32 {
            self.1[(off - IN_CONS) / 4].load(Ordering::Acquire)
        }
        fn store_u32(&self, off: usize, value: u32) {
            self.1[(off - IN_CONS) / 4].store(value, Ordering::Release);
        }
        fn read(&self, off: usize, buf: &mut [u8]) {
            self.0.read(off, buf);
        }
        fn write(&self, off: usize, data: &[u8]) {
            self.0.write(off, data);
        }
    }
    let page = TestPage::new();
    let indices: Arc<[AtomicU32; 4]> = Arc::default();
    let atomic = Atomic(Arc::clone(&page), Arc::clone(&indices));
    let mut ring = ConsoleRing::new(Box::new(atomic), Box::new(Events::default()));
    let guest = std::thread::spawn(move || {
        for n in 0..50_000u32 {
            let byte = (n % 253) as u8;
            while n.wrapping_sub(indices[2].load(Ordering::Acquire)) as usize >= XENCONS_OUT_SIZE {
                std::thread::yield_now();
            }
            page.write(OUT + n as usize % XENCONS_OUT_SIZE, &[byte]);
            indices[3].store(n + 1, Ordering::Release);
        }
    });
    let mut user = User {
        patience: usize::MAX,
        ..User::default()
    };
    while user.seen.len() < 50_000 {
        ring.pump(&mut user).unwrap();
    }
    guest.join().unwrap();
    assert!(
        user.seen
            .iter()
            .enumerate()
            .all(|(n, &byte)| byte == (n % 253) as u8)
    );
}

/// What a domain and a user may do in turn.
#[derive(Debug, Clone)]
enum Step {
    Print(Vec<u8>),
    Read(usize),
    Type(Vec<u8>),
    Patience(usize),
    Pump,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..3000);
    prop_oneof![
        bytes().prop_map(Step::Print),
        (0usize..2000).prop_map(Step::Read),
        bytes().prop_map(Step::Type),
        (0usize..3000).prop_map(Step::Patience),
        Just(Step::Pump),
    ]
}

proptest! {
    #[test]
    fn honest_sides_lose_nothing(start: u32, steps in prop::collection::vec(step(), 0..60)) {
        let (frontend, _, mut ring) = ring_at(start);
        let mut user = User::default();
        let (mut printed, mut typed, mut read) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Print(data) => {
                    let count = frontend.print(&data);
                    printed.extend(&data[..count]);
                }
                Step::Read(max) => read.extend(frontend.read(max)),
                Step::Type(data) => {
                    typed.extend(&data);
                    user.typing.extend(data);
                }
                Step::Patience(more) => user.patience = more,
                Step::Pump => { ring.pump(&mut user).unwrap(); }
            }
        }
        user.patience = usize::MAX;
        while read.len() < typed.len() || user.seen.len() < printed.len() {
            ring.pump(&mut user).unwrap();
            read.extend(frontend.read(usize::MAX));
        }
        prop_assert_eq!(user.seen, printed);
        prop_assert_eq!(read, typed);
    }

    #[test]
    fn no_page_contents_harm_the_backend(
        indices: [u32; 4],
        later: [u32; 4],
        patience in 0usize..5000,
        typing in 0usize..5000,
    ) {
        let page = TestPage::new();
        let set = |values: [u32; 4]| {
            for (at, value) in values.into_iter().enumerate() {
                page.store_u32(IN_CONS + 4 * at, value);
            }
        };
        set(indices);
        let events = Box::new(Events::default());
        let mut ring = ConsoleRing::new(Box::new(Arc::clone(&page)), events);
        let mut user = User { patience, ..User::default() };
        user.typing.extend(std::iter::repeat_n(b't', typing));
        let first = ring.pump(&mut user);
        set(later);
        let second = ring.pump(&mut user);
        prop_assert!(user.seen.len() <= 2 * (BUDGET + XENCONS_OUT_SIZE));
        prop_assert_eq!(ring.is_closed(), first.is_err() || second.is_err());
    }
}
