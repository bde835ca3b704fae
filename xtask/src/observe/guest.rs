//! One guest: started with a kernel and a command to run in it, its console
//! read line by line with the time of each line.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::Vmm;
use crate::error::{Error, Result};

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initramfs, if the kernel has use for one.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line apart from the console.
    pub append: String,
    /// vCPUs.
    pub smp: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl Shape {
    /// A Linux guest that runs `command` (without double quotes) and powers off.
    pub fn linux(kernel: PathBuf, initrd: PathBuf, command: &str, smp: u32) -> Shape {
        let append = format!("quiet panic=-1 XENNER_UP=1 xenner.run=\"{command}\"");
        Shape {
            kernel,
            initrd: Some(initrd),
            append,
            smp,
            memory_mib: 512,
        }
    }
}

/// A guest that runs, in a process group of its own.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    lines: Receiver<(Instant, String)>,
    tail: Vec<String>,
    started: Instant,
    deadline: Instant,
}

/// Lines of the console that go into a failure's message.
const TAIL: usize = 20;

impl Guest {
    /// Start a guest that is to end within `limit`.
    pub fn start(
        vmm: &Vmm,
        shape: &Shape,
        prepare: impl FnOnce(&mut Command),
        limit: Duration,
    ) -> Result<Guest> {
        let mut command = vmm.command();
        command.arg("-kernel").arg(&shape.kernel);
        if let Some(initrd) = &shape.initrd {
            command.arg("-initrd").arg(initrd);
        }
        let append = format!("console={} {}", vmm.console(), shape.append);
        command.args(["-append", &append, "-smp", &shape.smp.to_string()]);
        command.args(["-m", &shape.memory_mib.to_string()]);
        if let Vmm::Xenner(_) = vmm {
            command.args(["-nographic", "-no-reboot"]);
        }
        prepare(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let mut child = command
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { program, source })?;
        let lines = readers(&mut child);
        Ok(Guest {
            child,
            lines,
            tail: Vec::new(),
            started,
            deadline: started + limit,
        })
    }

    /// The process that runs it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds from the start until `time`.
    pub fn seconds(&self, time: Instant) -> f64 {
        time.duration_since(self.started).as_secs_f64()
    }

    /// The next line of its console and when it came; `None` at the end.
    pub fn line(&mut self) -> Result<Option<(Instant, String)>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok((time, line)) => {
                self.tail.push(line.clone());
                if self.tail.len() > TAIL {
                    self.tail.remove(0);
                }
                Ok(Some((time, line)))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self.failure("the time limit was reached")),
        }
    }

    /// Read to the end; the process must end with 0 and leave no other behind.
    pub fn finish(&mut self) -> Result<Instant> {
        while self.line()?.is_some() {}
        let status = self.wait()?;
        let end = Instant::now();
        if !status.success() {
            return Err(self.failure(&format!("it ended with {status}")));
        }
        if self
            .group()
            .is_some_and(|group| test_kill_process_group(group).is_ok())
        {
            return Err(self.failure("processes of its group are left behind"));
        }
        Ok(end)
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        while Instant::now() < self.deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(source) => {
                    return Err(Error::Start {
                        program: "wait".to_owned(),
                        source,
                    });
                }
            }
        }
        Err(self.failure("its console is closed, but it does not end"))
    }

    fn group(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid()).ok()?)
    }

    /// A failure that shows the end of its console.
    pub fn failure(&self, what: &str) -> Error {
        Error::Failed {
            command: format!("A guest after {:.1} s", self.seconds(Instant::now())),
            status: what.to_owned(),
            tail: self
                .tail
                .iter()
                .map(|line| format!("\n    {line}"))
                .collect(),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            if let Some(group) = self.group() {
                // It may have ended meanwhile.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Threads that send the lines of both outputs.
fn readers(child: &mut Child) -> Receiver<(Instant, String)> {
    let (sender, receiver) = channel();
    let output = child
        .stdout
        .take()
        .map(|out| Box::new(out) as Box<dyn std::io::Read + Send>);
    let errors = child
        .stderr
        .take()
        .map(|err| Box::new(err) as Box<dyn std::io::Read + Send>);
    for stream in [output, errors].into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            while stream
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|count| count > 0)
            {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
    }
    receiver
}
