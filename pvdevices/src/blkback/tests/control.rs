//! The VMM's handle: sizes, media, pauses, counts; and the end of a connection.

use std::sync::Arc;
use std::time::Duration;

use xenner_xen_abi::io::blkif::{
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};
use xenner_xen_abi::io::xenbus::XenbusState;

use super::super::mock::{BlkFront, Call, Connect, Event, MemoryImage, data, discard};
use super::super::{Aio, CacheMode, DiskKind, IoKind, NoEvents, VbdConfig};
use super::{config, disk, round_trip, small, whole};
use crate::image::Geometry;

#[test]
fn a_disk_grows_and_shrinks_while_connected() {
    let (mut front, image) = disk(config(), small(64), Connect::default());
    let page = front.pages(1);
    let read = |front: &mut BlkFront| {
        let entry = data(BLKIF_OP_READ, 64, &whole(&page));
        front.queue().call(entry)
    };
    assert_eq!(read(&mut front), BLKIF_RSP_ERROR);
    for (sectors, status) in [(72, BLKIF_RSP_OKAY), (64, BLKIF_RSP_ERROR)] {
        image.resize(sectors * 512);
        let told = front.front.backend_states().len();
        let keys = front.control.resized();
        front.device.as_ref().unwrap().update(keys);
        let wanted = sectors.to_string();
        front
            .front
            .wait_backend_key("sectors", |value| value == Some(&wanted));
        while front.front.backend_states().len() == told {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(read(&mut front), status);
    }
    // A frontend that comes later is told the same.
    image.resize(80 * 512);
    let _ = front.control.resized();
    front.front.close();
    front.front.restart();
    front.connect(Connect::default());
    assert_eq!(front.front.backend("sectors").as_deref(), Some("80"));
}

#[test]
fn a_medium_is_changed() {
    let config = VbdConfig {
        kind: DiskKind::Cdrom,
        ..config()
    };
    let (mut front, first) = disk(config, small(64), Connect::default());
    let page = front.pages(1);
    let read = || data(BLKIF_OP_READ, 0, &whole(&page));
    round_trip(&mut front, 0, 1);
    let _ = first.take_calls();

    let (keys, flushed) = front.control.change_medium(None);
    flushed.unwrap();
    assert!(keys.contains(&("sectors".to_owned(), "0".to_owned())));
    assert_eq!(front.queue().call(read()), BLKIF_RSP_ERROR);
    assert_eq!(front.queue().call(discard(0, 1, 0)), BLKIF_RSP_ERROR);
    assert_eq!(first.take_calls(), [Call::Flush]);
    assert!(front.control.image().is_none());
    assert_eq!(Arc::strong_count(&first), 1, "the old image is let go");

    let geometry = Geometry {
        read_only: true,
        ..small(128)
    };
    let second = MemoryImage::new(geometry);
    second.put(0, &[9; 4096]);
    let (keys, _) = front.control.change_medium(Some(second.clone()));
    assert!(keys.contains(&("sectors".to_owned(), "128".to_owned())));
    assert!(keys.contains(&("info".to_owned(), "7".to_owned())));
    assert_eq!(front.queue().call(read()), BLKIF_RSP_OKAY);
    assert_eq!(page[0].bytes(0, 4096), [9; 4096]);
}

#[test]
fn an_empty_drive_connects() {
    let config = VbdConfig {
        kind: DiskKind::Cdrom,
        ..config()
    };
    let mut front = BlkFront::publish(config, None, Arc::new(NoEvents), 64);
    front.connect(Connect::default());
    assert_eq!(front.front.backend("sectors").as_deref(), Some("0"));
    assert_eq!(front.front.backend("sector-size").as_deref(), Some("512"));
    let page = front.pages(1);
    let flush = data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]);
    assert_eq!(front.queue().call(flush), BLKIF_RSP_ERROR);
    let _ = front
        .control
        .change_medium(Some(MemoryImage::new(small(64))));
    let read = data(BLKIF_OP_READ, 0, &whole(&page));
    assert_eq!(front.queue().call(read), BLKIF_RSP_OKAY);
}

