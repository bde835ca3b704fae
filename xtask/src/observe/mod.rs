//! Guests observed from outside: booted with a command to run, their console
//! read line by line, KVM's counters read next to it. Used by the benchmarks
//! and the soak test, on this machine and, by a hidden command, in the rig.

pub mod bench;
// One file for both, because tests cannot use a program's modules.
#[path = "../../../tests/support/counters.rs"]
mod counters;
mod devices;
mod guest;
mod report;
pub mod soak;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A program that runs guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vmm {
    /// This project's.
    Xenner(PathBuf),
    /// QEMU: the words that start it, and its accelerator.
    Qemu(QemuWords, &'static str),
}

/// A QEMU's program, first arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuWords {
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl QemuWords {
    /// What `command` has been given so far.
    pub fn of(command: &Command) -> QemuWords {
        let text = |os: &std::ffi::OsStr| os.to_string_lossy().into_owned();
        let words = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(text);
        let environment = command
            .get_envs()
            .filter_map(|(k, v)| Some((text(k), text(v?))));
        QemuWords {
            words: words.collect(),
            environment: environment.collect(),
        }
    }

    /// The QEMU that the rig's machine was given.
    pub fn in_rig() -> QemuWords {
        let words = ["qemu-system-x86_64", "-L", "/usr/share/qemu"].map(str::to_owned);
        QemuWords {
            words: words.into(),
            environment: Vec::new(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .envs(self.environment.iter().cloned());
        command
    }
}

impl Vmm {
    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Vmm::Xenner(_) => "xenner".to_owned(),
            Vmm::Qemu(_, accelerator) => format!("QEMU {accelerator}"),
        }
    }

    /// The guest's name for its console.
    fn console(&self) -> &'static str {
        match self {
            Vmm::Xenner(_) => "hvc0",
            Vmm::Qemu(..) => "ttyS0",
        }
    }

    fn command(&self) -> Command {
        match self {
            Vmm::Xenner(program) => Command::new(program),
            Vmm::Qemu(words, accelerator) => {
                let mut command = words.command();
                let cpu = if *accelerator == "kvm" { "host" } else { "max" };
                command.args(["-accel", accelerator, "-cpu", cpu, "-nodefaults"]);
                command.args(["-serial", "stdio", "-display", "none", "-no-reboot"]);
                command
            }
        }
    }
}

/// Where the files of a run are: the staged assets, and the program under test.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory of the staged assets.
    pub assets: PathBuf,
    /// The program under test.
    pub xenner: PathBuf,
}

impl Place {
    /// As the rig's machine has them.
    pub fn in_rig() -> Place {
        Place {
            assets: "/assets".into(),
            xenner: "/bin/xenner".into(),
        }
    }

    /// One of the staged files.
    pub fn asset(&self, name: &str) -> PathBuf {
        self.assets.join(name)
    }
}

/// How KVM works on this machine, by the module that is loaded.
pub fn flavour() -> &'static str {
    let loaded = |name: &str| Path::new("/sys/module").join(name).exists();
    ["kvm_pvm", "kvm_amd", "kvm_intel"]
        .into_iter()
        .find(|name| loaded(name))
        .unwrap_or("kvm")
}
