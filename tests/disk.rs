//! PV disks: the PV test kernel's own frontend on images of several kinds, and
//! what is left of its writes when the process is killed in the midst of them.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use support::counters::Counters;
use support::disks;
use support::session::Session;
use support::{PATIENCE, asset, image, trial, xenner};
use xenner_test_guests::record;

/// Rounds of a crash test, unless `XENNER_CRASH_ROUNDS` says otherwise.
const ROUNDS: u32 = 4;
/// Bytes of the disk that crash tests write to.
const JOURNAL: u64 = 256 << 20;
/// A guest is killed within this time after its first record is safe.
const LIFE: Duration = Duration::from_millis(400);
/// Requests of the tests that count what a request costs.
const COUNTED: u64 = 20_000;

fn main() -> ExitCode {
    let kinds = [
        ("raw", "raw", ""),
        ("qcow2", "qcow2", ""),
        ("raw-direct", "raw", ",cache=none,aio=native"),
        ("raw-threads", "raw", ",aio=threads"),
        ("raw-through", "raw", ",cache=writethrough"),
        ("raw-snapshot", "raw", ",snapshot=on"),
    ];
    let mut trials: Vec<Trial> = kinds
        .map(|(name, format, more)| disk_test(format!("rules-{name}"), move || rules(format, more)))
        .into();
    for (name, format, more) in [kinds[0], kinds[1], kinds[3]] {
        let run = move || crash(format, more, rounds());
        trials.push(disk_test(format!("crash-{name}"), run));
    }
    trials.push(disk_test("exits".to_owned(), exits));
    trials.push(disk_test("second-writer".to_owned(), second_writer));
    support::main(trials)
}

fn disk_test(name: String, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    trial(name, &[asset("pvtest"), image("qemu-img")], run)
}

/// The PV test kernel with one disk.
fn guest(disk: &[String; 2], append: &str) -> Command {
    let mut command = xenner();
    command.arg("-kernel").arg(asset("pvtest"));
    command.args(["-append", append, "-m", "64", "-nographic"]);
    command.args(disk);
    command
}

/// All rules of a disk, as `tests/guests/src/cases/disk.rs` has them.
fn rules(format: &str, more: &str) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk");
    disks::create(&file, format, 64 << 20)?;
    if more.contains("cache=none") && !disks::takes_direct(&file) {
        eprintln!("{} takes no direct I/O", dir.path().display());
        return Ok(());
    }
    let disk = disks::drive(&file, format, more);
    let mut session = Session::start(&mut guest(&disk, "test=disk-*"))?;
    let text = session.expect("@@DONE ", PATIENCE)?;
    let passed = text
        .lines()
        .filter(|line| line.starts_with("PASS "))
        .count();
    if passed < 6 || text.contains("FAIL ") || text.contains("SKIP ") {
        return Err(session.failure("a rule does not hold"));
    }
    session.end_with(0, PATIENCE)?;
    disks::check(&file, format)
}

fn rounds() -> u32 {
    let number = std::env::var("XENNER_CRASH_ROUNDS").ok();
    number.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Kill guests in the midst of their writes: what they said was safe is there.
/// Each goes on where the last one was, until the disk is nearly full.
fn crash(format: &str, more: &str, rounds: u32) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk");
    let mut safe = 0;
    let mut records = 0;
    for round in 0..rounds {
        let blocks = record::blocks(JOURNAL / 512);
        if safe == 0 || safe > blocks / 4 * 3 {
            disks::create(&file, format, JOURNAL)?;
            safe = 0;
        }
        let life = random_life(round);
        let before = safe;
        let what = |why: Failed| -> Failed {
            let why = why.message().unwrap_or("failed").to_owned();
            format!("round {round}, killed after {life:?}, from record {before} on: {why}").into()
        };
        safe = killed(&file, format, more, safe, life).map_err(what)?;
        disks::check(&file, format).map_err(what)?;
        records_are_there(&file, format, safe).map_err(what)?;
        records += safe - before;
    }
    eprintln!("{rounds} rounds, {records} records safe, none lost");
    Ok(())
}

/// A time that nobody chose.
fn random_life(round: u32) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = now.map_or(0, |time| u64::from(time.subsec_nanos())) ^ u64::from(round) << 32;
    Duration::from_nanos(record::scatter(seed) % LIFE.as_nanos() as u64)
}

