//! Running the rig's machine: QEMU under TCG, the command's output read from
//! the machine's second serial port line by line, a limit on its time.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::image::Image;
use crate::error::{Error, Result};
use crate::packages::Qemu;
use crate::workspace::{Workspace, make_dir};

/// What init prints when the command has ended.
const STATUS_MARK: &str = "@@RC=";
/// QEMU ends by itself after the machine's power-off within this time.
const GRACE: Duration = Duration::from_secs(15);

/// The shape of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The processors that its programs have (one, when instructions are counted).
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// When it is ended, whatever it does.
    pub limit: Duration,
    /// When it is ended if its programs say nothing for so long.
    pub silence: Option<Duration>,
    /// Run deterministically, with a clock that advances by one nanosecond an
    /// instruction.
    pub icount: bool,
    /// Its processors take turns in one thread of QEMU: interrupts fall elsewhere than
    /// with a thread each.
    pub one_thread: bool,
    /// More of its kernel's command line.
    pub append: String,
    /// A raw image that is its disk `/dev/vda`; what is written to it is lost.
    pub disk: Option<PathBuf>,
}

impl Default for Machine {
    fn default() -> Machine {
        let limit = Duration::from_secs(600);
        Machine {
            cpus: 2,
            memory_mib: 2560,
            limit,
            silence: None,
            icount: false,
            one_thread: false,
            append: String::new(),
            disk: None,
        }
    }
}

/// How a run of the machine went.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status; `None` when the machine did not say.
    pub status: Option<u8>,
    /// Was the machine ended by the time limit?
    pub timed_out: bool,
    /// The text of the machine's console, then QEMU's own complaints.
    pub console: String,
}

/// What the machine's own kernel says when it is lost.
const LOST: [&str; 3] = ["detected stalls on CPUs", "Kernel panic", "soft lockup"];

impl Outcome {
    /// Whether the machine went under, not what ran in it: no program of its users can do that.
    pub fn machine_is_lost(&self) -> bool {
        self.status.is_none() && LOST.iter().any(|text| self.console.contains(text))
    }

    /// The last `lines` lines of the console.
    pub fn console_tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.console.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Machine {
    /// Boot `image`, run `command` in it, hand each line of its output to `line`.
    pub fn run(
        &self,
        ws: &Workspace,
        mut image: Image,
        command: &str,
        line: &mut dyn FnMut(&str),
    ) -> Result<Outcome> {
        let scratch = ws.target.join("rig");
        make_dir(&scratch)?;
        let scratch = tempfile::tempdir_in(&scratch).map_err(Error::file("make", &scratch))?;
        let (initrd, console) = (
            scratch.path().join("initrd"),
            scratch.path().join("console"),
        );
        let kernel = image.kernel.clone();
        if self.spare_processor() {
            image.keep_to(((1 << self.cpus) - 1) << 1);
        }
        fs::write(&initrd, image.finish(command)).map_err(Error::file("write", &initrd))?;
        let mut qemu = self.command(&Qemu::ensure(ws)?);
        qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(&initrd);
        qemu.arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"]);
        let complaints = scratch.path().join("stderr");
        let file = fs::File::create(&complaints).map_err(Error::file("make", &complaints))?;
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file);
        let child = qemu.spawn().map_err(|source| Error::Start {
            program: "qemu-system-x86_64".to_owned(),
            source,
        })?;
        let (status, timed_out) = self.watch(child, line)?;
        let read = |path| fs::read(path).map_err(Error::file("read", path));
        let console = [read(&console)?, read(&complaints)?].concat();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        Ok(Outcome {
            status,
            timed_out,
            console,
        })
    }

    /// With a thread for each processor the first processor is one more, on which no guest runs.
    /// QEMU's TCG has a race there: `cpu_clear_ignne`, called when any processor loads its FPU
    /// state, rewrites the first processor's `hflags2` from that processor's thread. A bit that
    /// VMRUN, #VMEXIT, STGI or CLGI changes just then is lost, and the state of the machine's
    /// kernel ends up in a guest, or the other way round.
    fn spare_processor(&self) -> bool {
        !self.icount && !self.one_thread
    }

    fn command(&self, qemu: &Qemu) -> Command {
        let mut command = qemu.command();
        let threads = if self.spare_processor() {
            "multi"
        } else {
            "single"
        };
        command.args(["-accel", &format!("tcg,thread={threads}")]);
        command.args(["-cpu", qemu.tcg_cpu()]);
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        let cpus = match self.icount {
            true => 1,
            false => self.cpus + u32::from(self.spare_processor()),
        };
        command.args([
            "-smp",
            &cpus.to_string(),
            "-m",
            &self.memory_mib.to_string(),
        ]);
        command.args(["-display", "none", "-no-reboot", "-nic", "none"]);
        if let Some(disk) = &self.disk {
            let name = disk.to_string_lossy().replace(',', ",,");
            command.arg("-drive").arg(format!(
                "file={name},format=raw,if=virtio,snapshot=on,cache=unsafe"
            ));
        }
        let append = format!("console=ttyS0 quiet panic=-1 tsc=reliable {}", self.append);
        command.args(["-append", append.trim_end()]);
        command
    }

    /// Read lines until the machine has ended, the limit is reached or it is silent for too long.
    fn watch(&self, mut child: Child, line: &mut dyn FnMut(&str)) -> Result<(Option<u8>, bool)> {
        let lines = reader(&mut child);
        let mut deadline = Instant::now() + self.limit;
        let mut status = None;
        let ended = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(self.silence.map_or(left, |most| most.min(left))) {
                Ok(text) => match text.strip_prefix(STATUS_MARK) {
                    Some(number) => {
                        status = number.trim().parse().ok();
                        deadline = Instant::now() + GRACE;
                    }
                    None => line(&text),
                },
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !ended {
            child
                .kill()
                .map_err(Error::file("kill", "qemu-system-x86_64"))?;
        }
        child
            .wait()
            .map_err(Error::file("wait for", "qemu-system-x86_64"))?;
        Ok((status, !ended && status.is_none()))
    }
}

/// A thread that sends the child's output line by line.
fn reader(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(output) = child.stdout.take() {
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while output
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&bytes);
                if sender
                    .send(text.trim_end_matches(['\n', '\r']).to_owned())
                    .is_err()
                {
                    break;
                }
                bytes.clear();
            }
        });
    }
    receiver
}
