//! KVM's own counters of a running guest, read from outside: from the
//! descriptors that the guest's process holds open for it (KVM_GET_STATS_FD;
//! `xenner -xenner stats=on` does, and they can be copied by pidfd_getfd), else
//! from debugfs (`kvm/PID-FD/`, one file a counter), which a kernel in lockdown
//! does not let anybody read. Also a part of xtask's benchmarks, so that only
//! std, rustix and tempfile are used here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Counts since the VM was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exits {
    /// All exits from the guest, to the host kernel or further.
    pub all: u64,
    /// Exits to the process: xenner's own count, else KVM's for port I/O, MMIO
    /// and signals, which are the ones that can get there.
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

/// Where the counters of one process's guest are.
#[derive(Debug)]
pub struct Counters {
    pid: u32,
    source: Source,
    /// xenner's own count of what came back to it, which KVM has not everywhere.
    log: Option<File>,
}

#[derive(Debug)]
enum Source {
    /// Copies of the process's statistics descriptors.
    Descriptors(Vec<File>),
    /// debugfs.
    Debugfs(Debugfs),
}

impl Counters {
    /// Find the counters of the guest of process `pid`, which runs by now.
    /// `None` where nobody may read them, or there is no guest.
    pub fn open(pid: u32) -> Option<Counters> {
        let descriptors = statistics_descriptors(pid).unwrap_or_default();
        let source = if descriptors.is_empty() {
            Source::Debugfs(Debugfs::open(pid)?)
        } else {
            Source::Descriptors(descriptors)
        };
        Some(Counters {
            pid,
            source,
            log: exit_log(pid),
        })
    }

    /// Counts of all its vcpus, added up.
    pub fn read(&self) -> Exits {
        let number: Box<dyn Fn(&str) -> u64> = match &self.source {
            Source::Descriptors(files) => Box::new(|name| {
                files
                    .iter()
                    .map(|file| statistic(file, name).unwrap_or(0))
                    .sum()
            }),
            Source::Debugfs(debugfs) => Box::new(|name| debugfs.number(self.pid, name)),
        };
        let kinds = ["io_exits", "mmio_exits", "signal_exits"];
        let process = match &self.log {
            Some(log) => logged(log),
            None => kinds.iter().map(|kind| number(kind)).sum(),
        };
        Exits {
            all: number("exits"),
            process,
        }
    }
}

/// The memory file in which xenner counts.
fn exit_log(pid: u32) -> Option<File> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let is_log = |file: &PathBuf| {
        fs::read_link(file).is_ok_and(|link| link.to_string_lossy().contains("memfd:xenner-exits"))
    };
    let file = entries(&dir)
        .into_iter()
        .map(|name| dir.join(name))
        .find(is_log)?;
    File::open(file).ok()
}

/// The sum of its numbers, one a vcpu.
fn logged(log: &File) -> u64 {
    let number = |vcpu: u64| {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, vcpu * 8).ok()?;
        Some(u64::from_ne_bytes(bytes))
    };
    (0..).map_while(number).sum()
}

/// Copies of the descriptors that show vcpu statistics.
fn statistics_descriptors(pid: u32) -> Option<Vec<File>> {
    let dir = format!("/proc/{pid}/fd");
    let shows = |number: &String| {
        let link = fs::read_link(format!("{dir}/{number}")).unwrap_or_default();
        link.to_string_lossy().contains("kvm-vcpu-stats")
    };
    let process = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
    let copy = |number: String| {
        let copy = pidfd_getfd(&process, number.parse().ok()?, PidfdGetfdFlags::empty());
        copy.ok().map(File::from)
    };
    Some(
        entries(Path::new(&dir))
            .into_iter()
            .filter(shows)
            .filter_map(copy)
            .collect(),
    )
}

/// One counter of a statistics descriptor (Documentation/virt/kvm/api.rst,
/// KVM_GET_STATS_FD): a header, descriptors with names, numbers.
fn statistic(file: &File, wanted: &str) -> Option<u64> {
    let word = |at: u64| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let (name_size, count) = (u64::from(word(4)?), u64::from(word(8)?));
    let (descriptors, data) = (u64::from(word(16)?), u64::from(word(20)?));
    let mut name = vec![0; usize::try_from(name_size).ok()?];
    for i in 0..count {
        let at = descriptors + i * (16 + name_size);
        file.read_exact_at(&mut name, at + 16).ok()?;
        if name.split(|&byte| byte == 0).next() == Some(wanted.as_bytes()) {
            let mut value = [0; 8];
            file.read_exact_at(&mut value, data + u64::from(word(at + 8)?))
                .ok()?;
            return Some(u64::from_ne_bytes(value));
        }
    }
    None
}

/// KVM's directory in debugfs.
#[derive(Debug)]
struct Debugfs {
    kvm: PathBuf,
    /// The mount point made for this, if there had to be one.
    mounted: Option<tempfile::TempDir>,
}

impl Debugfs {
    /// Mounts debugfs for the time being if it is not.
    fn open(pid: u32) -> Option<Debugfs> {
        let usual = PathBuf::from("/sys/kernel/debug/kvm");
        let debugfs = if fs::read_dir(&usual).is_ok() {
            Debugfs {
                kvm: usual,
                mounted: None,
            }
        } else {
            let dir = tempfile::tempdir().ok()?;
            let mut mount = Command::new("mount");
            let mount = mount
                .args(["-t", "debugfs", "debugfs"])
                .arg(dir.path())
                .output();
            if !mount.is_ok_and(|output| output.status.success()) {
                return None;
            }
            Debugfs {
                kvm: dir.path().join("kvm"),
                mounted: Some(dir),
            }
        };
        let readable = |dir: &PathBuf| fs::read_to_string(dir.join("exits")).is_ok();
        debugfs
            .directories(pid)
            .iter()
            .any(readable)
            .then_some(debugfs)
    }

    /// A counter of the process's VMs, added up.
    fn number(&self, pid: u32, name: &str) -> u64 {
        let one = |dir: PathBuf| {
            let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        self.directories(pid).into_iter().map(one).sum()
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

impl Drop for Debugfs {
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
