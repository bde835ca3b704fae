//! The tests, one file a family of rules.

mod boot;
mod counts;
mod disk;
mod events;
mod fpu;
mod grants;
mod hypercalls;
mod life;
mod pagetables;
mod privileged;
mod ptwr;
mod rings;
mod smp;
mod tables;
mod timers;
mod traps;
mod updates;
mod user;

use crate::harness::runner::{Result, Test};

/// All families, in the order in which they run.
const FAMILIES: &[&[Test]] = &[
    boot::TESTS,
    hypercalls::TESTS,
    tables::TESTS,
    traps::TESTS,
    user::TESTS,
    privileged::TESTS,
    pagetables::TESTS,
    updates::TESTS,
    ptwr::TESTS,
    timers::TESTS,
    events::TESTS,
    rings::TESTS,
    fpu::TESTS,
    grants::TESTS,
    smp::TESTS,
    disk::TESTS,
    counts::TESTS,
    life::TESTS,
];

/// Every test.
pub fn each(f: impl FnMut(&'static Test)) {
    FAMILIES.iter().flat_map(|family| family.iter()).for_each(f);
}

/// A test for `test=all`.
pub const fn t(name: &'static str, run: fn() -> Result) -> Test {
    Test {
        name,
        run,
        all: true,
    }
}

/// A test that runs only when it is named.
pub const fn named(name: &'static str, run: fn() -> Result) -> Test {
    Test {
        name,
        run,
        all: false,
    }
}

/// A number of the command line.
pub fn option(key: &str, default: u64) -> u64 {
    let mut buf = [0; 1024];
    xenner_test_guests::cmdline::number(crate::harness::machine::cmdline(&mut buf), key, default)
}