/// Start a guest that writes records from number `skip` on, and kill it; gives
/// back how many records it said were safe, of the whole disk.
fn killed(file: &Path, format: &str, more: &str, skip: u64, life: Duration) -> Result<u64, Failed> {
    let disk = disks::drive(file, format, more);
    let mut command = guest(&disk, &format!("test=disk-journal skip={skip}"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ended = watch_and_kill(&mut child, life);
    if ended.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let (safe, text) = ended?;
    match safe {
        Some(safe) if safe > skip => Ok(safe),
        _ => Err(format!("nothing was safe ({status}); its console:\n{text}").into()),
    }
}

/// Read the console until the guest is killed and to its end; gives back the
/// last number that it said, and the text.
fn watch_and_kill(child: &mut Child, life: Duration) -> Result<(Option<u64>, String), Failed> {
    let output = child.stdout.take().ok_or("no output")?;
    let mut errors = child.stderr.take().ok_or("no error output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let (mut safe, mut text) = (None, String::new());
    let mut deadline = Instant::now() + PATIENCE;
    let mut started = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(left) else {
            break;
        };
        if let Some(number) = line.strip_prefix("@@SAFE ") {
            safe = Some(number.trim().parse()?);
            if !std::mem::replace(&mut started, true) {
                deadline = Instant::now() + life;
            }
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    child.kill()?;
    // What it had written before counts; the end of the pipe ends the loop.
    for line in lines {
        if let Some(number) = line.strip_prefix("@@SAFE ") {
            safe = Some(number.trim().parse()?);
        }
    }
    reader.join().map_err(|_| "the reader panicked")?;
    std::io::Read::read_to_string(&mut errors, &mut text)?;
    if text.contains("FAIL ") {
        return Err(text.into());
    }
    Ok((safe, text))
}

/// The first `count` records are in the image, whole.
fn records_are_there(file: &Path, format: &str, count: u64) -> Result<(), Failed> {
    let image = disks::contents(file, format)?;
    let blocks = record::blocks(JOURNAL / 512);
    let mut bytes = vec![0; record::SIZE];
    for number in 0..count {
        let offset = record::place(number, blocks) * record::SIZE as u64;
        image.read_exact_at(&mut bytes, offset)?;
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("a chunk of eight bytes")));
        if !words.eq(record::words(number)) {
            return Err(format!("record {number} of {count}, at {offset:#x}, is lost").into());
        }
    }
    Ok(())
}

/// A request costs no exit to the process, and a batch one notification at most.
fn exits() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let file: PathBuf = dir.path().join("disk");
    disks::create(&file, "raw", 64 << 20)?;
    let disk = disks::drive(&file, "raw", "");
    let append = format!("test=disk-count n={COUNTED} depth=32 write=1");
    let mut command = guest(&disk, &append);
    command.args(["-xenner", "stats=on"]);
    let mut session = Session::start(&mut command)?;
    session.expect("# start disk", PATIENCE)?;
    let counters = Counters::open(session.pid()).ok_or("no statistics")?;
    let before = counters.read();
    session.expect("# count disk", PATIENCE)?;
    let counts = session.expect("\n", PATIENCE)?;
    let exits = counters.read().since(before);
    let sent: u64 = counts
        .split_whitespace()
        .find_map(|word| word.strip_prefix("sent=")?.parse().ok())
        .ok_or("no count of notifications")?;
    session.end_with(0, PATIENCE)?;
    eprintln!("{COUNTED} requests: {exits:?}, {sent} notifications to the backend");
    if exits.process * 100 > COUNTED {
        return Err(format!(
            "{} exits to the process for {COUNTED} requests",
            exits.process
        )
        .into());
    }
    if sent > COUNTED {
        return Err(format!("{sent} notifications for {COUNTED} requests").into());
    }
    Ok(())
}

/// An image that one guest writes to is not opened by a second one.
fn second_writer() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("disk");
    disks::create(&file, "raw", 64 << 20)?;
    let disk = disks::drive(&file, "raw", "");
    let mut first = Session::start(&mut guest(&disk, "test=disk-journal"))?;
    first.expect("@@SAFE", PATIENCE)?;
    let second = guest(&disk, "test=disk-flush")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    if second.status.success() || !text.contains("lock") {
        return Err(format!("a second writer gave {}: {text}", second.status).into());
    }
    Ok(())
}
