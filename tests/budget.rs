//! What a guest may cost, and what it may not: exits to the process for work
//! inside the guest, memory beyond the guest's own, processor time while it
//! idles, a clock that drifts.

mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use support::counters::{Counters, Exits};
use support::session::{PROMPT, Session};
use support::{PATIENCE, asset, guest_arguments, kernel, trial, xenner};

const SERIES: &str = "6.1";
/// Operations that are the guest's own affair.
const INNER: [&str; 9] = [
    "syscall_getppid",
    "read_1_zero",
    "signal_roundtrip",
    "exception_ud2",
    "page_fault",
    "mprotect_64k",
    "fork_exit_wait",
    "fork_exec_wait",
    "pipe_pingpong_1cpu",
];
/// The console's lines around a measurement cost this many exits at most; no
/// operation may have as much as one in a hundred.
const AROUND: u64 = 30;
/// Memory of the process beyond the guest's, in KiB.
const MOST_MEMORY_KIB: u64 = 24 * 1024;
/// Part of a processor that an idle guest may take.
const MOST_IDLE: f64 = 0.02;
/// Drift of the guest's clock, parts of one.
const MOST_DRIFT: f64 = 100e-6;
/// How long idling and drift are watched.
const WATCH: Duration = Duration::from_secs(20);

/// One budget.
type Check = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let tests: [(&str, Check); 4] = [
        ("no-exits-for-inner-work", no_exits),
        ("memory-overhead", memory_overhead),
        ("idle-guest", idle_guest),
        ("clock-drift", clock_drift),
    ];
    let files = [kernel(SERIES), asset("initramfs")];
    let tests = tests.map(|(name, run)| trial(name.to_owned(), &files, run));
    // None of them is a matter of speed, and two of them mostly wait.
    support::side_by_side(tests.into(), 2)
}

fn at_prompt() -> Result<Session, Failed> {
    let mut session = Session::start(xenner().args(guest_arguments(SERIES, 1, "quiet")))?;
    session.expect(PROMPT, PATIENCE)?;
    Ok(session)
}

fn power_off(mut session: Session) -> Result<(), Failed> {
    session.send("poweroff\r")?;
    session.end_with(0, PATIENCE)
}

fn no_exits() -> Result<(), Failed> {
    let program = format!("guest-bench --marks --reps 5 {}", INNER.join(" "));
    let append = format!("quiet xenner.run=\"{program}\"");
    let mut command = xenner();
    command
        .args(guest_arguments(SERIES, 1, &append))
        .args(["-xenner", "stats=on"]);
    let mut session = Session::start(&mut command)?;
    let mut over = Vec::new();
    let mut counters = None;
    for name in INNER {
        session.expect(&format!("@@BEGIN {name}\n"), PATIENCE)?;
        let counters = match &counters {
            Some(counters) => counters,
            None => counters
                .insert(Counters::open(session.pid()).ok_or("KVM's counters are not to be read")?),
        };
        let before = counters.read();
        session.expect(&format!("@@END {name} "), PATIENCE)?;
        let exits: Exits = counters.read().since(before);
        let operations: u64 = session.expect("\n", PATIENCE)?.trim().parse()?;
        if before == Exits::default() {
            return Err("KVM's counters of the guest are not there".into());
        }
        if exits.process > AROUND + operations / 100 {
            over.push(format!(
                "{name}: {} exits in {operations} operations",
                exits.process
            ));
        }
    }
    session.expect("@@RC=0", PATIENCE)?;
    session.end_with(0, PATIENCE)?;
    if over.is_empty() {
        Ok(())
    } else {
        Err(over.join("\n").into())
    }
}

/// The sum of a field of smaps over mappings that `wanted` accepts by size, in KiB.
fn resident(smaps: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    let mut sum = 0;
    let mut counts = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (key, number) = (
            words.next(),
            words.next().and_then(|word| word.parse().ok()),
        );
        match (key, number) {
            (Some("Size:"), Some(size)) => counts = wanted(size),
            (Some("Rss:"), Some(size)) if counts => sum += size,
            _ => {}
        }
    }
    sum
}

fn memory_overhead() -> Result<(), Failed> {
    let session = at_prompt()?;
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", session.pid()))?;
    // The guest has 512 MiB; nothing else is nearly as large.
    let (guest, own) = (
        resident(&smaps, |kib| kib >= 65536),
        resident(&smaps, |kib| kib < 65536),
    );
    if guest == 0 {
        return Err("the guest's memory is not among the mappings".into());
    }
    power_off(session)?;
    if own < MOST_MEMORY_KIB {
        return Ok(());
    }
    Err(
        format!("{own} KiB resident beside the guest's {guest}, the limit is {MOST_MEMORY_KIB}")
            .into(),
    )
}

/// Processor time of a process, all threads.
fn processor_time(pid: u32) -> Result<Duration, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    // utime and stime are fields 14 and 15; the rest starts with field 3.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    ))
}

fn idle_guest() -> Result<(), Failed> {
    let session = at_prompt()?;
    // Let what the boot left to do come to its end.
    std::thread::sleep(Duration::from_secs(3));
    let (before, start) = (processor_time(session.pid())?, Instant::now());
    std::thread::sleep(WATCH);
    let used = processor_time(session.pid())?.saturating_sub(before);
    let part = used.as_secs_f64() / start.elapsed().as_secs_f64();
    power_off(session)?;
    if part < MOST_IDLE {
        Ok(())
    } else {
        Err(format!("an idle guest takes {part:.3}").into())
    }
}

/// How far the guest's clock is behind this machine's, in seconds: the least
/// of many looks, which is the one that was delayed least on its way.
fn clock_offset(session: &mut Session, start: Instant) -> Result<f64, Failed> {
    session.send("guest-bench --clock 40\r")?;
    let mut least = f64::INFINITY;
    for _ in 0..40 {
        session.expect("@@CLOCK ", PATIENCE)?;
        let now = start.elapsed().as_secs_f64();
        let guest: f64 = session.expect("\n", PATIENCE)?.trim().parse()?;
        least = least.min(now - guest * 1e-9);
    }
    session.expect(PROMPT, PATIENCE)?;
    Ok(least)
}

fn clock_drift() -> Result<(), Failed> {
    let mut session = at_prompt()?;
    let start = Instant::now();
    let first = clock_offset(&mut session, start)?;
    std::thread::sleep(WATCH);
    let drift = (clock_offset(&mut session, start)? - first) / start.elapsed().as_secs_f64();
    power_off(session)?;
    if drift.abs() < MOST_DRIFT {
        return Ok(());
    }
    Err(format!("the guest's clock drifts by {:.0} ppm", drift * 1e6).into())
}
