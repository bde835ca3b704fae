//! A device's life as its frontend, the toolstack and the VMM can lead it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xenner_xen_abi::io::xenbus::XenbusState as S;

use super::{Bus, Closer, Device, DeviceError, DeviceThread, Frontend, Keys, spawn};
use crate::domain::{Channel, Notify};
use crate::mock::{MockDomain, MockFrontend, MockPort, MockRing, MockStore, PATIENCE};
use crate::ring::{BackRing, RingError};

/// What happened to a [`Nul`], seen from outside.
#[derive(Debug, Default)]
struct Seen {
    connects: AtomicU32,
    disconnects: AtomicU32,
    closer: Mutex<Option<Closer>>,
}

/// A device with one ring that it never looks at.
#[derive(Debug)]
struct Nul {
    seen: Arc<Seen>,
    connection: Option<(BackRing, Arc<dyn Channel>)>,
}

impl Device for Nul {
    fn offer(&self) -> Keys {
        vec![("feature-nul".into(), "1".into())]
    }

    fn connect(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        assert!(self.connection.is_none());
        self.seen.connects.fetch_add(1, Ordering::AcqRel);
        let order = frontend.optional_number("ring-page-order", 0..=4)?;
        let ring = frontend.ring("ring-ref", order, 12)?;
        self.connection = Some((ring, frontend.bind("event-channel")?));
        *self.seen.closer.lock().unwrap() = Some(frontend.closer());
        Ok(vec![("sectors".into(), "100".into())])
    }

    fn reconfigure(&mut self, frontend: &Frontend) -> Result<Keys, DeviceError> {
        let headroom = frontend.number("headroom", 0..=256)?;
        Ok(vec![("headroom-is".into(), headroom.to_string())])
    }

    fn disconnect(&mut self) {
        self.seen.disconnects.fetch_add(1, Ordering::AcqRel);
        let (_, channel) = self.connection.take().expect("was connected");
        channel.notify();
    }
}

/// A device and its frontend.
struct Rig {
    thread: DeviceThread,
    seen: Arc<Seen>,
    gone: Arc<AtomicU32>,
    front: MockFrontend,
}

fn rig() -> Rig {
    let (domain, store) = (MockDomain::new(7, 64), MockStore::new());
    let (seen, gone) = (Arc::<Seen>::default(), Arc::<AtomicU32>::default());
    let front = MockFrontend::new(&domain, &store, "vbd", 51712);
    let device = Nul {
        seen: seen.clone(),
        connection: None,
    };
    let hook = gone.clone();
    let bus = Bus {
        store,
        domain,
        class: "vbd",
        id: 51712,
        frontend: vec![("virtual-device".into(), "51712".into())],
        on_gone: Some(Box::new(move || {
            hook.fetch_add(1, Ordering::AcqRel);
        })),
    };
    let thread = spawn(Box::new(device), bus).unwrap();
    Rig {
        thread,
        seen,
        gone,
        front,
    }
}

impl Rig {
    fn connects(&self) -> u32 {
        self.seen.connects.load(Ordering::Acquire)
    }

    fn disconnects(&self) -> u32 {
        self.seen.disconnects.load(Ordering::Acquire)
    }

    /// What blkfront does: nodes, Initialised, and Connected when the backend is.
    fn connect(&self) -> (MockRing, MockPort) {
        let shared = self.offer_ring();
        self.front.set_state(S::Initialised);
        self.front.wait_backend(S::Connected);
        self.front.set_state(S::Connected);
        shared
    }

    fn offer_ring(&self) -> (MockRing, MockPort) {
        let ring = self.front.share_ring("ring-ref", 1, 12);
        (ring, self.front.share_port("event-channel"))
    }

