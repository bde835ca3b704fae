//! What a device offers, what a frontend may ask for, and how they part.

use super::*;
use crate::mock::MockFrontend;
use xenner_xen_abi::io::xenbus::XenbusState;

#[test]
fn the_offer() {
    let ends = [MockEnd::new(Offloads::all()), MockEnd::new(Offloads::all())];
    let netfront = MockNetfront::published(&ends);
    let backend = |key: &str| netfront.frontend.backend(key).unwrap_or_default();
    for key in [
        "feature-rx-copy",
        "feature-sg",
        "feature-gso-tcpv4",
        "feature-gso-tcpv6",
        "feature-ipv6-csum-offload",
        "feature-split-event-channels",
        "feature-multicast-control",
        "feature-dynamic-multicast-control",
    ] {
        assert_eq!(backend(key), "1", "{key}");
    }
    assert_eq!(backend("feature-rx-flip"), "0");
    assert_eq!(backend("multi-queue-max-queues"), "2");
    assert_eq!(backend("hotplug-status"), "connected");
    assert_eq!(backend("mac"), "52:54:00:12:34:56");
    assert_eq!(
        netfront.frontend.read("mac").as_deref(),
        Some("52:54:00:12:34:56")
    );
    assert_eq!(netfront.frontend.read("handle").as_deref(), Some("0"));
}

#[test]
fn several_queues_each_with_its_end() {
    let ends = [(); 3].map(|()| MockEnd::new(Offloads::all()));
    let setup = Setup {
        queues: 2,
        ..Setup::default()
    };
    let mut netfront = MockNetfront::connected(&ends, &setup);
    assert_eq!(
        ends.each_ref().map(MockEnd::is_enabled),
        [true, true, false]
    );
    for (index, (queue, end)) in netfront.queues.iter_mut().zip(&ends).enumerate() {
        queue.offer(2);
        queue.send(&plain(100 + index), 0, None);
        assert_eq!(end.take(1)[0].1, plain(100 + index));
        end.give(Offload::default(), &plain(200 + index));
        assert_eq!(queue.receive().unwrap().frame, plain(200 + index));
    }
}

#[test]
fn one_event_channel_for_both_rings() {
    let end = MockEnd::new(Offloads::all());
    let setup = Setup {
        split: false,
        ..Setup::default()
    };
    let mut netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    let queue = &mut netfront.queues[0];
    queue.offer(2);
    queue.send(&plain(100), 0, None);
    assert_eq!(end.take(1)[0].1, plain(100));
    end.give(Offload::default(), &plain(200));
    assert_eq!(queue.receive().unwrap().frame, plain(200));
}

fn refusal(setup: &Setup, change: impl FnOnce(&MockFrontend)) -> String {
    let mut netfront = MockNetfront::published(&[MockEnd::new(Offloads::all())]);
    netfront.share(setup);
    change(&netfront.frontend);
    netfront.frontend.set_state(XenbusState::Connected);
    let why = netfront.wait_broken();
    netfront.frontend.domain().assert_released();
    why
}

#[test]
fn what_a_frontend_cannot_have() {
    let flip = refusal(&Setup::default().with("request-rx-copy", ""), |_| {});
    assert!(flip.contains("request-rx-copy"), "{flip}");
    let queues = refusal(&Setup::default(), |frontend| {
        frontend.write("multi-queue-num-queues", 2);
    });
    assert!(queues.contains("multi-queue-num-queues"), "{queues}");
    for key in ["tx-ring-ref", "rx-ring-ref", "event-channel-rx"] {
        let missing = refusal(&Setup::default(), |frontend| frontend.remove(key));
        assert!(missing.contains(key), "{missing}");
        let wrong = refusal(&Setup::default(), |frontend| frontend.write(key, 99_999));
        assert!(wrong.contains(key), "{wrong}");
    }
}

#[test]
fn a_driver_that_goes_and_comes_again() {
    let (mut netfront, end) = full();
    for length in [60, 61, 62] {
        netfront.queues[0].offer(8);
        netfront.queues[0].send(&plain(length), 0, None);
        assert_eq!(end.take(1)[0].1, plain(length));
        netfront.frontend.close();
        netfront.frontend.domain().assert_released();
        netfront.frontend.restart();
        netfront.share(&Setup::default());
        netfront.connect();
    }
}

#[test]
fn unplugged_under_load() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.offer(200);
    for length in 60..160 {
        queue.send(&plain(length), 0, None);
        end.give(Offload::default(), &plain(length));
    }
    netfront.device.unplug(true);
    while !netfront.device.is_gone() {
        std::thread::yield_now();
    }
    netfront.frontend.domain().assert_released();
    assert_eq!(netfront.frontend.backend("state"), None);
}
