//! What the device offers, each feature used.

use std::sync::Arc;
use std::time::Duration;

use xenner_xen_abi::io::blkif::{
    BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER, BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};
use xenner_xen_abi::io::xenbus::XenbusState;

use super::super::mock::{
    BlkFront, Call, Connect, Event, FileImage, MemoryImage, data, discard, indirect,
};
use super::super::{Aio, CacheMode, DiskKind, IoKind, NoEvents, VbdConfig};
use super::{WAYS, config, disk, round_trip, small, whole};
use crate::image::{DiscardKind, Geometry};

#[test]
fn nodes_of_a_disk() {
    let (front, _) = disk(config(), small(1000), Connect::default());
    let wanted = [
        ("sectors", "1000"),
        ("sector-size", "512"),
        ("physical-sector-size", "512"),
        ("info", "0"),
        ("mode", "w"),
        ("device-type", "disk"),
        ("dev", "xvda"),
        ("feature-flush-cache", "1"),
        ("feature-barrier", "1"),
        ("feature-persistent", "1"),
        ("feature-max-indirect-segments", "256"),
        ("feature-discard", "1"),
        ("discard-granularity", "512"),
        ("discard-alignment", "0"),
        ("discard-secure", "0"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "1"),
    ];
    for (key, value) in wanted {
        assert_eq!(front.front.backend(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(front.front.read("virtual-device").as_deref(), Some("51712"));
    assert_eq!(front.front.read("device-type").as_deref(), Some("disk"));
}

#[test]
fn nodes_of_a_read_only_cdrom() {
    let config = VbdConfig {
        kind: DiskKind::Cdrom,
        read_only: true,
        ..config()
    };
    let (front, _) = disk(config, small(8), Connect::default());
    let wanted = [
        ("info", "7"),
        ("mode", "r"),
        ("device-type", "cdrom"),
        ("removable", "1"),
        ("feature-discard", "0"),
    ];
    for (key, value) in wanted {
        assert_eq!(front.front.backend(key).as_deref(), Some(value), "{key}");
    }
}

#[test]
fn every_shape_of_rings_carries_data() {
    let shapes = [
        (1, None),
        (1, Some(0)),
        (1, Some(4)),
        (3, None),
        (4, Some(2)),
    ];
    for (queues, order) in shapes {
        for (wide, persistent) in [(true, false), (true, true), (false, false)] {
            let config = VbdConfig {
                max_queues: 4,
                ..config()
            };
            let connect = Connect {
                queues,
                order,
                wide,
                persistent,
            };
            let (mut front, image) = disk(config, small(1000), connect);
            round_trip(&mut front, 3, 1);
            assert_eq!(image.bytes()[3 * 512], 1);
        }
    }
}

#[test]
fn rings_of_older_frontends() {
    let image = MemoryImage::new(small(64));
    let mut front = BlkFront::publish(config(), Some(image), Arc::new(NoEvents), 64);
    // Pages counted instead of an order, and no word of the layout: as GRUB, without waiting for
    // the answer to the state.
    front.share(Connect {
        order: Some(1),
        ..Connect::default()
    });
    front.front.remove("ring-page-order");
    front.front.remove("protocol");
    front.front.remove("feature-persistent");
    front.front.write("num-ring-pages", 2);
    front.front.set_state(XenbusState::Connected);
    front.front.wait_backend(XenbusState::Connected);
    round_trip(&mut front, 0, 9);
}

#[test]
fn an_order_of_zero_is_written_both_ways() {
    let image = MemoryImage::new(small(64));
    let mut front = BlkFront::publish(config(), Some(image), Arc::new(NoEvents), 64);
    front.share(Connect {
        order: Some(0),
        ..Connect::default()
    });
    let gref = front.front.read("ring-ref").expect("one page's name");
    front.front.remove("ring-ref");
    front.front.write("ring-ref0", gref);
    front.front.set_state(XenbusState::Initialised);
    front.front.wait_backend(XenbusState::Connected);
    round_trip(&mut front, 0, 9);
}

#[test]
fn frontends_that_ask_for_what_is_not_offered_are_refused() {
    let nonsense = [
        ("ring-page-order", "5"),
        ("ring-page-order", "x"),
        ("num-ring-pages", "3"),
        ("multi-queue-num-queues", "2"),
        ("multi-queue-num-queues", "0"),
        ("protocol", "ia64-abi"),
        ("ring-ref", "999999"),
        ("event-channel", "999999"),
        ("event-channel", ""),
        ("feature-persistent", "2"),
    ];
    for (key, value) in nonsense {
        let image = MemoryImage::new(small(64));
        let mut front = BlkFront::publish(config(), Some(image), Arc::new(NoEvents), 64);
        front.share(Connect::default());
        front.front.write(key, value);
        front.front.set_state(XenbusState::Initialised);
        front.front.wait_backend(XenbusState::Closing);
        assert!(front.front.error().is_some(), "{key}={value}");
        front.domain.assert_released();
    }
}

#[test]
fn parts_of_pages_make_one_range() {
    let (mut front, image) = disk(config(), small(64), Connect::default());
    let pages = front.pages(3);
    pages[0].put(7 * 512, &[1; 512]);
    pages[1].put(0, &[2; 4096]);
    pages[2].put(2 * 512, &[3; 2 * 512]);
    let parts = [
        (pages[0].gref(), 7, 7),
        (pages[1].gref(), 0, 7),
        (pages[2].gref(), 2, 3),
    ];
    assert_eq!(
        front.queue().call(data(BLKIF_OP_WRITE, 10, &parts)),
        BLKIF_RSP_OKAY
    );
    assert_eq!(image.take_calls(), [Call::Write(5120, 11 * 512)]);
    let bytes = image.bytes();
    assert_eq!(bytes[10 * 512..11 * 512], [1; 512]);
    assert_eq!(bytes[11 * 512..19 * 512], [2; 4096]);
    assert_eq!(bytes[19 * 512..21 * 512], [3; 1024]);
    assert_eq!(bytes[21 * 512], 0);
    // What lies around the parts is not touched by a read.
    pages[2].put(0, &[9; 4096]);
    let part = [(pages[2].gref(), 1, 1)];
    assert_eq!(
        front.queue().call(data(BLKIF_OP_READ, 11, &part)),
        BLKIF_RSP_OKAY
    );
    let bytes = pages[2].bytes(0, 4096);
    assert!(bytes[..512].iter().chain(&bytes[1024..]).all(|b| *b == 9));
    assert_eq!(bytes[512..1024], [2; 512]);
}

#[test]
fn indirect_requests_of_a_megabyte() {
    for (way, persistent) in [(Aio::IoUring, true), (Aio::Threads, false)] {
        let config = VbdConfig {
            aio: way,
            ..config()
        };
        let connect = Connect {
            persistent,
            ..Connect::default()
        };
        let file = Arc::new(FileImage::new(small(4096)));
        let mut front = BlkFront::publish(config, Some(file), Arc::new(NoEvents), 1024);
        front.connect(connect);
        let (pages, list) = (front.pages(256), front.page());
        for (n, page) in pages.iter().enumerate() {
            page.put(0, &[n as u8; 4096]);
        }
        let entry = indirect(BLKIF_OP_WRITE, 8, &whole(&pages), &list);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_OKAY);
        // Back into the pages in the opposite order.
        let parts: Vec<_> = whole(&pages).into_iter().rev().collect();
        let entry = indirect(BLKIF_OP_READ, 8, &parts, &list);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_OKAY);
        for (n, page) in pages.iter().enumerate() {
            assert_eq!(page.bytes(0, 4096), [255 - n as u8; 4096]);
        }
        let stats = front.control.stats();
        assert_eq!((stats.read.bytes, stats.write.bytes), (1 << 20, 1 << 20));
    }
}

#[test]
fn a_flush_reaches_the_image_in_each_cache_mode() {
    let write = Call::Write(0, 4096);
    let wanted: [(CacheMode, &[Call]); 3] = [
        (CacheMode::Writeback, &[write, Call::Flush]),
        (CacheMode::Writethrough, &[write, Call::Flush, Call::Flush]),
        (CacheMode::Unsafe, &[write]),
    ];
    for (cache, calls) in wanted {
        let config = VbdConfig { cache, ..config() };
        let (mut front, image) = disk(config, small(64), Connect::default());
        let page = front.pages(1);
        let queue = front.queue();
        assert_eq!(
            queue.call(data(BLKIF_OP_WRITE, 0, &whole(&page))),
            BLKIF_RSP_OKAY
        );
        assert_eq!(
            queue.call(data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[])),
            BLKIF_RSP_OKAY
        );
        assert_eq!(image.take_calls(), calls, "{cache:?}");
    }
}

