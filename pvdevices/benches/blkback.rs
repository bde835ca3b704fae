//! The block backend alone, against a made-up frontend in this process: what it costs beside the
//! guest and the host's disk. A file in the page cache under `$TMPDIR` is the disk.
//!
//! `cargo bench -p xenner-pvdevices --features mock --bench blkback [-- WORD...]` runs the rows
//! whose names have all the words. CPU is the backend's threads and the host's work for them, not
//! the frontend's thread; "events" are those that the domain was sent.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use xenner_pvdevices::blkback::mock::{BlkFront, Connect, Entry, FileImage, Part, data, indirect};
use xenner_pvdevices::blkback::{Aio, NoEvents, VbdConfig};
use xenner_pvdevices::image::Geometry;
use xenner_pvdevices::mock::GrantedPage;

const DISK: u64 = 256 << 20;
const TIME: Duration = Duration::from_secs(2);

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 3;

#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    op: u8,
    /// Pages of a request.
    pages: usize,
    depth: usize,
    random: bool,
}

const ROWS: [Row; 7] = [
    row("seq-read-128k", READ, 32, 8, false),
    row("seq-write-128k", WRITE, 32, 8, false),
    row("rand-read-4k-1", READ, 1, 1, true),
    row("rand-read-4k-32", READ, 1, 32, true),
    row("rand-write-4k-1", WRITE, 1, 1, true),
    row("rand-write-4k-32", WRITE, 1, 32, true),
    row("flush", FLUSH, 0, 1, false),
];

const fn row(name: &'static str, op: u8, pages: usize, depth: usize, random: bool) -> Row {
    Row {
        name,
        op,
        pages,
        depth,
        random,
    }
}

/// Pages and the segment list of one request under way.
struct Buffer {
    parts: Vec<Part>,
    list: GrantedPage,
    _pages: Vec<GrantedPage>,
}

impl Buffer {
    fn new(front: &BlkFront, row: Row) -> Self {
        let pages = front.pages(row.pages);
        Self {
            parts: pages.iter().map(|page| (page.gref(), 0, 7)).collect(),
            list: front.page(),
            _pages: pages,
        }
    }

    fn entry(&self, row: Row, sector: u64) -> Entry {
        if self.parts.len() > 11 {
            indirect(row.op, sector, &self.parts, &self.list)
        } else {
            data(row.op, sector, &self.parts)
        }
    }
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// CPU time of all threads but this one.
fn backend_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime).saturating_sub(cpu(ClockId::ThreadCPUTime))
}

/// Where the next request goes.
struct Places {
    next: u64,
    random: bool,
    blocks: u64,
}

impl Places {
    fn next(&mut self) -> u64 {
        if !self.random {
            self.next = (self.next + 1) % self.blocks;
            return self.next;
        }
        // xorshift64
        self.next ^= self.next << 13;
        self.next ^= self.next >> 7;
        self.next ^= self.next << 17;
        self.next % self.blocks
    }
}

fn run(row: Row, front: &mut BlkFront) -> (u64, Duration) {
    let buffers: Vec<_> = (0..row.depth).map(|_| Buffer::new(front, row)).collect();
    let bytes = (row.pages.max(1) * 4096) as u64;
    let mut places = Places {
        next: 88_172_645_463_325_252,
        random: row.random,
        blocks: DISK / bytes,
    };
    let queue = front.queue();
    let mut free: Vec<u64> = (0..row.depth as u64).collect();
    let (start, mut done) = (Instant::now(), 0);
    loop {
        let over = start.elapsed() > TIME;
        if !over {
            let entries: Vec<_> = free
                .drain(..)
                .map(|id| {
                    let sector = places.next() * bytes / 512;
                    (id, buffers[id as usize].entry(row, sector))
                })
                .collect();
            queue.submit(&entries);
        } else if free.len() == row.depth {
            return (done, start.elapsed());
        }
        let mut answer = Some(queue.wait());
        while let Some(got) = answer {
            assert_eq!(got.status, 0, "{}", row.name);
            free.push(got.id);
            done += 1;
            answer = queue.poll();
        }
    }
}

fn measure(name: &str, row: Row, config: VbdConfig, persistent: bool, file: &File) {
    let geometry = Geometry {
        size: DISK,
        logical_block: 512,
        physical_block: 4096,
        read_only: false,
        discard: None,
    };
    let file = file.try_clone().expect("a descriptor");
    let image = Arc::new(FileImage::over(file, geometry, 1));
    let mut front = BlkFront::publish(config, Some(image), Arc::new(NoEvents), 2048);
    front.connect(Connect {
        persistent,
        ..Connect::default()
    });
    let (cpu, events) = (backend_cpu(), front.queue().port.events());
    let (done, time) = run(row, &mut front);
    let cpu = backend_cpu().saturating_sub(cpu);
    let events = front.queue().port.events() - events;
    let per_second = done as f64 / time.as_secs_f64();
    println!(
        "{name:42} {:9.0} IOPS {:8.1} MB/s {:7.2} us CPU each {:5.2} events each",
        per_second,
        per_second * (row.pages * 4096) as f64 / 1e6,
        cpu.as_secs_f64() * 1e6 / done as f64,
        events as f64 / done as f64,
    );
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let file = tempfile::tempfile().expect("a file under $TMPDIR");
    let chunk = vec![0x5a; 1 << 20];
    for at in 0..DISK >> 20 {
        std::os::unix::fs::FileExt::write_all_at(&file, &chunk, at << 20)
            .expect("room for the disk");
    }
    for row in ROWS {
        for (aio, way) in [(Aio::IoUring, "io_uring"), (Aio::Threads, "threads")] {
            for (persistent, kind) in [(true, "persistent"), (false, "mapped")] {
                let name = format!("{} {way} {kind}", row.name);
                if words.iter().all(|word| name.contains(word.as_str())) {
                    let config = VbdConfig {
                        aio,
                        ..VbdConfig::new(51712, "xvda")
                    };
                    measure(&name, row, config, persistent, &file);
                }
            }
        }
    }
}
