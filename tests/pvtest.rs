//! The PV test kernels (tests/guests) under xenner: each rule that they check
//! must pass, with one vCPU and with several.

mod support;

use std::process::ExitCode;

use libtest_mimic::{Failed, Trial};
use support::session::Session;
use support::{PATIENCE, asset, trial, xenner};

fn main() -> ExitCode {
    let shapes = [(1, "64"), (2, "96"), (4, "128")];
    support::main(shapes.map(|(smp, mem)| all_rules(smp, mem)).into())
}

fn all_rules(smp: u32, mem: &'static str) -> Trial {
    let image = asset("pvtest");
    let files = [image.clone()];
    trial(format!("pvtest-smp{smp}"), &files, move || {
        let mut command = xenner();
        command
            .arg("-kernel")
            .arg(&image)
            .args(["-append", "test=all", "-nographic"]);
        command.args(["-m", mem, "-smp", &smp.to_string()]);
        let mut session = Session::start(&mut command)?;
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
    })
}