    fn wait_gone(&self) {
        let fd = self.thread.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "the device is gone");
        assert!(self.thread.is_gone());
        assert_eq!(self.front.store().below(self.front.path()), []);
        assert_eq!(self.front.store().below(self.front.backend_path()), []);
        self.front.domain().assert_released();
    }

    fn error(&self) -> String {
        self.front.wait_backend(S::Closing);
        self.front.error().expect("an error node")
    }

    /// Waits until the device's thread has looked at everything that was there: when it obeys the
    /// second command, the turn of the first is over.
    fn settle(&self) {
        for turn in ["1", "2"] {
            self.thread.update(vec![("turn".into(), turn.into())]);
            self.front
                .wait_backend_key("turn", |value| value == Some(turn));
        }
        self.front
            .store()
            .take(&format!("{}/turn", self.front.backend_path()));
    }
}

#[test]
fn published_ready_for_the_frontend() {
    let rig = rig();
    let own = |key| rig.front.read(key);
    assert_eq!(own("backend").as_deref(), Some(rig.front.backend_path()));
    assert_eq!(own("backend-id").as_deref(), Some("0"));
    assert_eq!(own("state").as_deref(), Some("1"));
    assert_eq!(own("virtual-device").as_deref(), Some("51712"));
    let backend = |key| rig.front.backend(key);
    assert_eq!(backend("frontend").as_deref(), Some(rig.front.path()));
    assert_eq!(backend("frontend-id").as_deref(), Some("7"));
    assert_eq!(backend("online").as_deref(), Some("1"));
    assert_eq!(backend("feature-nul").as_deref(), Some("1"));
    assert_eq!(backend("hotplug-status").as_deref(), Some("connected"));
    assert_eq!(backend("state").as_deref(), Some("2"));
    assert_eq!(rig.thread.name(), "vbd 51712");
}

#[test]
fn a_store_that_refuses_is_told() {
    let (domain, store) = (MockDomain::new(7, 1), MockStore::new());
    store.refuse("/local/domain/0/backend/vif");
    let device = Nul {
        seen: Arc::default(),
        connection: None,
    };
    let bus = Bus {
        store,
        domain,
        class: "vif",
        id: 0,
        frontend: Keys::new(),
        on_gone: None,
    };
    let error = spawn(Box::new(device), bus).unwrap_err().to_string();
    assert!(error.contains("backend/vif/7/0"), "{error}");
}

#[test]
fn connects_at_initialised() {
    let rig = rig();
    let (_ring, port) = rig.connect();
    assert_eq!(rig.front.backend("sectors").as_deref(), Some("100"));
    assert!(port.is_bound());
    assert_eq!(rig.front.domain().mapped().len(), 1);
    rig.settle();
    assert_eq!(rig.connects(), 1, "Connected is no second connection");
    assert_eq!(rig.thread.state(), S::Connected);
}

#[test]
fn connects_at_connected() {
    let rig = rig();
    let _shared = rig.offer_ring();
    rig.front.set_state(S::Connected);
    rig.front.wait_backend(S::Connected);
}

#[test]
fn a_frontend_that_does_not_wait_for_the_offer() {
    // GRUB: nodes and Initialised without a look at the backend; then anything but InitWait will do.
    let rig = rig();
    rig.front.write("protocol", "x86_64-abi");
    let _shared = rig.connect();
    // It closes without Closing, waits for Closed, empties its nodes and hands over.
    rig.front.set_state(S::Closed);
    rig.front.wait_backend(S::Closed);
    assert_eq!(rig.disconnects(), 1);
    rig.front.domain().assert_released();
    rig.front.write("ring-ref", "");
    rig.front.write("event-channel", "");
    rig.front.restart();
    // Linux.
    let _shared = rig.connect();
    assert_eq!(rig.connects(), 2);
    assert_eq!(rig.front.backend_states(), ["2", "4", "6", "2", "4"]);
}

#[test]
fn a_driver_is_loaded_again() {
    let rig = rig();
    for round in 1..=3 {
        let _shared = rig.connect();
        rig.front.close();
        assert_eq!((rig.connects(), rig.disconnects()), (round, round));
        rig.front.domain().assert_released();
        rig.front.restart();
    }
    assert!(!rig.thread.is_gone());
}