#[test]
fn a_pause_waits_for_what_is_under_way_and_holds_the_rest() {
    let config = VbdConfig {
        max_queues: 2,
        ..config()
    };
    let connect = Connect {
        queues: 2,
        ..Connect::default()
    };
    let (mut front, image) = disk(config, small(64), connect);
    let pages = front.pages(1);
    let write = || data(BLKIF_OP_WRITE, 0, &whole(&pages));
    image.close(IoKind::Write);
    front.queues[0].submit(&[(1, write())]);
    image.wait_begun(1);
    let control = front.control.clone();
    let pauser = std::thread::spawn(move || control.pause());
    std::thread::sleep(Duration::from_millis(30));
    assert!(!pauser.is_finished());
    image.open();
    let paused = pauser.join().unwrap();
    assert_eq!(front.queues[0].wait().status, BLKIF_RSP_OKAY);

    // Two pauses need two ends.
    let again = front.control.pause();
    let _ = image.take_diary();
    front.queues[0].submit(&[(2, write())]);
    front.queues[1].submit(&[(3, write())]);
    std::thread::sleep(Duration::from_millis(30));
    drop(paused);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(image.take_diary(), []);
    drop(again);
    assert_eq!(front.queues[0].wait().id, 2);
    assert_eq!(front.queues[1].wait().id, 3);
}

#[test]
fn who_connects_during_a_pause_waits() {
    let image = MemoryImage::new(small(64));
    let mut front = BlkFront::publish(config(), Some(image.clone()), Arc::new(NoEvents), 64);
    let paused = front.control.pause();
    front.connect(Connect::default());
    let page = front.pages(1);
    front
        .queue()
        .submit(&[(1, data(BLKIF_OP_WRITE, 0, &whole(&page)))]);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(image.take_diary(), []);
    drop(paused);
    assert_eq!(front.queue().wait().status, BLKIF_RSP_OKAY);
}

#[test]
fn a_paused_device_can_close() {
    let (front, _) = disk(config(), small(64), Connect::default());
    let _paused = front.control.pause();
    front.front.close();
    front.domain.assert_released();
}

#[test]
fn the_end_of_a_connection_finishes_and_flushes() {
    let config = VbdConfig {
        aio: Aio::Threads,
        ..config()
    };
    let (mut front, image) = disk(config, small(64), Connect::default());
    let pages = front.pages(4);
    image.close(IoKind::Write);
    let write = |n: usize| {
        (
            n as u64,
            data(BLKIF_OP_WRITE, 8 * n as u64, &whole(&pages[n..=n])),
        )
    };
    front
        .queue()
        .submit(&[write(0), write(1), write(2), write(3)]);
    image.wait_begun(4);
    let opener = {
        let image = image.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            image.open();
        })
    };
    front.front.close();
    opener.join().unwrap();
    for _ in 0..4 {
        assert_eq!(front.queue().poll().map(|a| a.status), Some(BLKIF_RSP_OKAY));
    }
    let diary = image.take_diary();
    assert_eq!(diary.last(), Some(&Event::End(Call::Flush)));
    assert_eq!(diary.len(), 10);
    front.domain.assert_released();
}

#[test]
fn an_unsafe_disk_is_not_flushed_at_the_end_either() {
    let config = VbdConfig {
        cache: CacheMode::Unsafe,
        ..config()
    };
    let (front, image) = disk(config, small(64), Connect::default());
    front.front.close();
    front.control.flush().unwrap();
    assert_eq!(image.take_calls(), []);
}

#[test]
fn frontends_come_and_go() {
    let config = VbdConfig {
        max_queues: 4,
        ..config()
    };
    let (mut front, _) = disk(config, small(64), Connect::default());
    for round in 0..20u32 {
        round_trip(&mut front, 8, round as u8);
        if round % 2 == 0 {
            front.front.close();
            front.domain.assert_released();
        }
        for key in ["multi-queue-num-queues", "ring-page-order"] {
            front.front.remove(key);
        }
        front.front.restart();
        let connect = Connect {
            queues: 1 + round % 4,
            order: (round % 3 != 0).then_some(round % 5),
            wide: round % 2 == 0,
            persistent: round % 3 == 0,
        };
        front.connect(connect);
    }
}

