//! Hosts that fail: what the guest hears, what the VMM hears, what is tried again.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use xenner_xen_abi::io::blkif::{
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};

use super::super::mock::{BlkFront, Call, Connect, MemoryImage, data, discard};
use super::super::{CacheMode, ErrorAction, ErrorPolicy, IoFault, IoKind, Policies, VbdConfig};
use super::{Told, config, round_trip, small, whole};

fn failing(policies: Policies, cache: CacheMode) -> (BlkFront, Arc<MemoryImage>, Arc<Told>) {
    let image = MemoryImage::new(small(64));
    let told = Arc::new(Told::default());
    let config = VbdConfig {
        policies,
        cache,
        ..config()
    };
    let mut front = BlkFront::publish(config, Some(image.clone()), told.clone(), 64);
    front.connect(Connect::default());
    (front, image, told)
}

fn both(policy: ErrorPolicy) -> Policies {
    Policies {
        read: policy,
        write: policy,
    }
}

#[test]
fn policies_and_their_actions() {
    use ErrorAction as A;
    let wanted = [
        (ErrorPolicy::Report, A::Report, A::Report),
        (ErrorPolicy::Ignore, A::Ignore, A::Ignore),
        (ErrorPolicy::Stop, A::Stop, A::Stop),
        (ErrorPolicy::Enospc, A::Stop, A::Report),
    ];
    for (policy, full, broken) in wanted {
        assert_eq!(policy.action(Errno::NOSPC), full);
        assert_eq!(policy.action(Errno::IO), broken);
    }
    let default = Policies::default();
    assert_eq!(default.read, ErrorPolicy::Report);
    assert_eq!(default.write, ErrorPolicy::Enospc);
}

#[test]
fn errors_are_reported() {
    let (mut front, image, told) = failing(both(ErrorPolicy::Report), CacheMode::Writeback);
    let page = front.pages(1);
    let requests = [
        (
            IoKind::Read,
            data(BLKIF_OP_READ, 8, &whole(&page)),
            4096,
            4096,
        ),
        (
            IoKind::Write,
            data(BLKIF_OP_WRITE, 8, &whole(&page)),
            4096,
            4096,
        ),
        (IoKind::Flush, data(BLKIF_OP_FLUSH_DISKCACHE, 8, &[]), 0, 0),
        (IoKind::Discard, discard(8, 1, 0), 4096, 512),
    ];
    for (kind, entry, offset, len) in requests {
        image.fail(kind, Errno::IO, 1);
        assert_eq!(front.queue().call(entry), BLKIF_RSP_ERROR, "{kind:?}");
        let fault = IoFault {
            kind,
            offset,
            len,
            errno: Errno::IO,
            action: ErrorAction::Report,
        };
        assert_eq!(told.wait(), [fault]);
    }
    let stats = front.control.stats();
    for op in [stats.read, stats.write, stats.flush, stats.discard] {
        assert_eq!((op.operations, op.failed, op.bytes), (0, 1, 0));
    }
    round_trip(&mut front, 0, 1);
}

#[test]
fn errors_are_ignored() {
    let (mut front, image, told) = failing(both(ErrorPolicy::Ignore), CacheMode::Writethrough);
    let page = front.pages(1);
    image.fail(IoKind::Write, Errno::IO, 1);
    let write = data(BLKIF_OP_WRITE, 8, &whole(&page));
    assert_eq!(front.queue().call(write), BLKIF_RSP_OKAY);
    assert_eq!(told.wait()[0].action, ErrorAction::Ignore);
    // What follows the failed part is done all the same.
    assert_eq!(image.take_calls(), [Call::Write(4096, 4096), Call::Flush]);
}