#[test]
fn write_through_answers_after_the_flush() {
    let config = VbdConfig {
        cache: CacheMode::Writethrough,
        ..config()
    };
    let (mut front, image) = disk(config, small(64), Connect::default());
    let page = front.pages(1);
    image.close(IoKind::Flush);
    front
        .queue()
        .submit(&[(1, data(BLKIF_OP_WRITE, 0, &whole(&page)))]);
    image.wait_begun(2);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(front.queue().poll(), None);
    image.open();
    assert_eq!(front.queue().wait().status, BLKIF_RSP_OKAY);
}

#[test]
fn a_flush_with_data_flushes_first() {
    let (mut front, image) = disk(config(), small(64), Connect::default());
    let page = front.pages(1);
    let flush = data(BLKIF_OP_FLUSH_DISKCACHE, 8, &whole(&page));
    assert_eq!(front.queue().call(flush), BLKIF_RSP_OKAY);
    assert_eq!(image.take_calls(), [Call::Flush, Call::Write(4096, 4096)]);
}

#[test]
fn a_barrier_is_behind_and_before_all_else() {
    let config = VbdConfig {
        aio: Aio::Threads,
        ..config()
    };
    let (mut front, image) = disk(config, small(64), Connect::default());
    let pages = front.pages(4);
    image.close(IoKind::Write);
    let write = |n: usize| data(BLKIF_OP_WRITE, 8 * n as u64, &whole(&pages[n..=n]));
    let barrier = data(BLKIF_OP_WRITE_BARRIER, 16, &whole(&pages[2..3]));
    let entries = [(0, write(0)), (1, write(1)), (2, barrier), (3, write(3))];
    front.queue().submit(&entries);
    image.wait_begun(2);
    std::thread::sleep(Duration::from_millis(20));
    image.open();
    let mut answers: Vec<_> = (0..4).map(|_| front.queue().wait()).collect();
    assert!(answers.iter().all(|answer| answer.status == BLKIF_RSP_OKAY));
    assert_eq!(answers[2].op, BLKIF_OP_WRITE_BARRIER);
    answers.sort_by_key(|answer| answer.id);
    assert_eq!(answers[3].id, 3);
    let diary = image.take_diary();
    let (early, late) = diary.split_at(4);
    // Both writes return before the barrier's first flush begins, in whatever order.
    assert!(early.iter().all(|event| {
        matches!(event, Event::Begin(Call::Write(at, _)) | Event::End(Call::Write(at, _)) if *at < 8192)
    }));
    let (barrier, last) = (Call::Write(8192, 4096), Call::Write(12288, 4096));
    let steps = [Call::Flush, barrier, Call::Flush, last];
    let wanted: Vec<_> = steps
        .iter()
        .flat_map(|call| [Event::Begin(*call), Event::End(*call)])
        .collect();
    assert_eq!(late, wanted);
}

