//! Tests of the event loop's end: real sockets, a ring in memory, threads.

use super::super::ring::{MemoryPage, offset};
use super::super::wire::{Assembler, HEADER_LEN, MessageType, Request, encode};
use super::*;
use event_manager::{EventManager, SubscriberOps};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

/// A service in a loop of its own.
pub struct Running {
    pub store: StoreHandle,
    pub service: Arc<Mutex<XenstoreService>>,
    pub socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let store = StoreHandle::new().unwrap();
        let mut service = XenstoreService::new(store.clone());
        service.listen(&socket).unwrap();
        let service = Arc::new(Mutex::new(service));
        let stop = Arc::new(AtomicBool::new(false));
        let (subscriber, stopped) = (Arc::clone(&service), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut manager = EventManager::<Arc<Mutex<XenstoreService>>>::new().unwrap();
            manager.add_subscriber(subscriber);
            while !stopped.load(Ordering::Relaxed) {
                manager.run_with_timeout(20).unwrap();
            }
        });
        Self {
            store,
            service,
            socket,
            stop,
            thread: Some(thread),
            _dir: dir,
        }
    }

    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn receive(stream: &mut UnixStream) -> Request {
    let mut assembler = Assembler::default();
    loop {
        let mut buffer = vec![0; assembler.wanted().unwrap()];
        stream.read_exact(&mut buffer).unwrap();
        if let Some(message) = assembler.push(&buffer).unwrap() {
            return message;
        }
    }
}

fn ask(stream: &mut UnixStream, kind: MessageType, payload: &[u8]) -> Request {
    stream.write_all(&encode(kind, 3, 0, payload)).unwrap();
    receive(stream)
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn several_clients_share_the_store() {
    let running = Running::start();
    let (mut a, mut b) = (running.client(), running.client());
    assert_eq!(ask(&mut a, MessageType::WRITE, b"/k\0v").payload, b"OK\0");
    assert_eq!(ask(&mut b, MessageType::READ, b"/k\0").payload, b"v");
    ask(&mut b, MessageType::WATCH, b"/k\0t\0");
    assert_eq!(receive(&mut b).kind, MessageType::WATCH_EVENT);
    ask(&mut a, MessageType::WRITE, b"/k/a\0");
    assert_eq!(receive(&mut b).payload, b"/k/a\0t\0");
    // From a thread of this process, without any traffic of the client's.
    running.store.write("/k/b", "").unwrap();
    assert_eq!(receive(&mut b).payload, b"/k/b\0t\0");
    drop(a);
    assert_eq!(ask(&mut b, MessageType::READ, b"/k\0").payload, b"v");
}

#[test]
fn a_byte_at_a_time_and_many_at_once() {
    let running = Running::start();
    let mut client = running.client();
    for byte in encode(MessageType::WRITE, 1, 0, b"/k\0value") {
        client.write_all(&[byte]).unwrap();
    }
    assert_eq!(receive(&mut client).payload, b"OK\0");
    let batch: Vec<u8> = (0..1000)
        .flat_map(|i| encode(MessageType::READ, i, 0, b"/k\0"))
        .collect();
    let mut writer = client.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&batch).unwrap());
    for i in 0..1000 {
        assert_eq!(receive(&mut client).req_id, i);
    }
    thread.join().unwrap();
}

#[test]
fn a_client_that_breaks_the_protocol_is_cut_off() {
    let running = Running::start();
    let mut client = running.client();
    client.write_all(&[0xff; HEADER_LEN]).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(
        ask(&mut running.client(), MessageType::DIRECTORY, b"/\0").payload,
        b""
    );
}

#[test]
fn clients_that_go_leave_nothing_behind() {
    let running = Running::start();
    for _ in 0..100 {
        let mut client = running.client();
        ask(&mut client, MessageType::WATCH, b"/\0t\0");
        ask(&mut client, MessageType::TRANSACTION_START, b"\0");
    }
    wait_until("clients gone", || {
        running.service.lock().unwrap().clients.is_empty()
    });
    assert!(
        running
            .store
            .with(|store| store.watches.matching(&change(), &store.tree).is_empty())
    );
}

fn change() -> super::super::ops::Change {
    let path = super::super::path::StorePath::root();
    super::super::ops::Change::Written {
        path,
        created: 0,
        old_perms: None,
    }
}

#[test]
fn too_many_clients_are_turned_away() {
    let running = Running::start();
    let clients: Vec<_> = (0..quota::SOCKET_CLIENTS)
        .map(|_| running.client())
        .collect();
    for mut client in &clients {
        client
            .write_all(&encode(MessageType::READ, 0, 0, b"/\0"))
            .unwrap();
        client.read_exact(&mut [0; HEADER_LEN]).unwrap();
    }
    assert_eq!(running.client().read(&mut [0]).unwrap(), 0);
    drop(clients);
    wait_until("room again", || {
        running.service.lock().unwrap().clients.is_empty()
    });
    assert_eq!(
        ask(&mut running.client(), MessageType::READ, b"/\0").payload,
        b""
    );
}

