//! The two ways to the host do the same, and what one cannot do the other does.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use xenner_xen_abi::io::blkif::{
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};

use super::super::engine::{Engine, Job, Mailbox, Part, Pool};
use super::super::grants::Pages;
use super::super::mock::{BlkFront, Call, Connect, FileImage, data};
use super::super::request::{Range, Work};
use super::super::{Aio, NoEvents, VbdConfig};
use super::{WAYS, config, small, whole};
use crate::domain::{Access, Domain};
use crate::image::Geometry;
use crate::mock::MockDomain;

/// Whether the host lets this process have an `io_uring`; a host that does not is skipped loudly.
fn has_uring() -> bool {
    let made = io_uring::IoUring::new(1);
    if let Err(error) = &made {
        eprintln!("skipped: no io_uring here: {error}");
    }
    made.is_ok()
}

fn connect(aio: Aio, image: Arc<FileImage>) -> BlkFront {
    let config = VbdConfig { aio, ..config() };
    let mut front = BlkFront::publish(config, Some(image), Arc::new(NoEvents), 256);
    front.connect(Connect::default());
    front
}

#[test]
fn both_ways_carry_the_same_data() {
    for aio in WAYS {
        let image = Arc::new(FileImage::new(small(1024)));
        let mut front = connect(aio, image.clone());
        let pages = front.pages(64);
        for (n, page) in pages.iter().enumerate() {
            page.put(0, &[n as u8; 4096]);
        }
        let batch = |op| {
            let entry = |n: usize| data(op, 8 * (31 - n as u64), &whole(&pages[n..=n]));
            (0..32).map(|n| (n as u64, entry(n))).collect::<Vec<_>>()
        };
        for op in [BLKIF_OP_WRITE, BLKIF_OP_READ] {
            front.queue().submit(&batch(op));
            for _ in 0..32 {
                assert_eq!(front.queue().wait().status, BLKIF_RSP_OKAY);
            }
            pages[..32].iter().enumerate().for_each(|(n, page)| {
                assert_eq!(page.bytes(0, 4096), [n as u8; 4096]);
            });
        }
        let flush = data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]);
        assert_eq!(front.queue().call(flush), BLKIF_RSP_OKAY);
        // io_uring does it without the image's own calls.
        let direct = aio == Aio::IoUring && has_uring();
        assert_eq!(image.take_calls().is_empty(), direct);
    }
}

#[test]
fn what_direct_io_cannot_take_goes_through_the_image() {
    let aligned = || {
        let image = FileImage::new(small(64));
        let file = image.file().try_clone().unwrap();
        Arc::new(FileImage::over(file, small(64), 4096))
    };
    let image = aligned();
    let mut front = connect(Aio::IoUring, image.clone());
    let page = front.pages(2);
    page[0].put(512, &[3; 512]);
    let part = [(page[0].gref(), 1, 1)];
    assert_eq!(
        front.queue().call(data(BLKIF_OP_WRITE, 8, &part)),
        BLKIF_RSP_OKAY
    );
    assert_eq!(image.take_calls(), [Call::Write(4096, 512)]);
    let parts = whole(&page);
    assert_eq!(
        front.queue().call(data(BLKIF_OP_READ, 8, &parts)),
        BLKIF_RSP_OKAY
    );
    assert_eq!(page[0].bytes(0, 512), [3; 512]);
    assert_eq!(image.take_calls().is_empty(), has_uring());
    assert_eq!(
        front.queue().call(data(BLKIF_OP_READ, 9, &parts)),
        BLKIF_RSP_OKAY
    );
    assert_eq!(image.take_calls(), [Call::Read(4608, 8192)]);
}

