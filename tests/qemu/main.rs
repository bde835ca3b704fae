//! The monitor's answers beside QEMU's own: the same commands to both. Where QEMU refuses, xenner
//! has to refuse with an error of the same class; where it answers, xenner's answer has to be one
//! that the schema allows of the QEMU whose version xenner has.

mod questions;
mod schema;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;

use questions::{BEFORE, DOMAIN, NOTHING};
use schema::Schema;
use support::{asset, qmp, trial_unless, xenner};

/// Either program answers within this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// What answers have that the QEMU of some release does not know: newer than Debian 12's.
const NEWER: [&str; 1] = ["[].acpi is not in the schema"];

/// Questions to a pair.
type Story = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let stories: [(&str, Story); 2] = [("nothing", nothing), ("domain", domain)];
    let missing = || {
        let version = Command::new("qemu-system-x86_64").arg("--version").output();
        match version.is_ok_and(|output| output.status.success()) {
            true => support::missing(&[asset("pvtest")]),
            false => Some("qemu-system-x86_64 is not there: install qemu-system-x86".to_owned()),
        }
    };
    let trial = |(name, run): (&str, _)| trial_unless(missing(), name.to_owned(), run);
    support::main(stories.into_iter().map(trial).collect())
}

/// A program under question.
struct Monitor {
    child: Child,
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Starts it in the directory `name` of `dir`, with its monitor on a socket there.
    fn start(mut command: Command, dir: &Path, name: &str) -> Result<Monitor, Failed> {
        let dir = dir.join(name);
        let socket = dir.join("monitor");
        let child = command
            .args(["-S", "-no-user-config", "-nodefaults", "-nographic"])
            .args(["-name", "same", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()?;
        let stream = qmp::connect(&socket, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = BufReader::new(stream.try_clone()?);
        Ok(Monitor {
            child,
            stream,
            lines,
        })
    }

    /// The next line that is not an event.
    fn next(&mut self) -> Result<Value, Failed> {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line)?;
            let value: Value = serde_json::from_str(&line)?;
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    }

    fn ask(&mut self, line: &str) -> Result<Value, Failed> {
        self.stream.write_all(format!("{line}\r\n").as_bytes())?;
        self.next()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both programs, and what was found wrong with xenner's answers.
struct Pair {
    ours: Monitor,
    theirs: Monitor,
    /// None if it is of another release.
    schema: Option<Schema>,
    faults: Vec<String>,
}

impl Pair {
    fn start(ours: Command, theirs: Command, dir: &Path) -> Result<Pair, Failed> {
        let mut pair = Pair {
            ours: Monitor::start(ours, dir, "xenner")?,
            theirs: Monitor::start(theirs, dir, "qemu")?,
            schema: None,
            faults: Vec::new(),
        };
        let (ours, theirs) = (pair.ours.next()?, pair.theirs.next()?);
        for key in ["version", "capabilities"] {
            if ours["QMP"].get(key).is_none() || theirs["QMP"].get(key).is_none() {
                pair.faults.push(format!("greeting: {ours}"));
            }
        }
        for line in BEFORE {
            pair.ask(line)?;
        }
        pair.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        let release = |greeting: &Value| {
            let version = &greeting["QMP"]["version"]["qemu"];
            (version["major"].clone(), version["minor"].clone())
        };
        if release(&ours) == release(&theirs) {
            let schema = pair.theirs.ask(r#"{"execute":"query-qmp-schema"}"#)?;
            pair.schema = Some(Schema::new(&schema));
        } else {
            eprintln!("another QEMU than 7.2: only what is refused is compared");
        }
        Ok(pair)
    }

    fn ask(&mut self, line: &str) -> Result<(), Failed> {
        let (ours, theirs) = (self.ours.ask(line)?, self.theirs.ask(line)?);
        if ours["error"]["class"] != theirs["error"]["class"] || ours.get("id") != theirs.get("id")
        {
            let fault = format!("{line}:\n  xenner: {ours}\n  QEMU:   {theirs}");
            self.faults.push(fault);
            return Ok(());
        }
        let request: Value = serde_json::from_str(line).unwrap_or_default();
        let (Some(schema), Some(answer), Some(command)) = (
            &self.schema,
            ours.get("return"),
            request["execute"].as_str(),
        ) else {
            return Ok(());
        };
        let faults = schema.faults(command, answer).into_iter();
        let faults = faults.filter(|fault| !NEWER.contains(&fault.as_str()));
        self.faults
            .extend(faults.map(|fault| format!("{line}: {fault}")));
        Ok(())
    }

    fn end(self) -> Result<(), Failed> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(self.faults.join("\n").into()),
        }
    }
}

/// Programs without a domain.
fn nothing() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (mut ours, mut theirs) = (xenner(), Command::new("qemu-system-x86_64"));
    for (name, command) in [("xenner", &mut ours), ("qemu", &mut theirs)] {
        std::fs::create_dir(dir.path().join(name))?;
        command.args(["-machine", "none"]);
    }
    let mut pair = Pair::start(ours, theirs, dir.path())?;
    NOTHING.iter().try_for_each(|line| pair.ask(line))?;
    pair.end()
}

/// A PV domain, and a machine of QEMU's, given the same.
fn domain() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for name in ["xenner", "qemu"] {
        let own = dir.path().join(name);
        std::fs::create_dir(&own)?;
        for disk in ["disk0", "disk1"] {
            std::fs::File::create(own.join(disk))?.set_len(1 << 20)?;
        }
    }
    let (mut ours, mut theirs) = (xenner(), Command::new("qemu-system-x86_64"));
    ours.args(["-append", "test=serve", "-kernel"])
        .arg(asset("pvtest"));
    theirs.args(["-accel", "tcg"]);
    for command in [&mut ours, &mut theirs] {
        command.args(["-machine", "pc", "-m", "64", "-smp", "1,maxcpus=2"]);
        command.args(["-uuid", "6e6e6578-0000-4000-8000-000000000001"]);
        command.args(["-blockdev", "driver=file,node-name=f0,filename=disk0"]);
        command.args(["-blockdev", "driver=raw,node-name=d0,file=f0"]);
        command.args(["-device", "virtio-blk-pci,drive=d0,id=disk0"]);
        command.args(["-device", "ide-cd,id=cd0"]);
        command.args([
            "-netdev",
            "stream,id=n0,server=on,addr.type=unix,addr.path=n0",
        ]);
        command.args(["-device", "virtio-net-pci,netdev=n0,id=net0"]);
        command.args(["-chardev", "ringbuf,id=c0"]);
        command.args(["-device", "isa-serial,chardev=c0,id=serial0"]);
        command.args(["-device", "virtio-balloon-pci,id=balloon0"]);
    }
    let mut pair = Pair::start(ours, theirs, dir.path())?;
    DOMAIN.iter().try_for_each(|line| pair.ask(line))?;
    pair.end()
}
