//! The block backend: whatever a frontend puts into its ring, each request gets one answer, the
//! image sees no range that is not on it, and everything that was granted is given back. The first
//! bytes choose the frontend and the disk; then each step is a request, mostly a plausible one.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use xenner_pvdevices::blkback::mock::{BlkFront, Connect, Entry, MemoryImage, Part};
use xenner_pvdevices::blkback::{Aio, CacheMode, NoEvents, VbdConfig};
use xenner_pvdevices::domain::Access;
use xenner_pvdevices::image::{Discard, Geometry};
use xenner_pvdevices::mock::GrantedPage;

const SECTORS: u64 = 64;
const PAGES: usize = 8;

#[derive(Debug, Arbitrary)]
struct Frontend {
    wide: bool,
    persistent: bool,
    order: Option<u8>,
    block: bool,
    read_only: bool,
    discard: Option<bool>,
    cache: u8,
    threads: bool,
}

impl Frontend {
    fn publish(&self, image: Arc<MemoryImage>) -> BlkFront {
        let config = VbdConfig {
            cache: [
                CacheMode::Writeback,
                CacheMode::Writethrough,
                CacheMode::Unsafe,
            ][usize::from(self.cache) % 3],
            aio: if self.threads {
                Aio::Threads
            } else {
                Aio::IoUring
            },
            ..VbdConfig::new(51712, "xvda")
        };
        let mut front = BlkFront::publish(config, Some(image), Arc::new(NoEvents), 64);
        front.connect(Connect {
            queues: 1,
            order: self.order.map(|order| u32::from(order % 5)),
            wide: self.wide,
            persistent: self.persistent,
        });
        front
    }

    fn geometry(&self) -> Geometry {
        let block = if self.block { 4096 } else { 512 };
        Geometry {
            size: SECTORS * 512,
            logical_block: block,
            physical_block: block,
            read_only: self.read_only,
            discard: self.discard.map(|secure| Discard {
                granularity: block,
                alignment: 0,
                secure,
            }),
        }
    }
}

/// A number that is mostly a good one.
fn near(u: &mut Unstructured<'_>, good: std::ops::Range<u64>) -> arbitrary::Result<u64> {
    if u.ratio(1, 8)? {
        u.arbitrary()
    } else {
        u.int_in_range(good.start..=good.end - 1)
    }
}

fn gref(u: &mut Unstructured<'_>, pages: &[GrantedPage]) -> arbitrary::Result<u32> {
    if u.ratio(1, 16)? {
        u.arbitrary()
    } else {
        Ok(u.choose(pages)?.gref())
    }
}

fn part(u: &mut Unstructured<'_>, pages: &[GrantedPage]) -> arbitrary::Result<Part> {
    let last = near(u, 0..8)? as u8;
    Ok((
        gref(u, pages)?,
        near(u, 0..u64::from(last).min(7) + 1)? as u8,
        last,
    ))
}

fn entry(u: &mut Unstructured<'_>, pages: &[GrantedPage]) -> arbitrary::Result<Entry> {
    let sector = near(u, 0..SECTORS)?;
    Ok(match u.int_in_range(0..=9)? {
        0 => {
            let mut raw = vec![0; 108];
            u.fill_buffer(&mut raw)?;
            Entry::Raw(raw)
        }
        1 => Entry::Discard(sector, near(u, 0..SECTORS)?, u.arbitrary()?),
        2 => {
            // The list is whatever lies in a page, which writes and reads change meanwhile.
            let grefs = (0..8).map(|_| gref(u, pages)).collect::<Result<_, _>>()?;
            Entry::Indirect(near(u, 0..2)? as u8, near(u, 1..12)? as u16, sector, grefs)
        }
        3 => {
            let list = u.choose(pages)?;
            let parts = (0..u.int_in_range(1..=6)?).map(|_| part(u, pages));
            let mut bytes = Vec::new();
            for (gref, first, last) in parts.collect::<arbitrary::Result<Vec<_>>>()? {
                bytes.extend(gref.to_le_bytes());
                bytes.extend([first, last, 0, 0]);
            }
            list.put(0, &bytes);
            let count = (bytes.len() / 8) as u16;
            Entry::Indirect(near(u, 0..2)? as u8, count, sector, vec![list.gref(); 8])
        }
        _ => {
            let parts = (0..u.int_in_range(0..=4)?).map(|_| part(u, pages));
            let parts = parts.collect::<arbitrary::Result<Vec<_>>>()?;
            let count = near(u, parts.len() as u64..parts.len() as u64 + 1)? as u8;
            Entry::Data(near(u, 0..4)? as u8, count, sector, parts)
        }
    })
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let frontend = Frontend::arbitrary(u)?;
    let image = MemoryImage::new(frontend.geometry());
    let mut front = frontend.publish(image);
    let mut pages = front.pages(PAGES - 1);
    pages.push(front.domain.granted_page(Access::Read));
    let (mut waiting, mut next) = (HashSet::new(), 0u64);
    while !u.is_empty() {
        let mut batch = Vec::new();
        for _ in 0..u.int_in_range(1..=front.queue().ring.free().min(40))? {
            let raw = entry(u, &pages)?;
            // A raw entry has an id of its own.
            if !matches!(raw, Entry::Raw(_)) {
                waiting.insert(next);
            }
            batch.push((next, raw));
            next += 1;
        }
        let strangers = batch
            .iter()
            .filter(|(_, e)| matches!(e, Entry::Raw(_)))
            .count();
        front.queue().submit(&batch);
        let mut strange = 0;
        for _ in 0..batch.len() {
            let answer = front.queue().wait();
            assert!((-2..=0).contains(&answer.status));
            if !waiting.remove(&answer.id) {
                strange += 1;
            }
        }
        assert!(strange <= strangers, "answers to nobody");
    }
    let stats = front.control.stats();
    let kinds = [stats.read, stats.write, stats.flush, stats.discard];
    assert_eq!(
        kinds.map(|kind| kind.failed),
        [0; 4],
        "the image was asked what it must not be"
    );
    if u.arbitrary().unwrap_or(false) {
        front.front.close();
    } else {
        let queue = front.queue();
        queue
            .ring
            .forge_req_prod(queue.ring.req_prod().wrapping_sub(1));
        queue.port.send();
        front
            .front
            .wait_backend_key("state", |state| state == Some("5"));
    }
    front.domain.assert_released();
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    // An input that ends early has done what it says until then.
    let _ = run(&mut Unstructured::new(data));
});
