//! A console on the bus, against a frontend that writes what Linux's hvc_xen does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use xenner_console::config::{ChardevBackend, ChardevConfig, SocketAddress, SocketRole};
use xenner_console::{Chardev, ChardevOptions, InheritedFds};
use xenner_xen_abi::io::xenbus::XenbusState as S;

use super::super::ring::tests::Frontend as RingFrontend;
use super::*;
use crate::domain::Access;
use crate::mock::{GrantedPage, MockDomain, MockFrontend, MockPage, MockPort, MockStore, PATIENCE};
use crate::xenbus::{Bus, DeviceThread, spawn};

/// What was heard of a channel's use.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<bool>>);

impl ChannelEvents for Heard {
    fn used(&self, used: bool) {
        self.0.lock().unwrap().push(used);
    }
}

/// A channel, its frontend and its user.
struct Rig {
    thread: Option<DeviceThread>,
    front: MockFrontend,
    console: Arc<Mutex<ConsoleBackend>>,
    heard: Arc<Heard>,
    user: UnixStream,
    dir: tempfile::TempDir,
}

/// One connection of the frontend.
struct Connection {
    ring: RingFrontend<MockPage>,
    page: GrantedPage,
    port: MockPort,
}

fn labels() -> ConsoleLabels {
    ConsoleLabels {
        name: Some("org.xenner.test".into()),
        output: "chardev:c1".into(),
        tty: None,
        connection: Some("socket"),
        path: Some("/the/socket".into()),
    }
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("end");
    let socket = ChardevBackend::Socket {
        address: SocketAddress::Unix(path.clone()),
        role: SocketRole::Server { wait: false },
        nodelay: false,
    };
    let config = ChardevConfig::new("c1", socket);
    let end = Chardev::open(
        &config,
        ChardevOptions::default(),
        &mut InheritedFds::default(),
    );
    let console = Arc::new(Mutex::new(ConsoleBackend::new(end.unwrap())));
    let user = UnixStream::connect(&path).unwrap();
    user.set_read_timeout(Some(PATIENCE)).unwrap();
    let (domain, store) = (MockDomain::new(7, 64), MockStore::new());
    let front = MockFrontend::new(&domain, &store, "console", 1);
    let mut rig = Rig {
        thread: None,
        front,
        console,
        heard: Arc::default(),
        user,
        dir,
    };
    let device = ConsBack::new(labels(), rig.console.clone(), Some(rig.heard.clone()));
    rig.spawn(Box::new(device));
    rig.turn();
    rig
}

impl Rig {
    fn spawn(&mut self, device: Box<dyn Device>) {
        let bus = Bus {
            store: self.front.store().clone(),
            domain: self.front.domain().clone(),
            class: "console",
            id: 1,
            frontend: vec![key("protocol", PROTOCOL)],
            on_gone: None,
        };
        self.thread = Some(spawn(device, bus).unwrap());
    }

    /// The user's side as the event loop serves it, until nothing happens for a while.
    fn turn(&self) {
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let fd = lock(&self.console).as_fd().try_clone_to_owned().unwrap();
        while poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0 {
            lock(&self.console).on_ready();
        }
    }

    /// What xencons_connect_backend and xencons_backend_changed do.
    fn connect(&self) -> Connection {
        let domain = self.front.domain();
        let page = domain.granted_page(Access::Write);
        page.put(0, &[0; 4096]);
        let port = domain.alloc_port();
        port.mask(true);
        self.front.write(RING_REF, page.gref());
        self.front.write(PORT, port.number());
        self.front.set_state(S::Initialised);
        self.front.wait_backend(S::Connected);
        self.front.set_state(S::Connected);
        Connection {
            ring: RingFrontend(domain.memory().page(page.frame())),
            page,
            port,
        }
    }

    fn reads(&mut self, wanted: &[u8]) {
        let mut got = vec![0; wanted.len()];
        self.user.read_exact(&mut got).unwrap();
        assert_eq!(got, wanted);
    }

