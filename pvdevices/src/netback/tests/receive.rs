//! From the host to the guest.

use super::*;

fn blank4(payload: usize) -> (Offload, Vec<u8>) {
    let mut frame = tcp4(payload);
    let claims = frame::Claims {
        checksum_blank: true,
        ..frame::Claims::default()
    };
    let offload = frame::describe(&mut frame, &claims).unwrap();
    (offload, frame)
}

fn gso4(payload: usize) -> (Offload, Vec<u8>) {
    let (mut offload, frame) = blank4(payload);
    offload.gso = Some(Gso {
        kind: GsoKind::TcpV4,
        size: 1448,
        header_len: 54,
    });
    (offload, frame)
}

#[test]
fn frames_fill_pages_in_order() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.offer(40);
    for length in [60, 4096, 4097, 65535] {
        end.give(Offload::default(), &plain(length));
    }
    for (length, slots) in [(60, 1), (4096, 1), (4097, 2), (65535, 16)] {
        let received = queue.receive().unwrap();
        assert_eq!(received.frame, plain(length));
        assert_eq!(
            (received.slots, received.flags & !NETRXF_MORE_DATA),
            (slots, 0)
        );
    }
    // They are counted before they are shown.
    let rx = netfront.control.stats().rx;
    assert_eq!((rx.packets, rx.bytes), (4, 60 + 4096 + 4097 + 65535));
}

#[test]
fn checksums_and_segmentation_are_left_to_a_guest_that_can() {
    let (mut netfront, end) = full();
    assert_eq!(end.guest_can(), Offloads::all());
    let queue = &mut netfront.queues[0];
    queue.offer(40);
    let (offload, frame) = blank4(100);
    end.give(offload, &frame);
    let received = queue.receive().unwrap();
    assert_eq!(received.frame, frame);
    assert_eq!(received.flags, NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED);
    let (offload, frame) = gso4(30_000);
    end.give(offload, &frame);
    let received = queue.receive().unwrap();
    assert_eq!(received.frame, frame);
    assert_eq!(received.gso, Some((GsoKind::TcpV4, 1448)));
    assert_eq!(received.slots, 9);
    let verified = Offload {
        checksum: Checksum::Verified,
        gso: None,
    };
    end.give(verified, &plain(60));
    assert_eq!(queue.receive().unwrap().flags, NETRXF_DATA_VALIDATED);
}

#[test]
fn a_guest_without_checksum_offload_gets_finished_frames() {
    let end = MockEnd::new(Offloads::all());
    let setup = Setup::default().with("feature-no-csum-offload", "1");
    let mut netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    assert_eq!(end.guest_can(), Offloads::CSUM_V6 | Offloads::TSO_V6);
    let queue = &mut netfront.queues[0];
    queue.offer(40);
    let (offload, frame) = blank4(100);
    end.give(offload, &frame);
    let received = queue.receive().unwrap();
    assert_eq!(received.flags, 0);
    assert!(is_finished(&received.frame));
    let (offload, frame) = gso4(4000);
    end.give(offload, &frame);
    for _ in 0..3 {
        let received = queue.receive().unwrap();
        assert_eq!((received.flags, received.gso), (0, None));
        assert!(is_finished(&received.frame));
    }
}

#[test]
fn each_feature_that_a_guest_lacks_is_not_used() {
    for (key, value, lost) in [
        ("feature-gso-tcpv4", "", Offloads::TSO_V4),
        ("feature-gso-tcpv6", "0", Offloads::TSO_V6),
        ("feature-sg", "", Offloads::TSO_V4 | Offloads::TSO_V6),
        (
            "feature-ipv6-csum-offload",
            "",
            Offloads::CSUM_V6 | Offloads::TSO_V6,
        ),
    ] {
        let end = MockEnd::new(Offloads::all());
        let setup = Setup::default().with(key, value);
        let _netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
        assert_eq!(end.guest_can(), Offloads::all() - lost, "{key}");
    }
}

#[test]
fn a_guest_without_scatter_gets_no_frame_of_two_pages() {
    let end = MockEnd::new(Offloads::all());
    let setup = Setup::default().with("feature-sg", "");
    let mut netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    let queue = &mut netfront.queues[0];
    queue.offer(8);
    end.give(Offload::default(), &plain(4097));
    end.give(Offload::default(), &plain(4096));
    assert_eq!(queue.receive().unwrap().frame, plain(4096));
    assert_eq!(netfront.control.stats().rx.drops, 1);
}