#[test]
fn a_client_that_does_not_read_disturbs_nobody() {
    let running = Running::start();
    let mut lazy = running.client();
    lazy.write_all(&encode(MessageType::WATCH, 0, 0, b"/w\0t\0"))
        .unwrap();
    let mut client = running.client();
    wait_until("watch set", || {
        running
            .store
            .with(|store| !store.watches.matching(&below_w(), &store.tree).is_empty())
    });
    for i in 0..20_000 {
        running
            .store
            .write(&format!("/w/{}{i}", "n".repeat(50)), "")
            .unwrap();
    }
    assert_eq!(ask(&mut client, MessageType::READ, b"/w\0").payload, b"");
    // What the lazy one finds at last is bounded, and tells that all of it
    // may have changed.
    let mut events = 0;
    lazy.set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut header = [0; HEADER_LEN];
    while lazy.read_exact(&mut header).is_ok() {
        let len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        lazy.read_exact(&mut vec![0; len as usize]).unwrap();
        events += 1;
    }
    assert!(
        events > quota::OUTSTANDING_EVENTS && events < 20_000,
        "{events}"
    );
}

fn below_w() -> super::super::ops::Change {
    let path = super::super::path::StorePath::parse("/w").unwrap();
    super::super::ops::Change::Written {
        path,
        created: 0,
        old_perms: None,
    }
}

struct FakeGuest {
    page: MemoryPage,
    port: EventFd,
    notified: Arc<AtomicUsize>,
}

fn attach(running: &Running) -> FakeGuest {
    let page = MemoryPage::default();
    let port = EventFd::new(EFD_NONBLOCK).unwrap();
    let notified = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&notified);
    running.service.lock().unwrap().attach_guest(GuestLink {
        domid: 1,
        page: Box::new(page.clone()),
        port: port.try_clone().unwrap(),
        notify: Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }),
    });
    FakeGuest {
        page,
        port,
        notified,
    }
}

impl FakeGuest {
    fn send(&self, kind: MessageType, payload: &[u8]) {
        let message = encode(kind, 1, 0, payload);
        let prod = self.page.read_u32(offset::REQ_PROD);
        self.page.write_bytes(offset::REQ + prod as usize, &message);
        self.page
            .write_u32(offset::REQ_PROD, prod + message.len() as u32);
        self.port.write(1).unwrap();
    }

    fn produced(&self) -> usize {
        self.page.read_u32(offset::RSP_PROD) as usize
    }
}

#[test]
fn a_guest_is_served_told_and_let_go() {
    let running = Running::start();
    let queue = running.store.watch_queue().unwrap();
    running
        .store
        .watch(&queue, "@releaseDomain", "gone")
        .unwrap();
    running
        .store
        .watch(&queue, "/local/domain/1", "guest")
        .unwrap();
    running.store.write("/local/domain/1/data", "").unwrap();
    let own = [super::super::perms::Perm::none(1)];
    running
        .store
        .set_perms("/local/domain/1/data", &own)
        .unwrap();
    while queue.try_next().is_some() {}
    for _ in 0..3 {
        let guest = attach(&running);
        guest.send(MessageType::WATCH, b"data\0t\0");
        wait_until("answer and event", || guest.produced() == 16 + 3 + 16 + 7);
        assert!(guest.notified.load(Ordering::SeqCst) > 0);
        let before = guest.produced();
        running.store.write("/local/domain/1/data/x", "").unwrap();
        wait_until("event", || guest.produced() == before + 16 + 9);
        guest.send(MessageType::WRITE, b"data/y\0v");
        let seen = |path: &str| {
            let event = queue.wait(Duration::from_secs(10)).unwrap();
            event.path == path
        };
        wait_until("local event", || seen("/local/domain/1/data/y"));
        running.service.lock().unwrap().detach_guest();
        wait_until("release", || seen("@releaseDomain"));
        // The port of a guest that is gone moves nothing.
        let before = guest.produced();
        guest.send(MessageType::READ, b"data\0");
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(guest.produced(), before);
    }
}

#[test]
fn the_socket_file_goes_with_the_service() {
    let running = Running::start();
    let socket = running.socket.clone();
    let (service, dir) = (
        Arc::clone(&running.service),
        running.socket.parent().unwrap().to_owned(),
    );
    assert!(socket.exists() && dir.exists());
    let mut other = XenstoreService::new(running.store.clone());
    assert!(matches!(
        other.listen(&socket),
        Err(SocketError::InUse { .. })
    ));
    service.lock().unwrap().listener = None;
    assert!(!socket.exists());
}