#[test]
fn a_file_shorter_than_the_disk_reads_as_zeros_behind_its_end() {
    for aio in WAYS {
        let image = Arc::new(FileImage::new(small(64)));
        image.file().set_len(5000).unwrap();
        let mut front = connect(aio, image);
        let page = front.pages(1);
        page[0].put(0, &[7; 4096]);
        assert_eq!(
            front.queue().call(data(BLKIF_OP_WRITE, 0, &whole(&page))),
            BLKIF_RSP_OKAY
        );
        assert_eq!(
            front.queue().call(data(BLKIF_OP_READ, 4, &whole(&page))),
            BLKIF_RSP_OKAY
        );
        let bytes = page[0].bytes(0, 4096);
        assert!(bytes[..2048].iter().all(|byte| *byte == 7));
        assert!(bytes[2048..].iter().all(|byte| *byte == 0));
        page[0].put(0, &[9; 4096]);
        assert_eq!(
            front.queue().call(data(BLKIF_OP_READ, 56, &whole(&page))),
            BLKIF_RSP_OKAY
        );
        assert_eq!(page[0].bytes(0, 4096), [0; 4096]);
    }
}

#[test]
fn a_file_that_refuses_gives_errors() {
    // A descriptor for reading alone.
    let file = File::open("/dev/zero").unwrap();
    for aio in WAYS {
        let geometry = Geometry {
            discard: None,
            ..small(64)
        };
        let image = Arc::new(FileImage::over(file.try_clone().unwrap(), geometry, 1));
        let mut front = connect(aio, image);
        let page = front.pages(1);
        page[0].put(0, &[9; 4096]);
        assert_eq!(
            front.queue().call(data(BLKIF_OP_WRITE, 0, &whole(&page))),
            BLKIF_RSP_ERROR
        );
        assert_eq!(
            front.queue().call(data(BLKIF_OP_READ, 0, &whole(&page))),
            BLKIF_RSP_OKAY
        );
        assert_eq!(page[0].bytes(0, 4096), [0; 4096]);
        assert_eq!(front.control.stats().write.failed, 1);
    }
}

#[test]
fn an_engine_that_is_dropped_has_let_go_of_everything() {
    let domain = MockDomain::new(1, 64);
    let pages: Vec<_> = (0..32)
        .map(|_| domain.granted_page(Access::Write))
        .collect();
    for aio in WAYS {
        let image = Arc::new(FileImage::new(small(1024)));
        let mut granted = Pages::new(domain.grants(), false, Instant::now());
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let pool = Arc::new(Pool::new("test".to_owned()));
        let mut engine = Engine::new(aio, 32, pool, mailbox);
        for (token, page) in pages.iter().enumerate() {
            let page = granted.get(page.gref(), true, Instant::now()).unwrap();
            let job = Job {
                image: image.clone(),
                work: Work::Read,
                range: Range {
                    offset: 0,
                    len: 4096,
                },
                parts: vec![Part {
                    page,
                    offset: 0,
                    len: 4096,
                }],
            };
            engine.start(token, Box::new(job));
        }
        assert_eq!(engine.active(), 32);
        drop(engine);
        if aio == Aio::IoUring && has_uring() {
            domain.assert_released();
        }
        // The pool's threads let go when they are done.
        while !domain.mapped().is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn jobs_that_do_not_fit_together_are_not_for_the_kernel() {
    let domain = MockDomain::new(1, 4);
    let (page, readable) = (
        domain.granted_page(Access::Write),
        domain.granted_page(Access::Read),
    );
    let pages = Pages::new(domain.grants(), false, Instant::now());
    let image = Arc::new(FileImage::new(small(64)));
    let wrong = [
        (page.gref(), true, 1, 4096, 4096),
        (page.gref(), true, usize::MAX, 4096, 4096),
        (page.gref(), true, 0, 512, 4096),
        (readable.gref(), false, 0, 4096, 4096),
    ];
    for (gref, write, offset, len, whole) in wrong {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let pool = Arc::new(Pool::new("test".to_owned()));
        let mut engine = Engine::new(Aio::IoUring, 4, pool, mailbox);
        let page = pages.map(gref, write).unwrap();
        let parts = vec![Part { page, offset, len }];
        let job = Job {
            image: image.clone(),
            work: Work::Read,
            range: Range {
                offset: 0,
                len: whole,
            },
            parts,
        };
        engine.start(0, Box::new(job));
        assert!(engine.submit().unwrap());
        let mut done = Vec::new();
        while done.is_empty() {
            engine.collect(&mut done);
        }
    }
    // Each went to the image or failed before it; none went past it.
    assert!(image.take_calls().len() <= wrong.len());
}