#[test]
fn an_empty_barrier_is_a_flush() {
    let (mut front, image) = disk(config(), small(64), Connect::default());
    let barrier = data(BLKIF_OP_WRITE_BARRIER, 0, &[]);
    assert_eq!(front.queue().call(barrier), BLKIF_RSP_OKAY);
    assert_eq!(image.take_calls(), [Call::Flush]);
    let unsafe_ = VbdConfig {
        cache: CacheMode::Unsafe,
        ..config()
    };
    let (mut front, image) = disk(unsafe_, small(64), Connect::default());
    let barrier = || data(BLKIF_OP_WRITE_BARRIER, 0, &[]);
    front.queue().submit(&[(1, barrier()), (2, barrier())]);
    assert_eq!([front.queue().wait().id, front.queue().wait().id], [1, 2]);
    assert_eq!(image.take_calls(), []);
}

#[test]
fn write_through_makes_discards_durable_too() {
    let config = VbdConfig {
        cache: CacheMode::Writethrough,
        ..config()
    };
    let (mut front, image) = disk(config, small(64), Connect::default());
    assert_eq!(front.queue().call(discard(8, 16, 0)), BLKIF_RSP_OKAY);
    let call = Call::Discard(4096, 8192, DiscardKind::Advice);
    assert_eq!(image.take_calls(), [call, Call::Flush]);
}

#[test]
fn discards_reach_the_image() {
    let mut geometry = small(64);
    let (mut front, image) = disk(config(), geometry, Connect::default());
    image.put(0, &[7; 64 * 512]);
    assert_eq!(front.queue().call(discard(8, 16, 0)), BLKIF_RSP_OKAY);
    let call = Call::Discard(4096, 8192, DiscardKind::Advice);
    assert_eq!(image.take_calls(), [call]);
    // Nothing is no work, and what is not offered is not done by halves.
    assert_eq!(front.queue().call(discard(8, 0, 0)), BLKIF_RSP_OKAY);
    assert_eq!(front.queue().call(discard(8, 16, 1)), BLKIF_RSP_EOPNOTSUPP);
    assert_eq!(image.take_calls(), []);
    let stats = front.control.stats().discard;
    assert_eq!((stats.operations, stats.bytes, stats.invalid), (2, 8192, 1));

    geometry.discard = geometry.discard.map(|mut discard| {
        discard.secure = true;
        discard
    });
    let (mut front, image) = disk(config(), geometry, Connect::default());
    assert_eq!(front.front.backend("discard-secure").as_deref(), Some("1"));
    front.queue().submit(&[(3, discard(0, 1, 1))]);
    assert_eq!(front.queue().wait().op, BLKIF_OP_DISCARD);
    let call = Call::Discard(0, 512, DiscardKind::Secure);
    assert_eq!(image.take_calls(), [call]);

    geometry.discard = None;
    let (mut front, _) = disk(config(), geometry, Connect::default());
    assert_eq!(front.front.backend("feature-discard").as_deref(), Some("0"));
    assert_eq!(front.queue().call(discard(8, 16, 0)), BLKIF_RSP_EOPNOTSUPP);
}

