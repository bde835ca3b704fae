//! Any sequence of requests, at any depth, against a disk that is a vector.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use xenner_xen_abi::io::blkif::{
    BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR, BLKIF_RSP_OKAY,
};

use super::super::mock::{
    BlkFront, Connect, Entry, FileImage, MemoryImage, Part, data, discard, indirect,
};
use super::super::{Aio, NoEvents, VbdConfig};
use super::{config, small};
use crate::image::Image;
use crate::mock::GrantedPage;

const SECTORS: u64 = 96;

/// What the model does; sectors may lie beyond the disk.
#[derive(Debug, Clone)]
enum Step {
    Read(u64, Vec<(u8, u8)>, bool),
    Write(u64, Vec<(u8, u8)>, u8, bool),
    Barrier(u64, Vec<(u8, u8)>, u8),
    Flush,
    Discard(u64, u64),
    /// All answers are waited for.
    Settle,
}

fn parts(most: usize) -> impl Strategy<Value = Vec<(u8, u8)>> {
    let part = (0u8..8).prop_flat_map(|first| (Just(first), first..8));
    prop::collection::vec(part, 1..=most)
}

fn step() -> impl Strategy<Value = Step> {
    let sector = || prop_oneof![9 => 0..SECTORS, 1 => any::<u64>()];
    prop_oneof![
        4 => (sector(), parts(11)).prop_map(|(at, parts)| Step::Read(at, parts, false)),
        4 => (sector(), parts(11), any::<u8>()).prop_map(|(at, p, v)| Step::Write(at, p, v, false)),
        1 => (sector(), parts(16)).prop_map(|(at, parts)| Step::Read(at, parts, true)),
        1 => (sector(), parts(16), any::<u8>()).prop_map(|(at, p, v)| Step::Write(at, p, v, true)),
        1 => (sector(), parts(3), any::<u8>()).prop_map(|(at, p, v)| Step::Barrier(at, p, v)),
        1 => Just(Step::Flush),
        1 => (sector(), 0u64..20).prop_map(|(at, count)| Step::Discard(at, count)),
        1 => Just(Step::Settle),
    ]
}

/// Parts of pages and what they hold.
type Wanted = (Vec<(u8, u8)>, Vec<u8>);

/// A request that has no answer yet.
struct Waiting {
    status: i16,
    pages: Vec<GrantedPage>,
    _list: GrantedPage,
    /// For a read: what its parts must hold then.
    wanted: Option<Wanted>,
    /// The sectors it touches.
    span: std::ops::Range<u64>,
    writes: bool,
}

struct Model {
    front: BlkFront,
    bytes: Vec<u8>,
    waiting: HashMap<u64, Waiting>,
    next: u64,
    keeps_discarded: bool,
}

impl Model {
    fn new(
        config: VbdConfig,
        connect: Connect,
        image: Arc<dyn Image>,
        keeps_discarded: bool,
    ) -> Self {
        let mut front = BlkFront::publish(config, Some(image), Arc::new(NoEvents), 1400);
        front.connect(connect);
        Self {
            front,
            bytes: vec![0; (SECTORS * 512) as usize],
            waiting: HashMap::new(),
            next: 1,
            keeps_discarded,
        }
    }

    fn settle_one(&mut self) {
        let count = self.front.queues.len();
        // The rings take turns; one that has nothing under way has nothing to say.
        let queue = (0..count)
            .find(|n| self.front.queues[*n].ring.in_flight() > 0)
            .expect("a request under way");
        let answer = self.front.queues[queue].wait();
        let waiting = self
            .waiting
            .remove(&answer.id)
            .expect("one answer for each request");
        assert_eq!(answer.status, waiting.status);
        let Some((parts, wanted)) = waiting.wanted else {
            return;
        };
        let mut found = Vec::new();
        for (page, (first, last)) in waiting.pages.iter().zip(parts) {
            let (from, to) = (usize::from(first) * 512, usize::from(last + 1) * 512);
            found.extend(page.bytes(from, to - from));
        }
        assert!(found == wanted, "a read of {:?}", waiting.span);
    }

    fn settle(&mut self) {
        while !self.waiting.is_empty() {
            self.settle_one();
        }
    }

