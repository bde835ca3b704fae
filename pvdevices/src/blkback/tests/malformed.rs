//! Requests that no honest frontend makes: answered, and never seen by the image.

use std::sync::Arc;

use xenner_xen_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_INDIRECT, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};
use xenner_xen_abi::io::xenbus::XenbusState;

use super::super::mock::{Call, Connect, Entry, data, discard, indirect};
use super::super::{MAX_INDIRECT, VbdConfig};
use super::{config, disk, round_trip, small, whole};
use crate::domain::Access;
use crate::image::Geometry;

const SECTORS: u64 = 64;

/// Puts one request to a disk of 64 sectors; the image must not notice.
#[track_caller]
fn refused(status: i16, entry: impl Fn(u32) -> Entry) {
    for wide in [true, false] {
        let connect = Connect {
            wide,
            ..Connect::default()
        };
        let (mut front, image) = disk(config(), small(SECTORS), connect);
        let page = front.page();
        let mapped = front.domain.mapped();
        assert_eq!(front.queue().call(entry(page.gref())), status);
        assert_eq!(image.take_calls(), []);
        assert_eq!(front.domain.mapped(), mapped);
        // And the disk goes on.
        round_trip(&mut front, 0, 5);
    }
}

#[test]
fn unknown_operations_are_not_supported() {
    for op in (0..=255).filter(|op| ![0, 1, 2, 3, 5, 6].contains(op)) {
        if op % 50 == 4 {
            refused(BLKIF_RSP_EOPNOTSUPP, |gref| data(op, 0, &[(gref, 0, 7)]));
        }
    }
    let (mut front, _) = disk(config(), small(SECTORS), Connect::default());
    front.queue().submit(&[(77, data(4, 0, &[]))]);
    let answer = front.queue().wait();
    assert_eq!(
        (answer.id, answer.op, answer.status),
        (77, 4, BLKIF_RSP_EOPNOTSUPP)
    );
    assert_eq!(front.control.stats().unknown, 1);
}

#[test]
fn sectors_of_a_page_are_checked() {
    for (first, last) in [
        (0, 8),
        (8, 8),
        (5, 4),
        (255, 255),
        (0, 255),
        (7, 0),
        (255, 0),
    ] {
        for op in [BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER] {
            refused(BLKIF_RSP_ERROR, |gref| data(op, 0, &[(gref, first, last)]));
        }
    }
    // One bad segment spoils all.
    refused(BLKIF_RSP_ERROR, |gref| {
        data(
            BLKIF_OP_WRITE,
            0,
            &[(gref, 0, 7), (gref, 3, 2), (gref, 0, 7)],
        )
    });
}

#[test]
fn the_disk_ends_where_it_ends() {
    for sector in [
        57,
        64,
        65,
        1 << 32,
        1 << 55,
        u64::MAX - 7,
        u64::MAX - 8,
        u64::MAX,
    ] {
        for op in [BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_FLUSH_DISKCACHE] {
            refused(BLKIF_RSP_ERROR, |gref| data(op, sector, &[(gref, 0, 7)]));
        }
        refused(BLKIF_RSP_ERROR, |_| discard(sector, 8, 0));
    }
    for count in [65, 1 << 55, u64::MAX] {
        refused(BLKIF_RSP_ERROR, |_| discard(0, count, 0));
        refused(BLKIF_RSP_ERROR, |_| discard(1, count, 0));
    }
    // Each segment is on the disk, all of them are not.
    refused(BLKIF_RSP_ERROR, |gref| {
        data(BLKIF_OP_READ, 56, &[(gref, 0, 7), (gref, 0, 0)])
    });
}

#[test]
fn segment_counts_are_checked() {
    refused(BLKIF_RSP_ERROR, |_| data(BLKIF_OP_READ, 0, &[]));
    refused(BLKIF_RSP_ERROR, |_| data(BLKIF_OP_WRITE, 0, &[]));
    for count in [12, 13, 128, 255] {
        for op in 0..4 {
            refused(BLKIF_RSP_ERROR, |gref| {
                Entry::Data(op, count, 0, vec![(gref, 0, 0); 11])
            });
        }
    }
    for count in [0, MAX_INDIRECT + 1, 4096, 4097, u16::MAX] {
        refused(BLKIF_RSP_ERROR, |gref| {
            Entry::Indirect(BLKIF_OP_WRITE, count, 0, vec![gref; 8])
        });
    }
}

#[test]
fn only_reads_and_writes_can_be_indirect() {
    for op in [
        BLKIF_OP_WRITE_BARRIER,
        BLKIF_OP_FLUSH_DISKCACHE,
        BLKIF_OP_DISCARD,
        BLKIF_OP_INDIRECT,
        255,
    ] {
        refused(BLKIF_RSP_EOPNOTSUPP, |gref| {
            Entry::Indirect(op, 1, 0, vec![gref; 8])
        });
    }
}

#[test]
fn grants_are_checked() {
    for op in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
        for bad in [0, 4_000_000_000, u32::MAX] {
            refused(BLKIF_RSP_ERROR, |_| data(op, 0, &[(bad, 0, 7)]));
            refused(BLKIF_RSP_ERROR, |gref| {
                data(op, 0, &[(gref, 0, 7), (bad, 0, 7)])
            });
            refused(BLKIF_RSP_ERROR, |_| Entry::Indirect(op, 1, 0, vec![bad; 8]));
        }
    }
}

