//! The first disk of the domain, if it has one, as a frontend of its own sees
//! it. These tests write to it.

use super::{named, option, t};
use crate::arch::memory::{PAGE, fill, read64, write64};
use crate::harness::block::{Disk, SLOTS};
use crate::harness::console::line;
use crate::harness::runner::{Result, Test};
use crate::harness::time::now;
use crate::{check, fail, same};
use xenner_test_guests::record;
use xenner_xen_abi::io::blkif::*;

pub const TESTS: &[Test] = &[
    t("disk-write-read", write_read),
    t("disk-segments", segments),
    t("disk-flush", flush),
    t("disk-full-ring", full_ring),
    t("disk-refused", refused),
    t("disk-reconnect", reconnect),
    named("disk-journal", journal),
    named("disk-count", count),
];

/// Sectors of a page.
const PAGE_SECTORS: u64 = BLKIF_SECTORS_PER_PAGE as u64;

fn fill_page(va: u64, number: u64) {
    for (i, word) in record::words(number).enumerate() {
        write64(va + i as u64 * 8, word);
    }
}

fn check_page(va: u64, number: u64) -> Result {
    for (i, word) in record::words(number).enumerate() {
        same!(
            read64(va + i as u64 * 8),
            word,
            "word {i} of record {number}"
        );
    }
    Ok(())
}

fn write_read() -> Result {
    let mut disk = Disk::connect(1)?;
    check!(
        disk.sectors >= PAGE_SECTORS * 64,
        "{} sectors",
        disk.sectors
    );
    let last = disk.sectors - PAGE_SECTORS;
    for (number, sector) in [(1, 0), (2, PAGE_SECTORS), (3, last)] {
        fill_page(disk.data(0), number);
        disk.transfer(BLKIF_OP_WRITE, 0, sector, 1)?;
    }
    for (number, sector) in [(3, last), (1, 0), (2, PAGE_SECTORS)] {
        fill(disk.data(1), 0xee, PAGE as usize);
        disk.transfer(BLKIF_OP_READ, 1, sector, 1)?;
        check_page(disk.data(1), number)?;
    }
    disk.close()
}

/// Eleven segments in a request, and parts of pages.
fn segments() -> Result {
    let pages = BLKIF_MAX_SEGMENTS_PER_REQUEST;
    let mut disk = Disk::connect(pages)?;
    for page in 0..pages as u64 {
        fill_page(disk.data(0) + page * PAGE, 100 + page);
    }
    disk.transfer(BLKIF_OP_WRITE, 0, 0, pages)?;
    fill(disk.data(1), 0xee, pages * PAGE as usize);
    disk.transfer(BLKIF_OP_READ, 1, 0, pages)?;
    for page in 0..pages as u64 {
        check_page(disk.data(1) + page * PAGE, 100 + page)?;
    }
    if disk.sector_size == BLKIF_SECTOR_SIZE {
        // Sectors 2 to 5 of the disk into sectors 4 to 7 of a page.
        let mut request = disk.request(BLKIF_OP_READ, 2, 2, 1);
        (request.seg[0].first_sect, request.seg[0].last_sect) = (4, 7);
        fill(disk.data(2), 0xee, PAGE as usize);
        same!(disk.status_of(&request)?, BLKIF_RSP_OKAY, "status");
        let wanted = disk.data(1) + 2 * BLKIF_SECTOR_SIZE;
        for offset in (0..4 * BLKIF_SECTOR_SIZE).step_by(8) {
            let got = read64(disk.data(2) + 4 * BLKIF_SECTOR_SIZE + offset);
            same!(got, read64(wanted + offset), "offset {offset}");
            let before = read64(disk.data(2) + offset);
            same!(before, 0xeeee_eeee_eeee_eeee, "what lies before");
        }
    }
    disk.close()
}

fn flush() -> Result {
    let mut disk = Disk::connect(1)?;
    same!(
        disk.backend_number("feature-flush-cache")?,
        1,
        "the feature"
    );
    fill_page(disk.data(0), 7);
    disk.transfer(BLKIF_OP_WRITE, 0, 0, 1)?;
    disk.flush()?;
    disk.close()
}

/// As many requests as the ring holds, several times over.
fn full_ring() -> Result {
    let mut disk = Disk::connect(1)?;
    for operation in [BLKIF_OP_WRITE, BLKIF_OP_READ] {
        for round in 0..4 {
            for slot in 0..SLOTS {
                let number = (round * SLOTS + slot) as u64;
                if operation == BLKIF_OP_WRITE {
                    fill_page(disk.data(slot), number);
                }
                let request = disk.request(operation, slot, number % 64 * PAGE_SECTORS, 1);
                disk.put(&request);
            }
            disk.push();
            let mut answered = 0u64;
            for _ in 0..SLOTS {
                let response = disk.response()?;
                same!(response.status, BLKIF_RSP_OKAY, "status");
                answered |= 1 << response.id;
            }
            same!(answered, (1u64 << SLOTS) - 1, "slots answered");
        }
    }
    for slot in 0..SLOTS {
        // The last round read blocks 32 to 63, written as records 96 to 127.
        check_page(disk.data(slot), (3 * SLOTS + slot) as u64)?;
    }
    disk.close()
}