#[test]
fn a_frontend_that_begins_again_without_a_word() {
    // A kernel that was replaced without its shutdown.
    let rig = rig();
    let _first = rig.connect();
    rig.front.restart();
    rig.front.domain().assert_released();
    let _second = rig.connect();
    assert_eq!((rig.connects(), rig.disconnects()), (2, 1));
}

#[test]
fn a_frontend_that_vanishes_is_closed_and_may_come_back() {
    let rig = rig();
    let _first = rig.connect();
    rig.front.remove("state");
    rig.front.wait_backend(S::Closed);
    rig.front.domain().assert_released();
    rig.front.restart();
    let _second = rig.connect();
}

#[test]
fn reconfigured_while_connected() {
    let rig = rig();
    let _shared = rig.connect();
    rig.front.write("headroom", 192);
    rig.front.set_state(S::Reconfiguring);
    rig.front.wait_backend(S::Reconfigured);
    assert_eq!(rig.front.backend("headroom-is").as_deref(), Some("192"));
    rig.front.set_state(S::Connected);
    rig.front.wait_backend(S::Connected);
    assert_eq!(rig.connects(), 1);
    rig.front.write("headroom", 257);
    rig.front.set_state(S::Reconfiguring);
    assert!(rig.error().contains("headroom' is '257'"));
    assert_eq!(rig.disconnects(), 1);
}

#[test]
fn reconfiguring_before_it_is_connected_does_nothing() {
    let rig = rig();
    rig.front.set_state(S::Reconfiguring);
    rig.settle();
    assert_eq!(rig.thread.state(), S::InitWait);
}

#[test]
fn a_refused_frontend_is_told_why_and_may_try_again() {
    let rig = rig();
    rig.front.set_state(S::Initialised);
    let error = rig.error();
    assert!(error.starts_with("22 "), "{error}");
    assert!(
        error.contains("/local/domain/7/device/vbd/51712/ring-ref"),
        "{error}"
    );
    rig.settle();
    assert_eq!((rig.connects(), rig.disconnects()), (1, 0));
    // As blkfront answers.
    rig.front.set_state(S::Closed);
    rig.front.wait_backend(S::Closed);
    rig.front.restart();
    assert_eq!(rig.front.error(), None, "told once");
    let _shared = rig.connect();
}

/// Nodes that a frontend gets wrong, and what is said of them.
#[test]
fn nodes_that_are_wrong_are_named() {
    let cases: [(&str, &str, &str); 8] = [
        ("ring-ref", "-1", "device/vbd/51712/ring-ref' is '-1'"),
        (
            "ring-ref",
            "4294967296",
            "not a number from 0 to 4294967295",
        ),
        ("ring-ref", "+8", "ring-ref' is '+8'"),
        ("ring-ref", "0x10", "ring-ref' is '0x10'"),
        (
            "ring-ref",
            "999",
            "A page of '/local/domain/7/device/vbd/51712/ring-ref' cannot be mapped: Grant reference 999 grants nothing",
        ),
        (
            "event-channel",
            "0",
            "event-channel' is '0', not a number from 1 to",
        ),
        (
            "event-channel",
            "77",
            "The event channel of '/local/domain/7/device/vbd/51712/event-channel' cannot be bound",
        ),
        (
            "ring-page-order",
            "5",
            "ring-page-order' is '5', not a number from 0 to 4",
        ),
    ];
    for (key, value, message) in cases {
        let rig = rig();
        let _shared = rig.offer_ring();
        rig.front.write(key, value);
        rig.front.set_state(S::Initialised);
        let error = rig.error();
        assert!(error.contains(message), "{error}");
        rig.front.domain().assert_released();
    }
}

#[test]
fn a_ring_of_many_pages_and_one_page_too_few() {
    let rig = rig();
    let ring = rig.front.share_ring("ring-ref", 16, 12);
    rig.front.write("ring-page-order", 4);
    let _port = rig.front.share_port("event-channel");
    rig.front.remove("ring-ref15");
    rig.front.set_state(S::Initialised);
    assert!(
        rig.error()
            .contains("has not written '/local/domain/7/device/vbd/51712/ring-ref15'")
    );
    rig.front.domain().assert_released();
    rig.front.set_state(S::Closed);
    rig.front.wait_backend(S::Closed);
    rig.front.restart();
    rig.front.share("ring-ref", &ring);
    rig.front.set_state(S::Initialised);
    rig.front.wait_backend(S::Connected);
    assert_eq!(rig.front.domain().mapped(), ring.grefs());
}