#[test]
fn an_indirect_list_is_checked_as_direct_segments_are() {
    for persistent in [false, true] {
        let connect = Connect {
            persistent,
            ..Connect::default()
        };
        let (mut front, image) = disk(config(), small(SECTORS), connect);
        let (page, list) = (front.page(), front.page());
        for part in [(page.gref(), 3, 2), (page.gref(), 0, 8), (u32::MAX, 0, 7)] {
            let parts = [(page.gref(), 0, 0), part];
            let entry = indirect(BLKIF_OP_READ, 0, &parts, &list);
            assert_eq!(front.queue().call(entry), BLKIF_RSP_ERROR);
        }
        let long = vec![(page.gref(), 0, 7); 9];
        let entry = indirect(BLKIF_OP_READ, 0, &long, &list);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_ERROR);
        assert_eq!(image.take_calls(), []);
        let entry = indirect(BLKIF_OP_READ, 0, &long[..8], &list);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_OKAY);
    }
}

#[test]
fn a_page_granted_for_reading_serves_writes_alone() {
    for persistent in [false, true] {
        let connect = Connect {
            persistent,
            ..Connect::default()
        };
        let (mut front, image) = disk(config(), small(SECTORS), connect);
        let page = front.domain.granted_page(Access::Read);
        let part = [(page.gref(), 0, 7)];
        assert_eq!(
            front.queue().call(data(BLKIF_OP_READ, 0, &part)),
            BLKIF_RSP_ERROR
        );
        assert_eq!(image.take_calls(), []);
        assert_eq!(
            front.queue().call(data(BLKIF_OP_WRITE, 0, &part)),
            BLKIF_RSP_OKAY
        );
        // A list in such a page is a list, and it is not kept mapped.
        let list = front.domain.granted_page(Access::Read);
        let entry = indirect(BLKIF_OP_WRITE, 0, &part, &list);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_OKAY);
        assert!(front.domain.end_grant(page.gref()));
        assert!(front.domain.end_grant(list.gref()));
    }
}

#[test]
fn a_read_only_disk_takes_no_write() {
    let here = VbdConfig {
        read_only: true,
        ..config()
    };
    let there = Geometry {
        read_only: true,
        ..small(SECTORS)
    };
    for (config, geometry) in [(here, small(SECTORS)), (config(), there)] {
        let (mut front, image) = disk(config, geometry, Connect::default());
        let page = front.pages(1);
        for op in [
            BLKIF_OP_WRITE,
            BLKIF_OP_WRITE_BARRIER,
            BLKIF_OP_FLUSH_DISKCACHE,
        ] {
            let entry = data(op, 0, &whole(&page));
            assert_eq!(front.queue().call(entry), BLKIF_RSP_ERROR, "{op}");
        }
        assert_eq!(front.queue().call(discard(0, 8, 0)), BLKIF_RSP_ERROR);
        assert_eq!(image.take_calls(), []);
        let read = data(BLKIF_OP_READ, 0, &whole(&page));
        assert_eq!(front.queue().call(read), BLKIF_RSP_OKAY);
        let flush = data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]);
        assert_eq!(front.queue().call(flush), BLKIF_RSP_OKAY);
        assert_eq!(image.take_calls(), [Call::Read(0, 4096), Call::Flush]);
    }
}

#[test]
fn an_overrun_closes_the_device_after_what_was_honest() {
    for beyond in [33, 1000, u32::MAX / 2, u32::MAX] {
        let (mut front, _) = disk(config(), small(SECTORS), Connect::default());
        let page = front.pages(1);
        let write = data(BLKIF_OP_WRITE, 0, &whole(&page));
        assert_eq!(front.queue().call(write), BLKIF_RSP_OKAY);
        let queue = front.queue();
        queue
            .ring
            .forge_req_prod(queue.ring.rsp_prod().wrapping_add(beyond));
        queue.port.send();
        front.front.wait_backend(XenbusState::Closing);
        let error = front.front.error().expect("a word about it");
        assert!(error.contains("req_prod"), "{error}");
        front.domain.assert_released();
        // A new frontend is as welcome as the first.
        front.front.set_state(XenbusState::Closed);
        front.front.wait_backend(XenbusState::Closed);
        front.front.restart();
        front.connect(Connect::default());
        round_trip(&mut front, 8, 1);
    }
}

#[test]
fn a_full_ring_of_nonsense_is_answered() {
    let connect = Connect {
        order: Some(4),
        ..Connect::default()
    };
    let (mut front, image) = disk(config(), small(SECTORS), connect);
    let size = u64::from(front.queue().ring.size());
    assert_eq!(size, 512);
    for round in 0..4 {
        let entries: Vec<_> = (0..size)
            .map(|n| {
                let bytes = (0..112)
                    .map(|at| (n * 31 + at * round + 17) as u8)
                    .collect();
                (n, Entry::Raw(bytes))
            })
            .collect();
        front.queue().submit(&entries);
        for _ in 0..size {
            assert_ne!(front.queue().wait().status, BLKIF_RSP_OKAY);
        }
    }
    assert_eq!(image.take_calls(), []);
    assert!(Arc::strong_count(&image) > 1);
}
