//! From the guest to the host.

use super::*;

#[test]
fn a_frame_passes_and_is_answered() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.send(&plain(60), 0, None);
    queue.send(&plain(1514), NETTXF_DATA_VALIDATED, None);
    assert_eq!(queue.tx_statuses(2), [NETIF_RSP_OKAY; 2]);
    let verified = Offload {
        checksum: Checksum::Verified,
        gso: None,
    };
    assert_eq!(
        end.take(2),
        [(Offload::default(), plain(60)), (verified, plain(1514))]
    );
    let tx = netfront.control.stats().tx;
    assert_eq!((tx.packets, tx.bytes), (2, 1574));
}

#[test]
fn a_frame_of_many_pages_passes_whole() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.send(&plain(65535), 0, None);
    assert_eq!(queue.tx_statuses(16), [NETIF_RSP_OKAY; 16]);
    assert_eq!(end.take(1), [(Offload::default(), plain(65535))]);
}

#[test]
fn a_blank_checksum_is_left_to_an_end_that_can() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.send(&tcp4(100), NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED, None);
    queue.send(&udp6(101), NETTXF_CSUM_BLANK, None);
    let frames = end.take(2);
    let blank = |start, offset| Checksum::Blank { start, offset };
    assert_eq!(frames[0].0.checksum, blank(34, 16));
    assert_eq!(frames[1].0.checksum, blank(54, 6));
    for (offload, mut frame) in frames {
        let Checksum::Blank { start, offset } = offload.checksum else {
            panic!("{offload:?}");
        };
        frame::finish_checksum(&mut frame, start, offset).unwrap();
        assert!(is_finished(&frame));
    }
    assert_eq!(queue.tx_statuses(2), [NETIF_RSP_OKAY; 2]);
}

#[test]
fn a_blank_checksum_is_finished_for_an_end_that_cannot() {
    let (mut netfront, end) = bare();
    let queue = &mut netfront.queues[0];
    queue.send(&tcp4(101), NETTXF_CSUM_BLANK, None);
    queue.send(&udp6(100), NETTXF_CSUM_BLANK, None);
    for (offload, frame) in end.take(2) {
        assert_eq!(offload, Offload::default());
        assert!(is_finished(&frame));
    }
    assert_eq!(queue.tx_statuses(2), [NETIF_RSP_OKAY; 2]);
}

#[test]
fn segmentation_is_left_to_an_end_that_can() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    queue.send(
        &tcp4(60_000),
        NETTXF_CSUM_BLANK,
        Some((GsoKind::TcpV4, 1448)),
    );
    let statuses = queue.tx_statuses(16);
    assert_eq!(statuses[..2], [NETIF_RSP_OKAY, NETIF_RSP_NULL]);
    assert_eq!(statuses[2..], [NETIF_RSP_OKAY; 14]);
    let (offload, frame) = end.take(1).remove(0);
    let gso = Gso {
        kind: GsoKind::TcpV4,
        size: 1448,
        header_len: 54,
    };
    assert_eq!(offload.gso, Some(gso));
    assert_eq!(frame.len(), 54 + 60_000);
}

#[test]
fn segments_are_cut_for_an_end_that_cannot() {
    let (mut netfront, end) = bare();
    let queue = &mut netfront.queues[0];
    queue.send(
        &tcp4(10_000),
        NETTXF_CSUM_BLANK,
        Some((GsoKind::TcpV4, 1448)),
    );
    let frames = end.take(7);
    let mut payload = Vec::new();
    for (offload, frame) in frames {
        assert_eq!(offload, Offload::default());
        assert!(is_finished(&frame));
        assert!(frame.len() <= 54 + 1448);
        payload.extend_from_slice(&frame[54..]);
    }
    assert_eq!(payload, tcp4(10_000)[54..]);
}

#[test]
fn what_a_busy_end_does_not_take_is_kept_and_comes_later() {
    let (mut netfront, end) = bare();
    end.set_busy(true);
    let queue = &mut netfront.queues[0];
    for length in 60..100 {
        queue.send(&plain(length), 0, None);
    }
    // One packet is under way, the others stay on the ring.
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_OKAY]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut response = [0; 4];
    assert!(!queue.tx.next_response(&mut response));
    end.set_busy(false);
    for (index, (_, frame)) in end.take(40).into_iter().enumerate() {
        assert_eq!(frame, plain(60 + index));
    }
    assert_eq!(queue.tx_statuses(39), [NETIF_RSP_OKAY; 39]);
}

#[test]
fn without_a_peer_or_a_cable_packets_are_dropped_and_counted() {
    let (mut netfront, end) = full();
    end.set_up(false);
    let queue = &mut netfront.queues[0];
    queue.send(&plain(60), 0, None);
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_OKAY]);
    end.set_up(true);
    netfront.control.set_link(false);
    queue.send(&plain(61), 0, None);
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_OKAY]);
    netfront.control.set_link(true);
    queue.send(&plain(62), 0, None);
    assert_eq!(end.take(1)[0].1, plain(62));
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_OKAY]);
    let tx = netfront.control.stats().tx;
    assert_eq!((tx.packets, tx.drops), (1, 2));
}

#[test]
fn a_batch_costs_one_event() {
    let (mut netfront, end) = full();
    let queue = &mut netfront.queues[0];
    end.set_busy(true);
    queue.send(&plain(60), 0, None);
    assert_eq!(queue.tx_statuses(1), [NETIF_RSP_OKAY]);
    let before = netfront.control.stats().tx.events;
    for _ in 0..32 {
        queue.send(&plain(60), 0, None);
    }
    end.set_busy(false);
    assert_eq!(end.take(33).len(), 33);
    assert_eq!(queue.tx_statuses(32), [NETIF_RSP_OKAY; 32]);
    assert!(netfront.control.stats().tx.events - before <= 2);
}