#[test]
fn a_guest_without_pages_holds_frames_up_on_the_host() {
    let (mut netfront, end) = full();
    for length in 60..160 {
        end.give(Offload::default(), &plain(length));
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    // One is under way.
    assert_eq!(end.waiting(), 99);
    let queue = &mut netfront.queues[0];
    for length in 60..160 {
        queue.offer(1);
        assert_eq!(queue.receive().unwrap().frame, plain(length));
    }
    assert_eq!(netfront.control.stats().rx.drops, 0);
}

#[test]
fn a_frame_waits_until_all_its_pages_are_there() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    let (offload, frame) = gso4(60_000);
    end.give(offload, &frame);
    for _ in 0..16 {
        queue.offer(1);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(queue.receive().unwrap().frame, frame);
}

#[test]
fn a_guest_that_sends_no_events_for_pages_is_looked_at() {
    let end = MockEnd::new(Offloads::all());
    let setup = Setup::default().with("feature-rx-notify", "");
    let mut netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    end.give(Offload::default(), &plain(60));
    std::thread::sleep(std::time::Duration::from_millis(5));
    let queue = &mut netfront.queues[0];
    let page = netfront
        .frontend
        .domain()
        .granted_page(crate::domain::Access::Write);
    let request = NetifRxRequest {
        id: 0,
        pad: 0,
        gref: page.gref(),
    };
    queue.rx.put_request(request.as_bytes());
    let _no_event = queue.rx.push_requests();
    let mut response = [0; 8];
    queue.rx.wait_response(&queue.rx_port, &mut response);
    assert_eq!(page.bytes(0, 60), plain(60));
}

#[test]
fn a_page_that_cannot_be_written_is_told() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    let page = netfront
        .frontend
        .domain()
        .granted_page(crate::domain::Access::Read);
    let request = NetifRxRequest {
        id: 7,
        pad: 0,
        gref: page.gref(),
    };
    queue.rx.put_request(request.as_bytes());
    assert!(queue.rx.push_requests());
    queue.rx_port.send();
    end.give(Offload::default(), &plain(60));
    let mut response = [0; 8];
    queue.rx.wait_response(&queue.rx_port, &mut response);
    assert_eq!(response, [7, 0, 0, 0, 0, 0, 0xff, 0xff]);
    queue.offer(0);
    assert_eq!(netfront.control.stats().rx.errors, 1);
}

#[test]
fn without_a_cable_frames_are_dropped() {
    let (mut netfront, end) = full();
    netfront.control.set_link(false);
    netfront.queues[0].offer(4);
    end.give(Offload::default(), &plain(60));
    while netfront.control.stats().rx.drops == 0 {
        std::thread::yield_now();
    }
    netfront.control.set_link(true);
    end.give(Offload::default(), &plain(61));
    assert_eq!(netfront.queues[0].receive().unwrap().frame, plain(61));
}

#[test]
fn the_filter_is_turned_on_and_off_while_connected() {
    let (mut netfront, end) = full();
    netfront.queues[0].offer(200);
    let mut group = plain(60);
    group[0] |= 1;
    for (value, passes) in [("1", false), ("0", true), ("1", false)] {
        netfront.frontend.write("request-multicast-control", value);
        // Until the backend has looked at the node.
        loop {
            end.give(Offload::default(), &group);
            end.give(Offload::default(), &plain(61));
            let first = netfront.queues[0].receive().unwrap().frame;
            if first == group {
                assert_eq!(netfront.queues[0].receive().unwrap().frame, plain(61));
            }
            if (first == group) == passes {
                break;
            }
        }
    }
}

#[test]
fn multicast_frames_pass_a_filter_that_is_asked_for() {
    let end = MockEnd::new(Offloads::all());
    let setup = Setup::default().with("request-multicast-control", "1");
    let mut netfront = MockNetfront::connected(std::slice::from_ref(&end), &setup);
    let queue = &mut netfront.queues[0];
    queue.offer(16);
    let to = |address: [u8; 6]| {
        let mut frame = plain(60);
        frame[..6].copy_from_slice(&address);
        frame
    };
    let group = [1, 0, 0x5e, 0, 0, 7];
    let change = |queue: &mut MockQueue, kind| {
        let mut request = queue.tx_page(0, &plain(60));
        request.flags |= NETTXF_EXTRA_INFO;
        let extra = NetifExtraInfo {
            kind,
            flags: 0,
            u: group,
        };
        queue.tx.put_request(request.as_bytes());
        queue.tx.put_request(extra.as_bytes());
        queue.push_tx();
        assert_eq!(queue.tx_statuses(2), [NETIF_RSP_OKAY, NETIF_RSP_NULL]);
    };
    end.give(Offload::default(), &to(group));
    end.give(Offload::default(), &to([0xff; 6]));
    assert_eq!(queue.receive().unwrap().frame, to([0xff; 6]));
    change(queue, XEN_NETIF_EXTRA_TYPE_MCAST_ADD);
    end.give(Offload::default(), &to(group));
    assert_eq!(queue.receive().unwrap().frame, to(group));
    change(queue, XEN_NETIF_EXTRA_TYPE_MCAST_DEL);
    end.give(Offload::default(), &to(group));
    end.give(Offload::default(), &plain(60));
    assert_eq!(queue.receive().unwrap().frame, plain(60));
}
