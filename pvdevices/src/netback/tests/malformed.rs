//! Requests that no honest frontend puts: what is wrong in itself is answered with an error, what
//! makes the ring senseless ends the connection.

use super::*;

/// Puts requests and extra slots as they are.
fn put(queue: &mut MockQueue, slots: &[&[u8]]) {
    for slot in slots {
        queue.tx.put_request(slot);
    }
    queue.push_tx();
}

#[test]
fn packets_that_are_wrong_in_themselves_are_answered_with_errors() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];

    let short = queue.tx_page(0, &plain(14)[..13]);
    put(queue, &[short.as_bytes()]);
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_ERROR]);

    let mut nowhere = queue.tx_page(0, &plain(60));
    nowhere.gref = 0x00ff_fff0;
    put(queue, &[nowhere.as_bytes()]);
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_ERROR]);

    // The parts are larger than the whole.
    let mut requests = queue.tx_requests(&plain(5000), 0);
    requests[0].size = 100;
    put(queue, &[requests[0].as_bytes(), requests[1].as_bytes()]);
    assert_eq!(queue.tx_statuses(2), [NETIF_RSP_ERROR; 2]);

    // 19 slots.
    let mut parts: Vec<NetifTxRequest> = (0..19).map(|_| queue.tx_page(0, &[1; 100])).collect();
    parts[..18]
        .iter_mut()
        .for_each(|part| part.flags |= NETTXF_MORE_DATA);
    parts[0].size = 1900;
    let slots: Vec<&[u8]> = parts.iter().map(IntoBytes::as_bytes).collect();
    put(queue, &slots);
    assert_eq!(queue.tx_statuses(19), [NETIF_RSP_ERROR; 19]);

    // The device goes on.
    queue.send(&plain(60), 0, None);
    assert_eq!(end.take(1)[0].1, plain(60));
    assert_eq!(netfront.control.stats().tx.errors, 4);
}

#[test]
fn offloads_that_do_not_fit_the_headers_drop_the_packet() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    let mut cut = tcp4(100);
    cut.truncate(50);
    let mut bad_ihl = tcp4(100);
    bad_ihl[14] = 0x44;
    let mut fragment = tcp4(100);
    fragment[20] = 0x20;
    for frame in [plain(60), cut, bad_ihl, fragment] {
        queue.send(&frame, NETTXF_CSUM_BLANK, None);
        assert_eq!(queue.tx_statuses(1).len(), 1);
    }
    // Segmentation of another protocol than the packet's, and of none.
    for (frame, kind) in [
        (tcp4(2000), GsoKind::TcpV6),
        (udp6(2000), GsoKind::TcpV6),
        (plain(2000), GsoKind::TcpV4),
    ] {
        queue.send(&frame, NETTXF_CSUM_BLANK, Some((kind, 1000)));
        assert_eq!(queue.tx_statuses(2).len(), 2);
    }
    queue.send(&plain(61), 0, None);
    assert_eq!(end.take(1)[0].1, plain(61));
    assert_eq!(netfront.control.stats().tx.errors, 7);
}

/// Connects, puts slots, and returns what the backend says when it gives up.
fn fatal(make: impl FnOnce(&mut MockQueue) -> Vec<Vec<u8>>) -> String {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    let slots = make(queue);
    let slots: Vec<&[u8]> = slots.iter().map(Vec::as_slice).collect();
    put(queue, &slots);
    let why = netfront.wait_broken();
    netfront.frontend.domain().assert_released();
    assert_eq!(end.count().0, 0);
    why
}

#[test]
fn a_ring_that_makes_no_sense_is_left() {
    let with = |change: fn(&mut NetifTxRequest)| {
        fatal(move |queue| {
            let mut request = queue.tx_page(0, &plain(60));
            change(&mut request);
            vec![request.as_bytes().to_vec()]
        })
    };
    let crossing = with(|request| request.offset = 4090);
    assert!(crossing.contains("crosses a page"), "{crossing}");
    let alone = with(|request| request.flags |= NETTXF_MORE_DATA);
    assert!(alone.contains("lacks the fragments"), "{alone}");
    let no_extra = with(|request| request.flags |= NETTXF_EXTRA_INFO);
    assert!(no_extra.contains("lacks the extra"), "{no_extra}");
}

#[test]
fn a_fragment_that_crosses_a_page_ends_the_connection() {
    let why = fatal(|queue| {
        let mut requests = queue.tx_requests(&plain(5000), 0);
        requests[1].offset = 4000;
        requests
            .iter()
            .map(|request| request.as_bytes().to_vec())
            .collect()
    });
    assert!(why.contains("crosses a page"), "{why}");
}

#[test]
fn endless_fragments_end_the_connection() {
    let why = fatal(|queue| {
        let mut parts: Vec<NetifTxRequest> = (0..24).map(|_| queue.tx_page(0, &[1; 10])).collect();
        parts
            .iter_mut()
            .for_each(|part| part.flags |= NETTXF_MORE_DATA);
        parts.iter().map(|part| part.as_bytes().to_vec()).collect()
    });
    assert!(why.contains("too many fragments"), "{why}");
}

#[test]
fn extra_information_that_lies_ends_the_connection() {
    let extra = |kind, flags, u| NetifExtraInfo { kind, flags, u };
    for (slot, expected) in [
        (extra(0, 0, [0; 6]), "unknown kind"),
        (extra(9, 0, [0; 6]), "unknown kind"),
        (
            extra(XEN_NETIF_EXTRA_TYPE_GSO, 0, [0, 0, 1, 0, 0, 0]),
            "no bytes",
        ),
        (
            extra(XEN_NETIF_EXTRA_TYPE_GSO, 0, [9, 9, 7, 0, 0, 0]),
            "unknown kind",
        ),
        (
            extra(XEN_NETIF_EXTRA_TYPE_GSO, 1, [9, 9, 1, 0, 0, 0]),
            "lacks the extra",
        ),
    ] {
        let why = fatal(|queue| {
            let mut request = queue.tx_page(0, &tcp4(100));
            request.flags |= NETTXF_EXTRA_INFO | NETTXF_CSUM_BLANK;
            vec![request.as_bytes().to_vec(), slot.as_bytes().to_vec()]
        });
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_producer_beyond_the_ring_ends_the_connection() {
    let (netfront, _end) = full();
    let queue = &netfront.queues[0];
    queue
        .tx
        .forge_req_prod(queue.tx.req_prod().wrapping_add(257));
    queue.tx_port.send();
    assert!(netfront.wait_broken().contains("req_prod"));
    let (netfront, end) = full();
    let queue = &netfront.queues[0];
    queue.rx.forge_req_prod(0x8000_0000);
    end.give(Offload::default(), &plain(60));
    assert!(netfront.wait_broken().contains("req_prod"));
}

#[test]
fn a_device_that_gave_up_serves_the_next_driver() {
    let (mut netfront, end) = full();
    netfront.queues[0].tx.forge_req_prod(1000);
    netfront.queues[0].tx_port.send();
    assert!(!netfront.wait_broken().is_empty());
    netfront
        .frontend
        .set_state(xenner_xen_abi::io::xenbus::XenbusState::Closed);
    netfront.frontend.restart();
    netfront.share(&Setup::default());
    netfront.connect();
    netfront.queues[0].send(&plain(77), 0, None);
    assert_eq!(end.take(1)[0].1, plain(77));
}