#[test]
fn a_state_that_is_none_changes_nothing() {
    let rig = rig();
    let _shared = rig.connect();
    for state in ["", "9", "-1", "4 ", "connected", "\u{1b}[2J"] {
        rig.front.write("state", state);
    }
    rig.settle();
    assert_eq!((rig.connects(), rig.disconnects()), (1, 0));
    rig.front.write("state", "6\0");
    rig.front.wait_backend(S::Closed);
}

#[test]
fn a_queue_closes_the_device() {
    let rig = rig();
    let _shared = rig.connect();
    let closer = rig.seen.closer.lock().unwrap().clone().unwrap();
    let overrun = RingError::Overrun {
        req_prod: 1000,
        req_cons: 0,
        rsp_prod: 0,
        size: 256,
    };
    closer.close(overrun.into());
    assert!(rig.error().contains("req_prod is 0x3e8"));
    assert_eq!(rig.disconnects(), 1);
    rig.front.domain().assert_released();
    rig.front.set_state(S::Closed);
    rig.front.wait_backend(S::Closed);
    rig.front.restart();
    let _shared = rig.connect();
    // Late news of the old connection.
    closer.close(overrun.into());
    rig.settle();
    assert_eq!((rig.thread.state(), rig.disconnects()), (S::Connected, 1));
}

#[test]
fn unplugged_politely() {
    let rig = rig();
    let shared = rig.connect();
    rig.thread.unplug(false);
    rig.front.wait_backend(S::Closing);
    assert_eq!(rig.front.backend("online").as_deref(), Some("0"));
    rig.settle();
    // The disk is in use until the frontend says otherwise.
    assert_eq!((rig.disconnects(), rig.thread.is_gone()), (0, false));
    rig.front.set_state(S::Closing);
    rig.front.set_state(S::Closed);
    drop(shared);
    rig.wait_gone();
    assert_eq!(rig.gone.load(Ordering::Acquire), 1);
    assert_eq!(rig.disconnects(), 1);
    assert!(rig.thread.stop().is_some());
}

#[test]
fn unplugged_by_force_when_the_frontend_does_not_answer() {
    let rig = rig();
    let _shared = rig.connect();
    rig.thread.unplug(false);
    rig.front.wait_backend(S::Closing);
    rig.thread.unplug(true);
    rig.wait_gone();
    assert_eq!(
        (rig.disconnects(), rig.gone.load(Ordering::Acquire)),
        (1, 1)
    );
    // Nobody is there to be told twice.
    rig.thread.unplug(true);
    rig.thread.update(Keys::new());
}

#[test]
fn unplugged_before_a_driver_came() {
    let rig = rig();
    rig.thread.unplug(false);
    rig.wait_gone();
    assert_eq!(rig.connects(), 0);
}

#[test]
fn unplugged_while_closed() {
    let rig = rig();
    let _shared = rig.connect();
    rig.front.close();
    rig.thread.unplug(false);
    rig.wait_gone();
}

#[test]
fn a_frontend_that_comes_back_while_unplugged_does_not_get_it() {
    let rig = rig();
    let _shared = rig.connect();
    rig.thread.unplug(false);
    rig.front.wait_backend(S::Closing);
    rig.front.set_state(S::Initialising);
    rig.wait_gone();
}

#[test]
fn unplugged_by_a_toolstack() {
    // As libxl does it: online 0 and Closing, in the backend's directory.
    let rig = rig();
    let _shared = rig.connect();
    let store = rig.front.store();
    store.set(&format!("{}/online", rig.front.backend_path()), "0");
    rig.front.wait_backend(S::Closing);
    rig.front.set_state(S::Closed);
    rig.wait_gone();
}

