//! `cargo xtask test`: everything, from the format of the source to Debian's
//! kernels in the rig, and one closing line with the counts. What a step needs
//! and is not there is a failure of that step.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::assets;
use crate::boot::check_kvm;
use crate::builds;
use crate::debian;
use crate::error::{Error, Result};
use crate::observe::flavour;
use crate::packages;
use crate::process;
use crate::rig::{Image, Machine, Outcome};
use crate::ui;
use crate::workspace::Workspace;

/// A test program that boots guests.
struct GuestTest {
    /// Its name in `tests/`.
    program: &'static str,
    /// What it is about.
    what: &'static str,
    /// What `--quick` runs of it: the tests whose names hold this.
    quick: Option<&'static str>,
    /// What the rig's machine runs of it.
    rig: Option<&'static str>,
}

const GUEST_TESTS: [GuestTest; 8] = [
    GuestTest {
        program: "pvtest",
        what: "PV test kernels",
        quick: Some("pvtest-smp1"),
        rig: Some(""),
    },
    GuestTest {
        program: "boot",
        what: "Debian kernels",
        quick: Some("shell-6.1-smp1"),
        rig: Some(""),
    },
    GuestTest {
        program: "budget",
        what: "What a guest may cost",
        quick: Some(""),
        rig: Some(""),
    },
    GuestTest {
        program: "disk",
        what: "Disks",
        quick: Some("rules-"),
        rig: Some(""),
    },
    GuestTest {
        program: "network",
        what: "Networks",
        quick: None,
        rig: None,
    },
    GuestTest {
        program: "debian",
        what: "A whole Debian",
        quick: None,
        rig: None,
    },
    GuestTest {
        program: "monitor",
        what: "The monitor",
        quick: Some(""),
        rig: Some(""),
    },
    GuestTest {
        program: "qemu",
        what: "The monitor beside QEMU's",
        quick: Some(""),
        rig: None,
    },
];
/// The guest tests in the rig end within this time.
const RIG_LIMIT: Duration = Duration::from_secs(1800);
/// Longer than any of them may take.
const RIG_SILENCE: Duration = Duration::from_secs(400);

/// Options of `cargo xtask test`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct TestArgs {
    /// One guest of each kind on this machine, none in the rig
    #[arg(long)]
    quick: bool,
    /// Leave the rig out
    #[arg(long)]
    no_rig: bool,
}

/// Counts of what was run.
#[derive(Debug, Default)]
pub struct Tally {
    passed: u32,
    failed: u32,
    /// What failed, for the end.
    failures: Vec<String>,
}

