//! KVM's own counters of one VM, as its debugfs directory shows them
//! (`kvm/PID-FD/`, one file a counter; the same numbers as KVM_GET_STATS_FD,
//! readable from outside the process that owns the VM).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::process::capture;

/// Counts since the VM was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// All exits from the guest, to the host kernel or further.
    pub all: u64,
    /// Exits for port I/O, MMIO and signals: only these can reach the process.
    pub process: u64,
}

impl Exits {
    /// What was counted since `before`.
    pub fn since(self, before: Exits) -> Exits {
        Exits {
            all: self.all.saturating_sub(before.all),
            process: self.process.saturating_sub(before.process),
        }
    }
}

/// A place from which counters can be read.
#[derive(Debug)]
pub struct Counters {
    kvm: PathBuf,
    /// Kept for its end: the mount point made for this.
    mounted: Option<tempfile::TempDir>,
}

impl Counters {
    /// Find KVM's directory in debugfs; mount debugfs for the time being if it
    /// is not. `None` where that is not allowed.
    pub fn open() -> Option<Counters> {
        let usual = PathBuf::from("/sys/kernel/debug/kvm");
        if fs::read_dir(&usual).is_ok() {
            return Some(Counters {
                kvm: usual,
                mounted: None,
            });
        }
        let dir = tempfile::tempdir().ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "debugfs", "debugfs"]).arg(dir.path());
        capture("mount", &mut mount).ok()?;
        Some(Counters {
            kvm: dir.path().join("kvm"),
            mounted: Some(dir),
        })
    }

    /// The counters of the VMs of a process, added up.
    pub fn read(&self, pid: u32) -> Exits {
        let mut sum = Exits::default();
        for dir in self.directories(pid) {
            let number = |name: &str| {
                let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
                text.trim().parse::<u64>().unwrap_or(0)
            };
            sum.all += number("exits");
            sum.process += number("io_exits") + number("mmio_exits") + number("signal_exits");
        }
        sum
    }

    /// KVM names the directory after the thread that made the VM.
    fn directories(&self, pid: u32) -> Vec<PathBuf> {
        let threads = super::guest::entries(Path::new(&format!("/proc/{pid}/task")));
        let vms = super::guest::entries(&self.kvm);
        let of_threads = |name: &&String| {
            name.split_once('-')
                .is_some_and(|(thread, _)| threads.contains(thread))
        };
        vms.iter()
            .filter(of_threads)
            .map(|name| self.kvm.join(name))
            .collect()
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        if let Some(dir) = &self.mounted
            && capture("umount", Command::new("umount").arg(dir.path())).is_err()
        {
            crate::ui::note(&format!("cannot unmount {}", dir.path().display()));
        }
    }
}