#[test]
fn removed_by_a_toolstack_without_asking() {
    let rig = rig();
    let _shared = rig.connect();
    rig.front.store().take(rig.front.backend_path());
    rig.wait_gone();
    assert_eq!(rig.disconnects(), 1);
}

#[test]
fn the_domain_ends() {
    let rig = rig();
    let _shared = rig.connect();
    let device = rig.thread.stop();
    assert!(device.is_some(), "the device is given back");
    assert_eq!(rig.seen.disconnects.load(Ordering::Acquire), 1);
    assert_eq!(rig.gone.load(Ordering::Acquire), 0, "it was not unplugged");
    rig.front.domain().assert_released();
    // The nodes go with the domain's.
    assert!(rig.front.backend("state").is_some());
}

#[test]
fn the_device_serves_the_next_domain() {
    let rig = rig();
    let _shared = rig.connect();
    let device = rig.thread.stop().unwrap();
    let (domain, store) = (MockDomain::new(7, 4), rig.front.store());
    let front = MockFrontend::new(&domain, store, "vbd", 51712);
    let bus = Bus {
        store: store.clone(),
        domain,
        class: "vbd",
        id: 51712,
        frontend: Keys::new(),
        on_gone: None,
    };
    let thread = spawn(device, bus).unwrap();
    assert_eq!(front.backend("state").as_deref(), Some("2"));
    assert_eq!(
        front.read("ring-ref"),
        None,
        "the old domain's nodes are gone"
    );
    drop(thread);
}

#[test]
fn dropping_it_stops_it() {
    let rig = rig();
    let _shared = rig.connect();
    let begun = Instant::now();
    drop(rig.thread);
    assert_eq!(rig.seen.disconnects.load(Ordering::Acquire), 1);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn updates_reach_a_connected_frontend_by_its_state() {
    let rig = rig();
    let sectors = |n: u32| vec![("sectors".to_owned(), n.to_string())];
    rig.thread.update(sectors(50));
    rig.front
        .wait_backend_key("sectors", |value| value == Some("50"));
    assert_eq!(rig.front.backend_states(), ["2"]);
    let _shared = rig.connect();
    rig.thread.update(sectors(200));
    rig.front
        .wait_backend_key("sectors", |value| value == Some("200"));
    assert_eq!(rig.front.backend_states(), ["2", "4", "4"]);
}

#[test]
fn a_panic_of_the_device_is_told_as_gone() {
    #[derive(Debug)]
    struct Faulty;
    impl Device for Faulty {
        fn offer(&self) -> Keys {
            Keys::new()
        }
        fn connect(&mut self, _: &Frontend) -> Result<Keys, DeviceError> {
            panic!("made to")
        }
        fn disconnect(&mut self) {}
    }
    let (domain, store) = (MockDomain::new(7, 1), MockStore::new());
    let front = MockFrontend::new(&domain, &store, "vif", 0);
    let bus = Bus {
        store,
        domain,
        class: "vif",
        id: 0,
        frontend: Keys::new(),
        on_gone: None,
    };
    let thread = spawn(Box::new(Faulty), bus).unwrap();
    front.set_state(S::Connected);
    front.wait_backend_key("state", |state| state.is_none());
    let mut fds = [PollFd::from_borrowed_fd(thread.as_fd(), PollFlags::IN)];
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1));
    assert!(thread.is_gone());
    assert!(thread.stop().is_none());
}

#[test]
fn a_frontend_in_a_hurry_ends_well() {
    // Any order of states, quicker than the backend: it must follow, leak nothing, and still serve.
    let rig = rig();
    let _shared = rig.offer_ring();
    for round in 0..300u32 {
        let state = round.wrapping_mul(2_654_435_761) >> 29;
        rig.front.write("state", state + 1);
    }
    rig.front.set_state(S::Closed);
    rig.settle();
    assert_eq!(rig.thread.state(), S::Closed);
    rig.front.domain().assert_released();
    assert_eq!(rig.connects(), rig.disconnects());
    rig.front.restart();
    let _shared = rig.connect();
}
