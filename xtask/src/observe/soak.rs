//! `cargo xtask soak`: boots in a row, each of which must end by itself with
//! exit code 0, in time, and leave nothing behind: no process, no file, no
//! socket, no shared memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::counters::entries;
use super::guest::{Guest, Shape};
use super::report::median;
use super::{Place, Vmm, flavour};
use crate::assets;
use crate::boot::check_kvm;
use crate::builds;
use crate::debian;
use crate::error::{Error, Result};
use crate::packages::DEFAULT_KERNEL;
use crate::process::run;
use crate::rig::{Image, Machine};
use crate::test;
use crate::ui;
use crate::workspace::Workspace;

/// A test kernel ends within this time.
const SMALL_LIMIT: Duration = Duration::from_secs(60);
/// A Debian guest ends within this time.
const DEBIAN_LIMIT: Duration = Duration::from_secs(180);
/// The rules that the test kernel checks at each boot.
const SMALL_TESTS: &str = "test=boot-*";

/// Options of `cargo xtask soak`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct SoakArgs {
    /// Boots of a PV test kernel
    #[arg(long, default_value_t = 1000)]
    guest: u32,
    /// Boots of Debian's kernel
    #[arg(long, default_value_t = 50)]
    debian: u32,
    /// Boots of Debian's kernel in the rig
    #[arg(long, default_value_t = 10)]
    rig: u32,
    /// Guests killed while they write, for each kind of disk: nothing that was
    /// flushed may be lost
    #[arg(long, default_value_t = 100)]
    kill: u32,
    /// Debian guests killed while a database commits: no row may be lost
    #[arg(long, default_value_t = 3)]
    database: u32,
    /// Rounds of a GiB and 100,000 connections between two guests and the host
    #[arg(long, default_value_t = 1)]
    traffic: u32,
}

