//! The rig: a Debian machine with a working `/dev/kvm` of the hardware flavour
//! (kvm_amd with nested paging) where there is no such hardware. QEMU's TCG
//! emulates AMD's SVM; the KVM code in the machine is the real one. A command
//! is run in it, and its output and exit status come back.

mod image;
mod machine;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::error::Result;
use crate::packages::Qemu;
use crate::process::is_executable;
use crate::ui;
use crate::workspace::Workspace;

pub use image::Image;
pub use machine::{Machine, Outcome};

/// Exit status of a command that the time limit ended, as `timeout` has it.
const TIMED_OUT: u8 = 124;
/// Exit status when the machine gave no answer.
const NO_ANSWER: u8 = 126;

/// Options of `cargo xtask rig`.
#[derive(Debug, clap::Args)]
pub struct RigArgs {
    /// Processors of the machine
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Its memory in MiB
    #[arg(long, default_value_t = 2560)]
    mem: u32,
    /// Seconds until it is ended
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A directory to bring in as /payload, where the command starts
    #[arg(long)]
    payload: Option<PathBuf>,
    /// Bring QEMU in too (qemu-system-x86_64 in the machine's PATH)
    #[arg(long)]
    qemu: bool,
    /// Count instructions: one processor, one instruction is one nanosecond
    #[arg(long)]
    icount: bool,
    /// Let its processors take turns in one thread, so that interrupts fall elsewhere
    #[arg(long)]
    one_thread: bool,
    /// Show the machine's console at the end
    #[arg(long)]
    verbose: bool,
    /// Lend it the Debian image as /dev/vda, with its kernel in /images
    #[arg(long)]
    images: bool,
    /// More of the machine's kernel command line
    #[arg(long, default_value = "")]
    append: String,
    /// The command; a program file of this machine as first word is brought in.
    /// xenner is in PATH, the test assets are in /assets
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Run the command in the rig; its exit status is given back.
pub fn rig(ws: &Workspace, args: &RigArgs) -> Result<ExitCode> {
    let mut image = Image::with_xenner(ws)?;
    let mut words = args.command.clone();
    if let Some(dir) = &args.payload {
        image.payload(dir)?;
    }
    let first = PathBuf::from(&words[0]);
    if words.len() > 1 || !words[0].contains(' ') {
        bring_in(&mut image, &first, &mut words)?;
    }
    if args.qemu {
        image.qemu(&Qemu::ensure(ws)?)?;
    }
    let disk = args.images.then(|| ws.images().join("debian.img"));
    if disk.is_some() {
        image.images(ws)?;
    }
    let machine = Machine {
        cpus: args.smp,
        memory_mib: args.mem,
        silence: None,
        limit: Duration::from_secs(args.timeout),
        icount: args.icount,
        one_thread: args.one_thread,
        append: args.append.clone(),
        disk,
    };
    ui::step(&format!("In the rig: {}", words.join(" ")));
    let outcome = machine.run(ws, image, &words.join(" "), &mut |line| println!("{line}"))?;
    if args.verbose || outcome.status.is_none() {
        eprintln!(
            "{}",
            outcome.console_tail(if args.verbose { usize::MAX } else { 25 })
        );
    }
    Ok(ExitCode::from(match (outcome.status, outcome.timed_out) {
        (Some(status), _) => status,
        (None, true) => TIMED_OUT,
        (None, false) => NO_ANSWER,
    }))
}

/// If the command's first word is a program of this machine, take it along.
fn bring_in(image: &mut Image, first: &std::path::Path, words: &mut [String]) -> Result<()> {
    if first.components().count() < 2 || !is_executable(first) {
        return Ok(());
    }
    let name = first
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    image.program(first)?;
    words[0] = name;
    Ok(())
}
