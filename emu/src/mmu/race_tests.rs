//! The page-table rules under several vcpus at once: threads that change, pin and unpin the same few
//! frames, and the books checked whenever all of them stand still.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::cell::Cell;
use std::sync::Barrier;
use std::thread;

use xenner_emu_abi::frame::{self, BUSY, FULL, NOT_OWNED, PINNED, TYPE_L1, TYPE_NONE};
use xenner_emu_abi::pte::{self, P, RW};
use xenner_xen_abi::errno::EBUSY;

use super::update::{self, Store};
use super::{rules, types};
use crate::mem::{entry, frame_record, host};

/// Frames that the threads use, as tables and as pages.
const FRAMES: u64 = 6;
const VCPUS: u64 = 4;
const ROUNDS: u32 = 100;
const STEPS: u32 = 1000;

std::thread_local! {
    static TURN: Cell<u32> = const { Cell::new(0) };
}

/// Lets the holder of a lock run.
pub(crate) fn wait() {
    thread::yield_now();
}

/// Every fourth time or so, lets another thread run in the middle of a step.
pub(crate) fn let_others_run() {
    TURN.set(
        TURN.get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223),
    );
    if TURN.get() >> 30 == 0 {
        thread::yield_now();
    }
}

/// A small generator of its own for each thread (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % n
    }
}

/// What a hostile vcpu does: refusals are as good as success, the books are what counts.
fn step(random: &mut Random) {
    let mfn = 1 + random.below(FRAMES);
    let target = 1 + random.below(FRAMES);
    let ma = mfn << 12 | random.below(4) << 3;
    let value = match random.below(3) {
        0 => 0,
        1 => target << 12 | P,
        _ => target << 12 | P | RW,
    };
    let _ = match random.below(8) {
        0 => types::pin(&types::lock(), mfn, TYPE_L1),
        1 => types::unpin(&types::lock(), mfn),
        2 => {
            let old = entry(mfn, (ma >> 3 & 511) as usize).load(Relaxed);
            update::entry(ma, value, Store::IfEqual(old)).map(|_| ())
        }
        3 if types::get_held(mfn, TYPE_L1) => {
            types::release(mfn);
            Ok(())
        }
        4 if rules::take_writable(mfn).is_ok() => {
            rules::drop_writable(mfn);
            Ok(())
        }
        _ => update::entry(ma, value, Store::Plain).map(|_| ()),
    };
}

/// Each record says what the tables hold, and no table is mapped writable by one.
fn check_books() {
    let record = |mfn| frame_record(mfn).load(Relaxed);
    let mut writable = [0u32; FRAMES as usize + 1];
    for table in (1..=FRAMES).filter(|t| frame::kind(record(*t)) == TYPE_L1) {
        for e in (0..512).map(|i| entry(table, i).load(Relaxed)) {
            if e & (P | RW) == P | RW {
                writable[pte::mfn(e) as usize] += 1;
            }
        }
    }
    for mfn in 1..=FRAMES {
        let r = record(mfn);
        assert_eq!(r & (BUSY | FULL | NOT_OWNED), 0, "frame {mfn}: {r:#x}");
        let mapped = writable[mfn as usize];
        if frame::kind(r) == TYPE_NONE {
            assert_eq!((frame::count(r), r & PINNED), (mapped, 0), "frame {mfn}");
        } else {
            assert_eq!(mapped, 0, "table {mfn} is mapped writable");
            assert_eq!((frame::count(r), r & PINNED), (1, PINNED), "table {mfn}");
        }
    }
}

#[test]
fn books_are_right_whenever_all_vcpus_stand_still() {
    host::install(16, 0);
    let share = host::share();
    let barrier = Barrier::new(VCPUS as usize + 1);
    thread::scope(|scope| {
        for id in 0..VCPUS {
            let barrier = &barrier;
            scope.spawn(move || {
                share();
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (id + 1));
                for _ in 0..ROUNDS {
                    (0..STEPS).for_each(|_| step(&mut random));
                    barrier.wait();
                    barrier.wait();
                }
            });
        }
        let mut wrong = None;
        for _ in 0..ROUNDS {
            barrier.wait();
            // a failure is kept until the threads are through, or they would wait for ever
            let books = std::panic::catch_unwind(check_books);
            wrong = wrong.or(books.err());
            barrier.wait();
        }
        if let Some(wrong) = wrong {
            std::panic::resume_unwind(wrong);
        }
    });
    for mfn in 1..=FRAMES {
        let _ = types::unpin(&types::lock(), mfn);
    }
    assert!((1..=FRAMES).all(|mfn| frame_record(mfn).load(Relaxed) == 0));
}

#[test]
fn a_full_count_is_refused_and_not_carried() {
    host::install(16, 0);
    frame_record(3).store(FULL - frame::COUNT_ONE, Relaxed);
    assert!(rules::take_l1(3 << 12 | P | RW).is_ok());
    assert_eq!(rules::take_l1(3 << 12 | P | RW), Err(EBUSY));
    assert_eq!(frame_record(3).load(Relaxed), FULL);
    rules::drop_l1(3 << 12 | P | RW);
    assert!(rules::take_writable(3).is_ok());
    // a table that maps it once more cannot be made
    entry(1, 7).store(3 << 12 | P | RW, Relaxed);
    assert!(types::pin(&types::lock(), 1, TYPE_L1).is_err());
    assert_eq!(frame_record(3).load(Relaxed), FULL);
    assert_eq!(frame_record(1).load(Relaxed), 0);
    // nor more references to a table
    frame_record(2).store(FULL | TYPE_L1, Relaxed);
    assert!(!types::get_held(2, TYPE_L1));
    assert_eq!(types::get(&types::lock(), 2, TYPE_L1), Err(EBUSY));
    assert_eq!(update::entry(2 << 12, 0, Store::Plain), Err(EBUSY));
}