#[test]
fn a_full_disk_loses_nothing() {
    let (mut front, image, told) = failing(Policies::default(), CacheMode::Writeback);
    let pages = front.pages(3);
    for (n, page) in pages.iter().enumerate() {
        page.put(0, &[n as u8 + 1; 4096]);
    }
    image.fail(IoKind::Write, Errno::NOSPC, 2);
    let write = |n: usize| data(BLKIF_OP_WRITE, 8 * n as u64, &whole(&pages[n..=n]));
    front.queue().submit(&[(0, write(0))]);
    assert_eq!(told.wait()[0].action, ErrorAction::Stop);
    front.queue().submit(&[(1, write(1))]);
    assert_eq!(told.wait()[0].errno, Errno::NOSPC);
    // What there is room for is written, also while others wait.
    front.queue().submit(&[(2, write(2))]);
    let answer = front.queue().wait();
    assert_eq!((answer.id, answer.status), (2, BLKIF_RSP_OKAY));
    assert_eq!(front.control.held(), 2);
    assert_eq!(front.queue().poll(), None);

    // Still full, then not.
    image.fail(IoKind::Write, Errno::NOSPC, 2);
    front.control.retry();
    assert_eq!(told.wait()[0].action, ErrorAction::Stop);
    while front.control.held() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    front.control.retry();
    let mut ids = [front.queue().wait(), front.queue().wait()].map(|answer| {
        assert_eq!(answer.status, BLKIF_RSP_OKAY);
        answer.id
    });
    ids.sort_unstable();
    assert_eq!((ids, front.control.held()), ([0, 1], 0));
    let bytes = image.bytes();
    for n in 0..3 {
        assert_eq!(bytes[n * 4096..(n + 1) * 4096], [n as u8 + 1; 4096]);
    }
    assert_eq!(front.control.stats().write.operations, 3);
}

#[test]
fn every_step_of_a_barrier_can_stop_and_go_on() {
    for (kind, before) in [(IoKind::Flush, 0), (IoKind::Write, 0), (IoKind::Flush, 1)] {
        let (mut front, image, told) = failing(both(ErrorPolicy::Stop), CacheMode::Writeback);
        let page = front.pages(1);
        if before == 0 {
            image.fail(kind, Errno::IO, 1);
        } else {
            // The second flush is to fail: while the write waits, the first is over.
            image.close(IoKind::Write);
        }
        let barrier = data(BLKIF_OP_WRITE_BARRIER, 8, &whole(&page));
        let write = data(BLKIF_OP_WRITE, 16, &whole(&page));
        front.queue().submit(&[(1, barrier), (2, write)]);
        if before == 1 {
            image.wait_begun(2);
            image.fail(kind, Errno::IO, 1);
            image.open();
        }
        assert_eq!(told.wait()[0].kind, kind);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(front.queue().poll(), None, "nothing passes a barrier");
        front.control.retry();
        for id in [1, 2] {
            let answer = front.queue().wait();
            assert_eq!((answer.id, answer.status), (id, BLKIF_RSP_OKAY));
        }
        let calls = image.take_calls();
        assert_eq!(calls.len(), 5, "one of them twice: {calls:?}");
        assert_eq!(calls[4], Call::Write(8192, 4096));
    }
}

#[test]
fn a_closing_device_does_not_wait_for_another_try() {
    let (mut front, image, told) = failing(both(ErrorPolicy::Stop), CacheMode::Writeback);
    let page = front.pages(1);
    image.fail(IoKind::Write, Errno::IO, 1);
    front
        .queue()
        .submit(&[(1, data(BLKIF_OP_WRITE, 8, &whole(&page)))]);
    let _ = told.wait();
    front.front.close();
    assert_eq!(front.queue().wait().status, BLKIF_RSP_ERROR);
    assert_eq!(front.control.held(), 0);
    front.domain.assert_released();
}

#[test]
fn an_image_that_panics_costs_a_request() {
    let (mut front, image, told) = failing(Policies::default(), CacheMode::Writeback);
    let page = front.pages(1);
    image.rot();
    let read = data(BLKIF_OP_READ, 0, &whole(&page));
    assert_eq!(front.queue().call(read), BLKIF_RSP_ERROR);
    assert_eq!(told.wait()[0].errno, Errno::IO);
    assert_eq!(front.control.stats().read.failed, 1);
}