    fn hears(&self, wanted: &[bool]) {
        let end = Instant::now() + PATIENCE;
        while *self.heard.0.lock().unwrap() != wanted {
            assert!(Instant::now() < end, "{:?}", self.heard);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Connection {
    fn prints(&self, text: &[u8]) {
        assert_eq!(self.ring.print(text), text.len());
        self.port.send();
    }

    fn reads(&self, wanted: &[u8]) {
        let end = Instant::now() + PATIENCE;
        let mut got = Vec::new();
        while got.len() < wanted.len() {
            assert!(Instant::now() < end, "{got:?}");
            got.extend(self.ring.read(usize::MAX));
        }
        assert_eq!(got, wanted);
    }
}

#[test]
fn the_nodes_are_those_of_xens_tools() {
    let rig = rig();
    for (name, value) in [
        ("backend", "/local/domain/0/backend/console/7/1"),
        ("backend-id", "0"),
        ("protocol", "vt100"),
        ("limit", "1048576"),
        ("type", "ioemu"),
        ("output", "chardev:c1"),
        ("tty", ""),
        ("name", "org.xenner.test"),
        ("state", "1"),
    ] {
        assert_eq!(rig.front.read(name).as_deref(), Some(value), "{name}");
    }
    for (name, value) in [
        ("frontend", "/local/domain/7/device/console/1"),
        ("frontend-id", "7"),
        ("online", "1"),
        ("protocol", "vt100"),
        ("name", "org.xenner.test"),
        ("connection", "socket"),
        ("path", "/the/socket"),
        ("state", "2"),
    ] {
        assert_eq!(rig.front.backend(name).as_deref(), Some(value), "{name}");
    }
    let console = ConsBack::new(ConsoleLabels::default(), rig.console.clone(), None);
    let named = |keys: Keys| keys.iter().any(|(name, _)| name == "name");
    assert!(!named(console.labels()) && !named(console.offer()));
}

#[test]
fn bytes_pass_both_ways_over_reconnections_and_domains() {
    let mut rig = rig();
    for round in 0..3 {
        let connection = rig.connect();
        assert_eq!(connection.ring.connection(), 0);
        connection.prints(b"from the guest\r\n");
        rig.reads(b"from the guest\r\n");
        rig.user.write_all(b"from the user\n").unwrap();
        rig.turn();
        connection.reads(b"from the user\n");
        assert!(connection.port.wait(PATIENCE));
        if round == 1 {
            // another domain
            let device = rig.thread.take().and_then(DeviceThread::stop).unwrap();
            assert_eq!(connection.ring.connection(), 1);
            rig.spawn(device);
        } else {
            rig.front.close();
            assert_eq!(connection.ring.connection(), 1);
            rig.front.restart();
        }
        rig.front.domain().assert_released();
    }
    let traffic = lock(&rig.console).traffic();
    assert_eq!((traffic.to_user, traffic.to_domain), (3 * 16, 3 * 14));
}

#[test]
fn what_comes_before_the_frontend_waits_for_it() {
    let mut rig = rig();
    rig.user.write_all(b"early").unwrap();
    rig.turn();
    let connection = rig.connect();
    rig.turn();
    connection.reads(b"early");
    // Output is kept for the next user.
    drop(std::mem::replace(
        &mut rig.user,
        UnixStream::pair().unwrap().0,
    ));
    rig.turn();
    connection.prints(b"late");
    rig.turn();
    rig.user = UnixStream::connect(rig.dir.path().join("end")).unwrap();
    rig.turn();
    rig.reads(b"late");
    rig.front.close();
}

#[test]
fn a_broken_ring_closes_the_device_and_it_may_begin_again() {
    let mut rig = rig();
    let connection = rig.connect();
    connection.ring.overrun();
    connection.port.send();
    rig.front.wait_backend(S::Closing);
    let error = rig.front.error().unwrap();
    assert_eq!(error, "22 The console ring's indices are impossible");
    rig.front.set_state(S::Closed);
    rig.front.wait_backend(S::Closed);
    drop(connection);
    rig.front.restart();
    let connection = rig.connect();
    connection.prints(b"again");
    rig.reads(b"\r\nxenner: console closed, the domain broke the ring's protocol\r\nagain");
    rig.front.close();
    drop(connection);
}

#[test]
fn a_frontend_without_its_nodes_is_refused() {
    let rig = rig();
    for (name, value) in [(RING_REF, "99999"), (PORT, "4711"), (PORT, "x")] {
        let page = rig.front.domain().granted_page(Access::Write);
        let port = rig.front.domain().alloc_port();
        rig.front.write(RING_REF, page.gref());
        rig.front.write(PORT, port.number());
        rig.front.write(name, value);
        rig.front.set_state(S::Initialised);
        rig.front.wait_backend(S::Closing);
        assert!(rig.front.error().unwrap().contains(name), "{name} {value}");
        rig.front.domain().assert_released();
        rig.front.set_state(S::Closed);
        rig.front.wait_backend(S::Closed);
        rig.front.restart();
    }
}

#[test]
fn the_mask_of_the_port_tells_whether_a_channel_is_used() {
    let rig = rig();
    let connection = rig.connect();
    std::thread::sleep(Duration::from_millis(100));
    rig.hears(&[]);
    connection.port.mask(false);
    rig.hears(&[true]);
    connection.port.mask(true);
    rig.hears(&[true, false]);
    connection.port.mask(false);
    // An event is as good a time to look as any.
    connection.port.send();
    rig.hears(&[true, false, true]);
    rig.front.close();
    rig.hears(&[true, false, true, false]);
    drop(connection.page);
}
