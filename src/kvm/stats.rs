//! KVM's own statistics of a vcpu: the descriptor that KVM_GET_STATS_FD gives
//! (Documentation/virt/kvm/api.rst of Linux; structures of its `kvm.h`).
//!
//! While the descriptor is open, another process may take a copy of it
//! (pidfd_getfd) and read the same numbers while the domain runs. What KVM does
//! not count stands in an [`ExitLog`].
// UNSAFETY: an ioctl that kvm-ioctls does not know.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_ioctls::VcpuFd;
use rustix::fs::MemfdFlags;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of `struct kvm_stats_header` and of `struct kvm_stats_desc` without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More names than any KVM has, and longer ones: what the kernel says is believed up to here.
const MOST: u32 = 4096;

/// The statistics of one vcpu.
#[derive(Debug)]
pub struct VcpuStatistics(File);

impl VcpuStatistics {
    /// Opens them.
    ///
    /// # Errors
    /// This KVM is older than Linux 5.14.
    pub fn open(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the ioctl takes no argument and gives a new descriptor.
        let fd = unsafe { vmm_sys_util::ioctl::ioctl(vcpu, KVM_GET_STATS_FD) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// All counters that are single numbers, by name, since the vcpu was made.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn read(&self) -> io::Result<Vec<(String, u64)>> {
        let mut header = [0; HEADER];
        self.0.read_exact_at(&mut header, 0)?;
        let field = |n: usize| word(&header, n * 4);
        let (name_size, count) = (field(1).min(MOST) as usize, field(2).min(MOST));
        let (descriptors, data) = (u64::from(field(4)), u64::from(field(5)));
        let mut counters = Vec::new();
        let mut entry = vec![0; DESCRIPTOR + name_size];
        for i in 0..count {
            let at = descriptors + u64::from(i) * entry.len() as u64;
            self.0.read_exact_at(&mut entry, at)?;
            // flags, exponent and size (two bytes each), offset, bucket size, name
            let (size, offset) = (word(&entry, 4) >> 16, word(&entry, 8));
            if size != 1 {
                continue;
            }
            let name = entry[DESCRIPTOR..].split(|&b| b == 0).next().unwrap_or(&[]);
            let mut value = [0; 8];
            self.0.read_exact_at(&mut value, data + u64::from(offset))?;
            let name = String::from_utf8_lossy(name).into_owned();
            counters.push((name, u64::from_ne_bytes(value)));
        }
        Ok(counters)
    }
}

/// How often each vcpu came back from KVM_RUN to this process, which KVM does not count on
/// every flavour: a memory file with 8 bytes a vcpu (native byte order), which others may read
/// as `/proc/PID/fd/N` while the domain runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExitLog(Arc<File>);

impl ExitLog {
    /// The memory file's name.
    pub const NAME: &str = "xenner-exits";

    /// An empty one.
    ///
    /// # Errors
    /// The host gives no memory file.
    pub fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create(Self::NAME, MemfdFlags::CLOEXEC)?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Sets a vcpu's count.
    pub fn set(&self, vcpu: u32, count: u64) {
        if let Err(e) = self
            .0
            .write_all_at(&count.to_ne_bytes(), u64::from(vcpu) * 8)
        {
            log::debug!(target: "xenner::kvm", "exit log: {e}");
        }
    }

    /// A vcpu's count.
    #[must_use]
    pub fn get(&self, vcpu: u32) -> u64 {
        let mut count = [0; 8];
        match self.0.read_exact_at(&mut count, u64::from(vcpu) * 8) {
            Ok(()) => u64::from_ne_bytes(count),
            // the vcpu has not run yet
            Err(_) => 0,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}
