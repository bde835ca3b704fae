//! What the tests that boot guests share: where things are, what is missing,
//! and a driver that types into a guest's console and waits for answers.
//!
//! `cargo xtask test` stages kernels, initramfs and test kernels in
//! `target/assets` (or `$XENNER_ASSETS`); without them these tests are shown as
//! ignored, unless `CI` or `XENNER_TEST_ALL` is set: then they fail.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod conversation;
pub mod counters;
pub mod disks;
pub mod libvirt;
pub mod qmp;
pub mod session;
pub mod state;

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

/// A guest test ends within this time or has failed. Generous: machines that
/// test run several things at once, and the rig's is emulated.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The stock kernels by their series.
pub const KERNELS: [&str; 3] = ["5.10", "6.1", "6.12"];

/// Set for the sizes and the tests of `cargo xtask soak`.
pub const LONG: &str = "XENNER_TEST_LONG";

/// The directory with everything that `cargo xtask` staged.
pub fn assets() -> PathBuf {
    if let Some(dir) = std::env::var_os("XENNER_ASSETS") {
        return dir.into();
    }
    // cargo's directory for tests' files is target/tmp
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp).join("assets")
}

/// One of the staged files.
pub fn asset(name: &str) -> PathBuf {
    assets().join(name)
}

/// The Debian disk image and what goes with it, as `cargo xtask` staged it.
pub fn image(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("XENNER_IMAGES") {
        return PathBuf::from(dir).join(name);
    }
    let assets = assets();
    assets.parent().unwrap_or(&assets).join("images").join(name)
}

/// A stock kernel.
pub fn kernel(series: &str) -> PathBuf {
    asset(&format!("kernel-{series}"))
}

/// The program under test.
pub fn xenner() -> Command {
    let built = || env!("CARGO_BIN_EXE_xenner").into();
    Command::new(std::env::var_os("XENNER_BIN").unwrap_or_else(built))
}

/// The arguments of a guest with a console in this terminal.
pub fn guest_arguments(series: &str, smp: u32, append: &str) -> Vec<String> {
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let append = format!("console=hvc0 {append}");
    let words = [
        "-kernel",
        &path(kernel(series)),
        "-initrd",
        &path(asset("initramfs")),
        "-append",
        append.trim_end(),
        "-m",
        "512",
        "-smp",
        &smp.to_string(),
        "-nographic",
    ];
    words.map(str::to_owned).to_vec()
}

/// What is missing for tests that boot guests, if anything.
pub fn missing(files: &[PathBuf]) -> Option<String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm: {error}"));
    }
    let file = files.iter().find(|file| !file.exists())?;
    Some(format!(
        "{} is not there: run `cargo xtask test` once",
        file.display()
    ))
}

/// A test that boots guests and needs `files`. What is missing makes it
/// ignored, and a failure where everything is asked for.
pub fn trial(
    name: String,
    files: &[PathBuf],
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    trial_unless(missing(files), name, run)
}

/// The same where what is missing is known, if anything.
pub fn trial_unless(
    missing: Option<String>,
    name: String,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let strict = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match missing {
        None => Trial::test(name, run),
        Some(what) if strict("CI") || strict("XENNER_TEST_ALL") => {
            Trial::test(name, move || Err(what.into()))
        }
        Some(what) => Trial::test(name, move || Err(what.into()))
            .with_kind("needs a machine with KVM")
            .with_ignored_flag(true),
    }
}

/// Are these tests to be left out? `cargo xtask test`, which runs the programs
/// on their own, says so when it runs all others.
pub fn left_out() -> bool {
    std::env::var("XENNER_TEST_GUESTS").is_ok_and(|value| value == "no")
}

/// Run the tests, one after another unless asked otherwise: guests that share
/// two processors would only wait for one another.
pub fn main(trials: Vec<Trial>) -> std::process::ExitCode {
    side_by_side(trials, 1)
}

/// Run the tests, so many at a time unless asked otherwise.
pub fn side_by_side(trials: Vec<Trial>, threads: usize) -> std::process::ExitCode {
    let mut arguments = Arguments::from_args();
    let trials = if left_out() { Vec::new() } else { trials };
    arguments.test_threads = arguments.test_threads.or(Some(threads));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Run this program again by `command`, which is made for it, with `mark` set in its environment.
/// Comes back only if that cannot be started.
pub fn again_under(mut command: Command, mark: &str) -> std::process::ExitCode {
    command
        .arg(std::env::current_exe().unwrap_or_default())
        .args(std::env::args_os().skip(1))
        .env(mark, "1");
    let error = command.exec();
    eprintln!("Cannot start {:?}: {error}", command.get_program());
    std::process::ExitCode::FAILURE
}

/// Run a command; its output if it succeeds.
pub fn output(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{command:?}: {}: {text}", output.status).into())
}

/// Run a command of words without spaces in them.
pub fn run(words: &str) -> Result<(), Failed> {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    output(Command::new(program).args(words)).map(drop)
}
