//! What a benchmark of disks and networks needs beside the guest: a disk image,
//! a network namespace with a server in it, and the guest's end of both.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Place, Vmm};
use crate::error::{Error, Result};
use crate::process::capture;

/// The rows of the guest's program that use devices, and the bytes that an operation moves.
pub const NAMES: [(&str, Option<u32>); 11] = [
    ("disk_read_1m", Some(1 << 20)),
    ("disk_write_1m", Some(1 << 20)),
    ("disk_read_4k_d1", Some(4096)),
    ("disk_read_4k_d32", Some(4096)),
    ("disk_write_4k_d1", Some(4096)),
    ("disk_write_4k_d32", Some(4096)),
    ("disk_write_4k_flush", Some(4096)),
    ("tcp_stream_out_64k", Some(64 << 10)),
    ("tcp_stream_in_64k", Some(64 << 10)),
    ("tcp_request_response", None),
    ("tcp_connection", None),
];
/// The host's address and the guest's.
const HOST: &str = "10.98.0.1";
const GUEST: &str = "10.98.0.2";
/// The host's end of the guest's network device.
const TAP: &str = "bench0";
/// Bytes of the disk, which the page cache holds.
const DISK: u64 = 256 << 20;
/// A tap device appears within this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that an operation moves, where it is about bytes.
pub fn bytes(name: &str) -> Option<u32> {
    NAMES.iter().find(|(row, _)| *row == name)?.1
}

/// A command that runs this program again in a network namespace of its own.
pub fn in_namespace() -> Result<Command> {
    let myself = std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?;
    let mut unshare = Command::new("unshare");
    unshare.arg("-n");
    if !rustix::process::geteuid().is_root() {
        // The user is root in a user namespace around it.
        unshare.arg("-r");
    }
    unshare.arg(myself);
    Ok(unshare)
}

/// The devices of one run, until they are dropped.
#[derive(Debug)]
pub struct Devices {
    disk: PathBuf,
    _dir: tempfile::TempDir,
    server: Child,
}

impl Devices {
    /// Make the disk and start the server; this process is in a namespace.
    pub fn new(place: &Place) -> Result<Devices> {
        let dir = tempfile::tempdir().map_err(Error::file("make", std::env::temp_dir()))?;
        let disk = dir.path().join("disk");
        let file = File::create(&disk).map_err(Error::file("make", &disk))?;
        // Written once, so that no run has to allocate what another finds.
        let mut zeros = std::io::Read::take(std::io::repeat(0x5a), DISK);
        std::io::copy(&mut zeros, &mut &file).map_err(Error::file("fill", &disk))?;
        ip("link set lo up")?;
        let mut command = Command::new(place.asset("guest-bench"));
        command
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let server = command.process_group(0).spawn();
        let server = server.map_err(|source| Error::Start {
            program: "guest-bench".to_owned(),
            source,
        })?;
        Ok(Devices {
            disk,
            _dir: dir,
            server,
        })
    }

    /// The arguments that give a guest the disk and the network.
    pub fn give(&self, vmm: &Vmm, command: &mut Command) {
        let disk = self.disk.display();
        match vmm {
            Vmm::Xenner(_) => {
                command.args(["-drive", &format!("file={disk},format=raw,if=xen")]);
                command.args(["-device", "xen-net-device,netdev=n"]);
            }
            Vmm::Qemu(..) => {
                let drive = format!("file={disk},format=raw,if=virtio,aio=io_uring");
                command.args(["-drive", &drive]);
                command.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
            }
        }
        let netdev = format!("tap,id=n,ifname={TAP},script=no,downscript=no");
        command.args(["-netdev", &netdev]);
    }

    /// What the guest runs: the program with `words`, once its devices are there.
    pub fn program(&self, vmm: &Vmm, words: &str) -> String {
        let disk = match vmm {
            Vmm::Xenner(_) => "/dev/xvda",
            Vmm::Qemu(..) => "/dev/vda",
        };
        format!(
            "ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; \
             ping -c 1 -w 20 {HOST} >/dev/null; \
             guest-bench --disk {disk} --peer {HOST} {words}"
        )
    }

    /// Give the host's end its address, as soon as the guest's process has made it.
    pub fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_there() {
            if Instant::now() > deadline {
                return Err(Error::missing(
                    format!("No network device {TAP}"),
                    "see whether /dev/net/tun may be opened",
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        ip(&format!("addr add {HOST}/24 dev {TAP}"))?;
        ip(&format!("link set {TAP} up"))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Has the guest's process made the device? /sys would show another namespace's.
fn is_there() -> bool {
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    devices.lines().any(|line| {
        let name = line.split(':').next();
        name.is_some_and(|name| name.trim() == TAP)
    })
}

fn ip(words: &str) -> Result<()> {
    capture("ip", Command::new("ip").args(words.split(' '))).map(drop)
}
