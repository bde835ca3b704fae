//! KVM's own counters of one VM, as its debugfs directory shows them
//! (`kvm/PID-FD/`, one file a counter; the same numbers as KVM_GET_STATS_FD,
//! readable from outside the process that owns the VM). Also a part of xtask's
//! benchmarks, so that nothing but std and tempfile is used here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Counts since the VM was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    /// The mount point made for this, if there had to be one.
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
        let mount = Command::new("mount")
            .args(["-t", "debugfs", "debugfs"])
            .arg(dir.path())
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            return None;
        }
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
        let threads = entries(Path::new(&format!("/proc/{pid}/task")));
        let of_threads = |name: &&String| {
            name.split_once('-')
                .is_some_and(|(thread, _)| threads.contains(thread))
        };
        entries(&self.kvm)
            .iter()
            .filter(of_threads)
            .map(|name| self.kvm.join(name))
            .collect()
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        if let Some(dir) = &self.mounted {
            // Lazily, since another reader may be at it; nothing can be done
            // about a refusal.
            let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
        }
    }
}

/// The names of the entries of a directory; none if there is no such directory.
pub fn entries(dir: &Path) -> BTreeSet<String> {
    let list = fs::read_dir(dir).into_iter().flatten().flatten();
    list.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