impl Tally {
    /// Something that is no test program's count failed.
    pub fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// A step that passes or fails as a whole.
    fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        ui::step(name);
        match work() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("{}", crate::error::chain(&error));
                self.fail(name);
            }
        }
    }

    /// Take a line of a test program's output into account.
    fn line(&mut self, step: &str, line: &str) {
        if let Some((passed, failed)) = parse_result(line) {
            self.passed += passed;
            self.failed += failed;
        } else if let Some(test) = failed_test(line) {
            self.failures.push(format!("{step}: {test}"));
        }
    }

    /// A command that runs test programs: their own counts count.
    pub fn tests(&mut self, name: &str, command: &mut Command) {
        ui::step(name);
        let failed_before = self.failed;
        match self.stream(name, command) {
            Ok(true) => {}
            Ok(false) if self.failed > failed_before => {}
            Ok(false) => self.fail(&format!("{name}: ended without a result")),
            Err(error) => self.fail(&format!("{name}: {}", crate::error::chain(&error))),
        }
    }

    fn stream(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        let program = command.get_program().to_string_lossy().into_owned();
        let start = |source| Error::Start { program, source };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output)
                .lines()
                .map_while(std::io::Result::ok)
            {
                println!("{line}");
                self.line(name, &line);
            }
        }
        Ok(child
            .wait()
            .map_err(Error::file("wait for", "cargo test"))?
            .success())
    }

    /// How many passed or failed so far.
    pub fn count(&self) -> u32 {
        self.passed + self.failed
    }

    /// Print the sums; the exit code says whether all passed.
    pub fn close(&self) -> ExitCode {
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// `test result: ok. 5 passed; 0 failed; ...` to `(5, 0)`.
fn parse_result(line: &str) -> Option<(u32, u32)> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let mut numbers = counts
        .split("; ")
        .map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The name in `test NAME ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix("FAILED")?;
    Some(name.trim_end().trim_end_matches("...").trim_end())
}

/// Run everything; the exit code says whether all passed.
pub fn test(ws: &Workspace, args: &TestArgs) -> Result<ExitCode> {
    let mut tally = Tally::default();
    builds::ensure_target(ws)?;
    static_checks(ws, &mut tally);
    let workspace = ["test", "--workspace", "--locked", "--no-fail-fast"];
    // The guest tests come later, built as they are shipped.
    let mut units = ws.cargo();
    units.args(workspace).env("XENNER_TEST_GUESTS", "no");
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    tally.check("Programs of QEMU and Xen, which tests compare with", || {
        path = with_programs(ws)?;
        Ok(())
    });
    units.env("PATH", &path);
    tally.tests("Unit and integration tests", &mut units);
    tally.check("Building and fetching what guests need", || {
        builds::with_tests(ws)?;
        assets::stage(ws)?;
        debian::stage(ws).map(drop)
    });
    tally.check("Access to /dev/kvm", check_kvm);
    for test in &GUEST_TESTS {
        let Some(chosen) = (if args.quick { test.quick } else { Some("") }) else {
            continue;
        };
        let name = format!("{} on {}", test.what, flavour());
        let mut command = guest_tests(ws, test.program, chosen);
        tally.tests(&name, command.env("PATH", &path));
    }
    tally.check("libvirt, which tests run for themselves", || {
        packages::install_libvirt()
    });
    let name = format!("libvirt on {}", flavour());
    tally.tests(&name, &mut libvirt_tests(ws, args.quick));
    if !args.quick && !args.no_rig {
        in_rig(ws, &mut tally);
    }
    Ok(tally.close())
}

/// `PATH` with QEMU, its image tools, and Debian's programs for the xenstore.
fn with_programs(ws: &Workspace) -> Result<OsString> {
    let dir = ws.assets().join("programs");
    std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
    for verb in [
        "ls", "read", "write", "list", "exists", "rm", "chmod", "watch",
    ] {
        let name = format!("xenstore-{verb}");
        packages::xenstore_program(ws, &name)?.write_script(&dir.join(&name))?;
    }
    packages::qemu_img(ws)?.write_script(&dir.join("qemu-img"))?;
    packages::qemu_io(ws)?.write_script(&dir.join("qemu-io"))?;
    // Debian's own where it is installed: the newer one that the rig may need trips over its modules.
    if process::in_path("qemu-system-x86_64").is_none() {
        let qemu = packages::Qemu::ensure(ws)?;
        qemu.write_script(&dir.join("qemu-system-x86_64"))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(dir).chain(std::env::split_paths(&path));
    std::env::join_paths(all).map_err(|_| Error::Answer {
        program: "PATH",
        what: "a directory's name has a colon".to_owned(),
    })
}

fn static_checks(ws: &Workspace, tally: &mut Tally) {
    let cargo = |words: &[&str]| process::run(ws.cargo().args(words));
    tally.check("Format", || cargo(&["fmt", "--all", "--check"]));
    tally.check("Clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    });
}

/// A command that runs the tests of `program` whose names hold `chosen`; an
/// empty text stands for all of them. It takes further words for `program`.
pub fn guest_tests(ws: &Workspace, program: &str, chosen: &str) -> Command {
    let mut command = ws.cargo();
    command.args(["test", "--release", "--locked", "--test", program]);
    command
        .env("XENNER_TEST_ALL", "1")
        .env("XENNER_ASSETS", ws.assets())
        .env("XENNER_IMAGES", ws.images());
    command.arg("--");
    if !chosen.is_empty() {
        command.arg(chosen);
    }
    command
}

/// The tests under libvirt, for which the rig's machine is too small. They take root.
fn libvirt_tests(ws: &Workspace, quick: bool) -> Command {
    let mut command = guest_tests(ws, "libvirt", if quick { "probe" } else { "" });
    if !rustix::process::geteuid().is_root() {
        let runner = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";
        command.env(runner, "sudo --preserve-env");
    }
    command
}

/// The same guest tests on the hardware flavour; then guests of several vcpus once more, with the
/// machine's processors in one thread, where interrupts come at moments that they hardly find
/// otherwise.
fn in_rig(ws: &Workspace, tally: &mut Tally) {
    let all: Vec<_> = GUEST_TESTS
        .iter()
        .filter_map(|test| Some((test.program, test.rig?)))
        .collect();
    let one_thread = Machine {
        one_thread: true,
        ..rig_machine(ws)
    };
    for (what, machine, tests) in [
        ("kvm_amd under QEMU TCG", rig_machine(ws), &all[..]),
        (
            "its processors in one thread",
            one_thread,
            &[("boot", "smp4")],
        ),
    ] {
        let name = format!("Guest tests in the rig ({what})");
        ui::step(&name);
        let mut lines = Vec::new();
        let mut attempt = || {
            lines.clear();
            rig_run(ws, &machine, tests, &mut |line| {
                println!("{line}");
                lines.push(line.to_owned());
            })
        };
        let mut outcome = attempt();
        if outcome.as_ref().is_ok_and(Outcome::machine_is_lost) {
            ui::step("The rig's own kernel was lost, which is QEMU's doing: once more");
            outcome = attempt();
        }
        let failed_before = tally.failed;
        lines.iter().for_each(|line| tally.line("rig", line));
        match outcome.map(|outcome| outcome.status) {
            Ok(Some(0)) => {}
            Ok(Some(_)) if tally.failed > failed_before => {}
            Ok(status) => tally.fail(&format!("{name}: ended with {status:?}")),
            Err(error) => tally.fail(&format!("{name}: {}", crate::error::chain(&error))),
        }
    }
}

fn rig_machine(ws: &Workspace) -> Machine {
    Machine {
        limit: RIG_LIMIT,
        silence: Some(RIG_SILENCE),
        disk: Some(ws.images().join("debian.img")),
        ..Machine::default()
    }
}

/// Runs test programs in the rig, of each the tests whose names hold the second word.
fn rig_run(
    ws: &Workspace,
    machine: &Machine,
    tests: &[(&str, &str)],
    line: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let mut image = Image::with_xenner(ws)?;
    image.images(ws)?;
    let mut script = "export XENNER_TEST_ALL=1 XENNER_ASSETS=/assets XENNER_BIN=/bin/xenner; \
                      export XENNER_IMAGES=/images; status=0; "
        .to_owned();
    for (program, chosen) in tests {
        let file = test_program(ws, program)?;
        image.program(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let chosen = if chosen.is_empty() {
            String::new()
        } else {
            format!(" {chosen}")
        };
        script.push_str(&format!("{name}{chosen} || status=1; "));
    }
    script.push_str("exit $status");
    let outcome = machine.run(ws, image, &script, line)?;
    if outcome.status.is_none() {
        eprintln!("{}", outcome.console_tail(25));
    }
    Ok(outcome)
}

/// The file of a test program of the root package, built for release.
pub fn test_program(ws: &Workspace, name: &str) -> Result<PathBuf> {
    let mut build = ws.cargo();
    build.args(["test", "--release", "--locked", "--test", name]);
    build.args(["--no-run", "--message-format=json"]);
    let text = process::capture("cargo test --no-run", &mut build)?;
    let executable = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let wanted = value["target"]["name"] == name && value["target"]["kind"][0] == "test";
        wanted
            .then(|| value["executable"].as_str().map(OsString::from))
            .flatten()
    };
    text.lines()
        .find_map(executable)
        .map(PathBuf::from)
        .ok_or_else(|| Error::Answer {
            program: "cargo test",
            what: format!("no executable of the test {name}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured";
        assert_eq!(parse_result(line), Some((12, 3)));
        assert_eq!(
            parse_result("test result: ok. 5 passed; 0 failed; 0 ignored"),
            Some((5, 0))
        );
        assert_eq!(parse_result("running 3 tests"), None);
        assert_eq!(
            failed_test("test shell-6.1-smp1  ... FAILED"),
            Some("shell-6.1-smp1")
        );
        assert_eq!(failed_test("test cli::x ... FAILED"), Some("cli::x"));
        assert_eq!(failed_test("test cli::x ... ok"), None);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let mut tally = Tally::default();
        tally.tests("dies", Command::new("false").arg("x"));
        assert_eq!((tally.passed, tally.failed), (0, 1));
        let said = "echo 'test a ... FAILED'; echo 'test result: FAILED. 2 passed; 1 failed; 0'";
        tally.tests(
            "says",
            Command::new("sh").args(["-c", &format!("{said}; false")]),
        );
        assert_eq!((tally.passed, tally.failed), (2, 2));
        assert_eq!(tally.failures[1], "says: a");
    }
}