#[test]
fn large_sectors_keep_the_unit_of_512_bytes() {
    let geometry = Geometry {
        logical_block: 4096,
        physical_block: 4096,
        ..small(64)
    };
    let asked = VbdConfig {
        logical_block: Some(4096),
        ..config()
    };
    for (config, geometry) in [(config(), geometry), (asked, small(66))] {
        let (mut front, image) = disk(config, geometry, Connect::default());
        let wanted = [
            ("sectors", "64"),
            ("sector-size", "4096"),
            ("physical-sector-size", "4096"),
        ];
        for (key, value) in wanted {
            assert_eq!(front.front.backend(key).as_deref(), Some(value), "{key}");
        }
        let page = front.page();
        let mut call = |sector, first, last| {
            let part = [(page.gref(), first, last)];
            front.queue().call(data(BLKIF_OP_READ, sector, &part))
        };
        assert_eq!(call(8, 0, 7), BLKIF_RSP_OKAY);
        assert_eq!(call(1, 0, 7), BLKIF_RSP_ERROR);
        assert_eq!(call(8, 0, 3), BLKIF_RSP_ERROR);
        assert_eq!(call(56, 0, 7), BLKIF_RSP_OKAY);
        assert_eq!(call(64, 0, 7), BLKIF_RSP_ERROR);
        assert_eq!(
            image.take_calls(),
            [Call::Read(4096, 4096), Call::Read(28672, 4096)]
        );
    }
}

#[test]
fn persistent_grants_stay_mapped_and_others_do_not() {
    // What is not offered, as it is not by default, is not to be had by asking.
    let unasked = VbdConfig::new(51712, "xvda");
    assert!(!unasked.persistent);
    for (config, persistent, wanted) in [
        (config(), true, true),
        (config(), false, false),
        (unasked, true, false),
    ] {
        let connect = Connect {
            persistent,
            ..Connect::default()
        };
        let (mut front, _) = disk(config, small(64), connect);
        let pages = front.pages(2);
        let idle = front.domain.mapped().len();
        let before = front.domain.maps();
        for _ in 0..10 {
            let write = data(BLKIF_OP_WRITE, 0, &whole(&pages));
            assert_eq!(front.queue().call(write), BLKIF_RSP_OKAY);
        }
        let (kept, maps) = if wanted { (2, 2) } else { (0, 20) };
        assert_eq!(front.domain.mapped().len() - idle, kept);
        assert_eq!(front.domain.maps() - before, maps);
        front.front.close();
        front.domain.assert_released();
    }
}

#[test]
fn pages_are_given_back_before_the_frontend_hears_of_it() {
    for aio in WAYS {
        let file = Arc::new(FileImage::new(small(4096)));
        let config = VbdConfig { aio, ..config() };
        let mut front = BlkFront::publish(config, Some(file), Arc::new(NoEvents), 64);
        front.connect(Connect::default());
        for _ in 0..200 {
            let page = front.pages(1);
            let write = data(BLKIF_OP_WRITE, 0, &whole(&page));
            assert_eq!(front.queue().call(write), BLKIF_RSP_OKAY);
            assert!(!front.domain.mapped().contains(&page[0].gref()));
        }
    }
}

#[test]
fn a_batch_costs_one_notification_at_most() {
    for aio in WAYS {
        let file = Arc::new(FileImage::new(small(4096)));
        let config = VbdConfig { aio, ..config() };
        let mut front = BlkFront::publish(config, Some(file), Arc::new(NoEvents), 256);
        front.connect(Connect::default());
        let pages = front.pages(32);
        let entries: Vec<_> = (0..32)
            .map(|n| {
                (
                    n as u64,
                    data(BLKIF_OP_READ, 8 * n as u64, &whole(&pages[n..=n])),
                )
            })
            .collect();
        let queue = front.queue();
        let before = queue.port.events();
        queue.submit(&entries);
        // The frontend sleeps until the first answer and looks at what is there: events are for
        // answers that it had not seen.
        let mut naps = 0;
        let mut left = 32;
        while left > 0 {
            while queue.poll().is_some() {
                left -= 1;
            }
            if left > 0 && !queue.ring.final_check() {
                naps += 1;
                assert!(queue.port.wait(Duration::from_secs(20)));
            }
        }
        // Each sleep was ended by one event; one more may come of an answer that was seen already.
        assert!(queue.port.events() - before <= naps + 1, "{aio:?}");
    }
}
