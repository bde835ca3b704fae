//! The PV test kernels (tests/guests) under xenner: each rule that they check
//! must pass, with one vCPU and with several.

mod support;

use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use libtest_mimic::{Failed, Trial};
use support::session::Session;
use support::{PATIENCE, asset, trial, xenner};

fn main() -> ExitCode {
    let shapes = [(1, "64"), (2, "96"), (4, "128")];
    let mut trials = Vec::from(shapes.map(|(smp, mem)| all_rules(smp, mem)));
    trials.push(wall_clock());
    support::main(trials)
}

fn all_rules(smp: u32, mem: &'static str) -> Trial {
    let files = [asset("pvtest")];
    trial(format!("pvtest-smp{smp}"), &files, move || {
        passes(pvtest("test=all").args(["-m", mem, "-smp", &smp.to_string()]))
    })
}

/// `-rtc base=`, the least and the most that the guest's record holds, and a time zone.
fn wall_clock() -> Trial {
    let files = [asset("pvtest")];
    trial("wall-clock".to_owned(), &files, || {
        for (date, second) in [
            ("1970-01-02", 86_400),
            ("2033-05-18T03:33:20", 2_000_000_000),
            ("2106-02-07T06:28:15", 0xffff_ffff),
            ("9999-12-01", 253_399_622_400_u64),
        ] {
            let base = format!("base={date},clock=host");
            passes(at(second).args(["-rtc", &base]))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        passes(at(now).args(["-rtc", "base=utc"]))?;
        let mut east = at(now + 5 * 3600 + 1800);
        passes(east.args(["-rtc", "localtime"]).env("TZ", "XST-5:30"))
    })
}

/// The test of the wall clock, for about this second.
fn at(second: u64) -> Command {
    pvtest(&format!("test=time-wallclock wall={second}"))
}

fn pvtest(command_line: &str) -> Command {
    let mut command = xenner();
    command.arg("-kernel").arg(asset("pvtest"));
    command.args(["-append", command_line, "-nographic"]);
    command
}

/// Its tests pass, and there were some.
fn passes(command: &mut Command) -> Result<(), Failed> {
    let mut session = Session::start(command)?;
    let text = session.expect("@@DONE ", PATIENCE)?;
    session.expect("\n", PATIENCE)?;
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("FAIL "))
        .collect();
    if !failed.is_empty() {
        return Err(Failed::from(failed.join("\n")));
    }
    if !text.lines().any(|line| line.starts_with("PASS ")) {
        return Err(session.failure("no test was run"));
    }
    session.end_with(0, PATIENCE)
}