    /// Requests that touch the same sectors have no order: the model waits for the first of them.
    fn avoid(&mut self, span: &std::ops::Range<u64>, writes: bool) {
        let hit = |w: &Waiting| {
            (w.writes || writes) && w.span.start < span.end && span.start < w.span.end
        };
        while self.waiting.values().any(hit) {
            self.settle_one();
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Settle => self.settle(),
            Step::Flush => self.submit(
                0..0,
                false,
                |_, _| data(BLKIF_OP_FLUSH_DISKCACHE, 0, &[]),
                &[],
                None,
            ),
            Step::Read(at, parts, listed) => {
                let span = self.span(*at, parts);
                let make = |parts: &[Part], list: &GrantedPage| match listed {
                    true => indirect(BLKIF_OP_READ, *at, parts, list),
                    false => data(BLKIF_OP_READ, *at, parts),
                };
                self.submit(span, false, make, parts, None);
            }
            Step::Write(at, parts, value, listed) => {
                let span = self.span(*at, parts);
                let make = |parts: &[Part], list: &GrantedPage| match listed {
                    true => indirect(BLKIF_OP_WRITE, *at, parts, list),
                    false => data(BLKIF_OP_WRITE, *at, parts),
                };
                self.submit(span, true, make, parts, Some(*value));
            }
            Step::Barrier(at, parts, value) => {
                let span = self.span(*at, parts);
                let make =
                    |parts: &[Part], _: &GrantedPage| data(BLKIF_OP_WRITE_BARRIER, *at, parts);
                self.submit(span, true, make, parts, Some(*value));
            }
            Step::Discard(at, count) => {
                let span = *at..at.saturating_add(*count);
                self.submit(
                    span.clone(),
                    true,
                    |_, _| discard(*at, *count, 0),
                    &[],
                    None,
                );
                if span.end <= SECTORS && !self.keeps_discarded {
                    self.bytes[(span.start * 512) as usize..(span.end * 512) as usize].fill(0);
                }
            }
        }
    }

    fn span(&self, at: u64, parts: &[(u8, u8)]) -> std::ops::Range<u64> {
        let count = parts
            .iter()
            .map(|(first, last)| u64::from(last - first + 1))
            .sum();
        at..at.saturating_add(count)
    }

    fn submit(
        &mut self,
        span: std::ops::Range<u64>,
        writes: bool,
        make: impl Fn(&[Part], &GrantedPage) -> Entry,
        parts: &[(u8, u8)],
        value: Option<u8>,
    ) {
        self.avoid(&span, writes);
        let id = self.next;
        self.next += 1;
        let queue = id as usize % self.front.queues.len();
        while self.front.queues[queue].ring.free() == 0 {
            self.settle_one();
        }
        let (pages, list) = (self.front.pages(parts.len()), self.front.page());
        let granted: Vec<Part> = (pages.iter().zip(parts))
            .map(|(page, (first, last))| (page.gref(), *first, *last))
            .collect();
        let fits = span.end <= SECTORS;
        let whole = if fits { span.clone() } else { 0..0 };
        let range = whole.start as usize * 512..whole.end as usize * 512;
        let mut wanted = None;
        if let Some(value) = value {
            let mut content = Vec::new();
            for (page, (first, last)) in pages.iter().zip(parts) {
                let part = vec![value ^ content.len() as u8; usize::from(last - first + 1) * 512];
                page.put(usize::from(*first) * 512, &part);
                content.extend(part);
            }
            if fits {
                self.bytes[range].copy_from_slice(&content);
            }
        } else if fits && !parts.is_empty() {
            wanted = Some((parts.to_vec(), self.bytes[range].to_vec()));
        }
        let status = if fits {
            BLKIF_RSP_OKAY
        } else {
            BLKIF_RSP_ERROR
        };
        let entry = make(&granted, &list);
        let waiting = Waiting {
            status,
            pages,
            _list: list,
            wanted,
            span,
            writes,
        };
        self.waiting.insert(id, waiting);
        self.front.queues[queue].submit(&[(id, entry)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_disk_is_a_vector(
        steps in prop::collection::vec(step(), 1..120),
        queues in 1u32..4,
        order in prop::option::of(0u32..3),
        (wide, persistent, threads, file) in any::<(bool, bool, bool, bool)>(),
    ) {
        let aio = if threads { Aio::Threads } else { Aio::IoUring };
        let config = VbdConfig { max_queues: 4, aio, ..config() };
        let connect = Connect { queues, order, wide, persistent };
        let image: Arc<dyn Image> = if file {
            Arc::new(FileImage::new(small(SECTORS)))
        } else {
            MemoryImage::new(small(SECTORS))
        };
        let mut model = Model::new(config, connect, image, file);
        for step in &steps {
            model.step(step);
        }
        model.step(&Step::Read(0, vec![(0, 7); 11], false));
        model.settle();
        let control = model.front.control.clone();
        let stats = control.stats();
        prop_assert_eq!(stats.read.failed + stats.write.failed + stats.discard.failed, 0);
        model.front.front.close();
        model.front.domain.assert_released();
    }
}