#[test]
fn counts_are_those_of_the_requests() {
    let (mut front, _) = disk(config(), small(64), Connect::default());
    assert_eq!(front.control.stats(), super::super::Stats::default());
    let pages = front.pages(2);
    let queue = front.queue();
    for _ in 0..3 {
        queue.call(data(BLKIF_OP_WRITE, 16, &whole(&pages)));
        queue.call(data(BLKIF_OP_READ, 0, &whole(&pages[..1])));
    }
    queue.call(data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]));
    queue.call(data(BLKIF_OP_READ, 64, &whole(&pages)));
    queue.call(data(BLKIF_OP_WRITE, 0, &[]));
    let stats = front.control.stats();
    let counts = |op: super::super::OpStats| (op.operations, op.bytes, op.failed, op.invalid);
    assert_eq!(counts(stats.write), (3, 3 * 8192, 0, 1));
    assert_eq!(counts(stats.read), (3, 3 * 4096, 0, 1));
    assert_eq!(counts(stats.flush), (1, 0, 0, 0));
    assert_eq!(stats.write_highest_offset, 16384);
    assert!(stats.read.total_time_ns > 0 && stats.idle.is_some());
    assert_eq!(stats.notifications, front.queue().port.events());
}

#[test]
fn pauses_and_requests_do_not_get_into_each_others_way() {
    for aio in super::WAYS {
        let config = VbdConfig {
            max_queues: 3,
            aio,
            ..config()
        };
        let connect = Connect {
            queues: 3,
            ..Connect::default()
        };
        let (mut front, _) = disk(config, small(64), connect);
        let control = front.control.clone();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let pauser = std::thread::spawn(move || {
            let mut pauses = 0;
            while told.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                drop(control.pause());
                let _ = control.resized();
                control.retry();
                pauses += 1;
            }
            pauses
        });
        let pages = front.pages(3);
        for round in 0..300 {
            for (n, queue) in front.queues.iter_mut().enumerate() {
                let op = [BLKIF_OP_WRITE, BLKIF_OP_READ, BLKIF_OP_WRITE_BARRIER][(round + n) % 3];
                queue.submit(&[(7, data(op, 8 * n as u64, &whole(&pages[n..=n])))]);
            }
            for queue in &mut front.queues {
                assert_eq!(queue.wait().status, BLKIF_RSP_OKAY);
            }
        }
        tell.send(()).unwrap();
        assert!(pauser.join().unwrap() > 0);
    }
}

#[test]
fn a_disk_is_unplugged_under_load() {
    for force in [false, true] {
        let config = VbdConfig {
            aio: Aio::Threads,
            ..config()
        };
        let (mut front, image) = disk(config, small(64), Connect::default());
        let pages = front.pages(1);
        image.close(IoKind::Write);
        let write = |id| (id, data(BLKIF_OP_WRITE, 0, &whole(&pages)));
        front.queue().submit(&[write(0), write(1), write(2)]);
        image.wait_begun(3);
        front.device.as_ref().unwrap().unplug(force);
        if !force {
            front.front.wait_backend(XenbusState::Closing);
            front.queue().submit(&[write(3)]);
            front.front.set_state(XenbusState::Closed);
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(!front.device.as_ref().unwrap().is_gone());
        image.open();
        while !front.device.as_ref().unwrap().is_gone() {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..3 {
            assert_eq!(
                front.queue().poll().map(|answer| answer.status),
                Some(BLKIF_RSP_OKAY)
            );
        }
        assert_eq!(image.take_calls().last(), Some(&Call::Flush));
        front.domain.assert_released();
        assert_eq!(front.front.backend("state"), None);
    }
}