/// Boot them all; any failure ends the run with an error.
pub fn soak(ws: &Workspace, args: &SoakArgs) -> Result<ExitCode> {
    if args.kill + args.database + args.traffic > 0 {
        builds::with_tests(ws)?;
    }
    let xenner = builds::xenner(ws)?;
    let place = Place {
        assets: assets::stage(ws)?,
        xenner,
    };
    if args.guest + args.debian > 0 {
        check_kvm()?;
        boots(&place, args.guest, args.debian)?;
    }
    if args.kill > 0 {
        debian::stage(ws)?;
        ui::step(&format!(
            "{} guests killed for each kind of disk",
            args.kill
        ));
        let mut crash = test::guest_tests(ws, "disk", "crash");
        run(crash.env("XENNER_CRASH_ROUNDS", args.kill.to_string()))?;
    }
    for round in 0..args.database {
        debian::stage(ws)?;
        ui::step(&format!(
            "A database, round {} of {}",
            round + 1,
            args.database
        ));
        run(test::guest_tests(ws, "debian", "killed").env("XENNER_TEST_LONG", "1"))?;
    }
    for round in 0..args.traffic {
        debian::stage(ws)?;
        ui::step(&format!("Traffic, round {} of {}", round + 1, args.traffic));
        run(test::guest_tests(ws, "network", "").env("XENNER_TEST_LONG", "1"))?;
    }
    if args.rig > 0 {
        in_rig(ws, args.rig)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The hidden command that runs in the rig's machine.
pub fn soak_here(args: &SoakArgs) -> Result<ExitCode> {
    boots(&Place::in_rig(), args.guest, args.debian)?;
    Ok(ExitCode::SUCCESS)
}

fn in_rig(ws: &Workspace, count: u32) -> Result<()> {
    let mut image = Image::with_xenner(ws)?;
    image.program(&std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?)?;
    let limit = Duration::from_secs(60) + DEBIAN_LIMIT * count;
    let machine = Machine {
        limit,
        ..Machine::default()
    };
    let command = format!(
        "xtask soak-here --guest 0 --debian {count} --rig 0 --kill 0 --database 0 --traffic 0"
    );
    let outcome = machine.run(ws, image, &command, &mut ui::note)?;
    if outcome.status == Some(0) {
        return Ok(());
    }
    let (status, tail) = (format!("{:?}", outcome.status), outcome.console_tail(25));
    Err(Error::Failed {
        command: "soak in the rig".to_owned(),
        status,
        tail,
    })
}

fn boots(place: &Place, small: u32, debian: u32) -> Result<()> {
    let initramfs = place.asset("initramfs");
    let test_kernel = Shape {
        kernel: place.asset("pvtest"),
        initrd: None,
        append: SMALL_TESTS.to_owned(),
        smp: 1,
        memory_mib: 64,
    };
    let linux = |smp| {
        let kernel = place.asset(&format!("kernel-{DEFAULT_KERNEL}"));
        Shape::linux(kernel, initramfs.clone(), "true", smp)
    };
    let vmm = Vmm::Xenner(place.xenner.clone());
    series("PV test kernel", small, |_| {
        one(&vmm, &test_kernel, "@@DONE", SMALL_LIMIT)
    })?;
    series("Debian", debian, |i| {
        one(&vmm, &linux([1, 2, 4][i % 3]), "@@RC=0", DEBIAN_LIMIT)
    })
}

/// `count` boots in a row, with a line from time to time.
fn series(name: &str, count: u32, mut boot: impl FnMut(usize) -> Result<f64>) -> Result<()> {
    let mut times = Vec::new();
    let stride = (count / 10).max(1);
    for i in 0..count {
        let seconds = boot(i as usize).inspect_err(|_| {
            ui::step(&format!("{name}: boot {} of {count} failed", i + 1));
        })?;
        times.push(seconds);
        if (i + 1) % stride == 0 {
            ui::step(&format!(
                "{name} on {}: {} of {count} boots",
                flavour(),
                i + 1
            ));
        }
    }
    if count > 0 {
        let longest = times.iter().copied().fold(0.0, f64::max);
        let median = median(&times);
        ui::step(&format!(
            "{name}: {count} boots, median {median:.2} s, longest {longest:.2} s"
        ));
    }
    Ok(())
}

/// One boot; its console must show `mark`. Gives back the seconds from exec to end.
fn one(vmm: &Vmm, shape: &Shape, mark: &str, limit: Duration) -> Result<f64> {
    let scratch = tempfile::tempdir().map_err(Error::file("make", std::env::temp_dir()))?;
    let name = format!("soak-{}", std::process::id());
    let before = shared_memory();
    let prepare = |command: &mut Command| {
        command.args(["-name", &name]);
        command
            .env("TMPDIR", scratch.path())
            .env("XDG_RUNTIME_DIR", scratch.path());
    };
    let mut guest = Guest::start(vmm, shape, prepare, limit)?;
    let mut marked = false;
    while let Some((_, line)) = guest.line()? {
        marked |= line.contains(mark);
        if line.starts_with("FAIL ") {
            return Err(guest.failure(&line));
        }
    }
    let end = guest.finish()?;
    if !marked {
        return Err(guest.failure(&format!("it never said {mark}")));
    }
    nothing_left(&name, scratch.path(), &before)?;
    Ok(guest.seconds(end))
}

fn shared_memory() -> BTreeSet<String> {
    entries(Path::new("/dev/shm"))
}

fn nothing_left(name: &str, scratch: &Path, before: &BTreeSet<String>) -> Result<()> {
    let mut left: Vec<String> = Vec::new();
    let own = |entry: &&String| entry.contains("xenner") || entry.contains(name);
    left.extend(
        shared_memory()
            .difference(before)
            .filter(own)
            .map(|e| format!("/dev/shm/{e}")),
    );
    left.extend(
        entries(scratch)
            .iter()
            .map(|entry| format!("$TMPDIR/{entry}")),
    );
    // The directory of all run directories may stay, an empty one of this user.
    left.retain(|entry| entry != "$TMPDIR/xenner" || !entries(&scratch.join("xenner")).is_empty());
    let run = Path::new("/run/xenner").join(name);
    if run.exists() {
        left.push(run.display().to_string());
    }
    if left.is_empty() {
        return Ok(());
    }
    let status = format!("left behind: {}", left.join(", "));
    Err(Error::Failed {
        command: "A guest".to_owned(),
        status,
        tail: String::new(),
    })
}