/// Requests that make no sense fail alone: the disk goes on.
fn refused() -> Result {
    let mut disk = Disk::connect(1)?;
    let good = disk.request(BLKIF_OP_READ, 0, 0, 1);
    let mut beyond = good;
    beyond.sector_number = disk.sectors;
    let mut over = good;
    over.sector_number = disk.sectors - 1;
    let mut wrapping = good;
    wrapping.sector_number = u64::MAX - 3;
    let mut backwards = good;
    (backwards.seg[0].first_sect, backwards.seg[0].last_sect) = (5, 4);
    let mut outside = good;
    outside.seg[0].last_sect = BLKIF_SECTORS_PER_PAGE;
    let mut many = good;
    many.nr_segments = BLKIF_MAX_SEGMENTS_PER_REQUEST as u8 + 1;
    let mut none = good;
    none.nr_segments = 0;
    let mut ungranted = good;
    ungranted.seg[0].gref = 500;
    let mut nowhere = good;
    nowhere.seg[0].gref = u32::MAX;
    let cases = [
        ("beyond the end", beyond),
        ("over the end", over),
        ("a sector that wraps", wrapping),
        ("segment backwards", backwards),
        ("segment beyond its page", outside),
        ("too many segments", many),
        ("no segment", none),
        ("a page that is not granted", ungranted),
        ("no such grant", nowhere),
    ];
    for (what, request) in cases {
        same!(disk.status_of(&request)?, BLKIF_RSP_ERROR, "{what}");
        same!(disk.status_of(&good)?, BLKIF_RSP_OKAY, "after {what}");
    }
    let mut unknown = good;
    unknown.operation = 0x77;
    let status = disk.status_of(&unknown)?;
    check!(status != BLKIF_RSP_OKAY, "an unknown operation succeeded");
    same!(
        disk.status_of(&good)?,
        BLKIF_RSP_OKAY,
        "after an unknown operation"
    );
    disk.close()
}

fn reconnect() -> Result {
    for round in 0..3 {
        let mut disk = Disk::connect(1)?;
        if round > 0 {
            disk.transfer(BLKIF_OP_READ, 1, 0, 1)?;
            check_page(disk.data(1), round - 1)?;
        }
        fill_page(disk.data(0), round);
        disk.transfer(BLKIF_OP_WRITE, 0, 0, 1)?;
        disk.close()?;
    }
    Ok(())
}

/// Write records until the disk is full, in batches of one to a full ring, and
/// say after each flush how many are safe. `skip=N` goes on after N records.
fn journal() -> Result {
    let mut disk = Disk::connect(1)?;
    let blocks = record::blocks(disk.sectors);
    let mut next = option("skip", 0);
    let mut batch = 1;
    while next < blocks {
        let size = batch.min(blocks - next);
        for slot in 0..size {
            let number = next + slot;
            fill_page(disk.data(slot as usize), number);
            let sector = record::place(number, blocks) * PAGE_SECTORS;
            let request = disk.request(BLKIF_OP_WRITE, slot as usize, sector, 1);
            disk.put(&request);
        }
        disk.push();
        for _ in 0..size {
            let response = disk.response()?;
            same!(response.status, BLKIF_RSP_OKAY, "status of {}", response.id);
        }
        disk.flush()?;
        next += size;
        line(format_args!("@@SAFE {next}"));
        batch = batch % SLOTS as u64 + 1;
    }
    disk.close()
}

/// `n=N` requests of `size=PAGES`, `depth=D` of them in flight, `op=r|w`,
/// one after the other or (`random=1`) all over the disk.
fn count() -> Result {
    let (n, depth) = (option("n", 1000), option("depth", 1).min(SLOTS as u64));
    let pages = option("size", 1).clamp(1, BLKIF_MAX_SEGMENTS_PER_REQUEST as u64);
    let operation = if option("write", 0) == 1 {
        BLKIF_OP_WRITE
    } else {
        BLKIF_OP_READ
    };
    let mut disk = Disk::connect(pages as usize)?;
    let places = disk.sectors / (pages * PAGE_SECTORS);
    let random = option("random", 0) == 1;
    let sector = |i: u64| {
        let place = if random {
            record::scatter(i) % places
        } else {
            i % places
        };
        place * pages * PAGE_SECTORS
    };
    line(format_args!("# start disk n={n}"));
    let start = now();
    let (mut put, mut done) = (0, 0);
    while put < depth.min(n) {
        let request = disk.request(operation, put as usize, sector(put), pages as usize);
        disk.put(&request);
        put += 1;
    }
    disk.push();
    while done < n {
        let slot = disk.response()?;
        if slot.status != BLKIF_RSP_OKAY {
            fail!("request {done}: status {}", slot.status);
        }
        done += 1;
        if put < n {
            let request = disk.request(operation, slot.id as usize, sector(put), pages as usize);
            disk.put(&request);
            put += 1;
        }
        // One notification for all that is answered by now.
        if !disk.ready() {
            disk.push();
        }
    }
    let (ns, sent) = (now() - start, disk.sent);
    line(format_args!("# count disk n={n} ns={ns} sent={sent}"));
    disk.close()
}
