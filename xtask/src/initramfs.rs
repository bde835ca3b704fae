//! The initramfs of the guests (and, with modules added, of the rig's
//! machine): a static busybox, an init, and the benchmark program. What to run
//! comes from the kernel's command line or from an archive appended to it.

use std::path::{Path, PathBuf};

use crate::builds;
use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::packages::{self, DEFAULT_KERNEL, DEVICE_MODULES, Kernel};
use crate::programs::Programs;
use crate::workspace::{Workspace, make_dir, write_whole};

const INIT: &str = include_str!("../initramfs/init");
const PROFILE: &str = "export PS1='xenner:\\w# ' PATH=/bin HOME=/root\ncd\n";
const MOTD: &str = "\nThis shell runs in a Xen paravirtual guest. `poweroff` ends it; \
                    Ctrl-a x ends xenner at once.\n\n";

/// The directories that the kernel and init mount on or write to.
const DIRECTORIES: [&str; 8] = [
    "proc",
    "sys",
    "dev",
    "tmp",
    "run",
    "root",
    "etc",
    "lib/modules",
];

/// The part that all machines share: busybox, init, the benchmark.
pub fn base(ws: &Workspace) -> Result<Vec<u8>> {
    let busybox = packages::busybox(ws)?;
    let bench = builds::guest_bench(ws)?;
    let mut archive = Archive::new();
    for dir in DIRECTORIES {
        archive.dir(dir);
    }
    archive
        // The kernel itself runs /sbin/poweroff when xenstore asks for it.
        .symlink("sbin", "bin")
        .char_device("dev/console", (5, 1))
        .char_device("dev/null", (1, 3))
        .file("init", 0o755, INIT.as_bytes())
        .file("etc/profile", 0o644, PROFILE.as_bytes())
        .file("etc/motd", 0o644, MOTD.as_bytes())
        .file("etc/hostname", 0o644, b"xenner\n")
        .file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\n")
        .program("bin/busybox", &busybox)?
        .program("bin/guest-bench", &bench)?;
    Ok(archive.finish())
}

/// An archive to append to [`base`]: run `command` (a shell text) and power off.
pub fn command(command: &str) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("etc/run", 0o644, format!("{command}\n").as_bytes());
    archive.finish()
}

/// Add modules from the directory `from`, to be inserted in this order.
pub fn add_modules(archive: &mut Archive, from: &Path, names: &[&str]) -> Result<()> {
    let mut order = String::new();
    for name in names {
        let file = format!("{name}.ko");
        archive.program(&format!("lib/modules/{file}"), &from.join(&file))?;
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("etc/modules", 0o644, order.as_bytes());
    Ok(())
}

/// Write the guests' initramfs to the assets; give back its file.
pub fn stage(ws: &Workspace) -> Result<PathBuf> {
    keep(ws, "initramfs", &base(ws)?)
}

/// The same with modules for disks and networks, for the default kernel alone,
/// and with iperf3 and ethtool.
pub fn stage_with_devices(ws: &Workspace) -> Result<PathBuf> {
    let kernel = Kernel::named(DEFAULT_KERNEL).expect("the default kernel is in the list");
    let mut programs = Programs::new();
    add_modules(&mut programs.archive, &kernel.modules(ws)?, &DEVICE_MODULES)?;
    for tool in [packages::iperf3(ws)?, packages::ethtool(ws)?] {
        programs.tool(&tool)?;
    }
    let bytes = [base(ws)?, programs.archive.finish()].concat();
    keep(ws, "initramfs-devices", &bytes)
}

fn keep(ws: &Workspace, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = ws.assets().join(name);
    make_dir(&ws.assets())?;
    // An unchanged file keeps its date, and what depends on it stays as it is.
    if std::fs::read(&path).ok().as_deref() != Some(bytes) {
        write_whole(&path, bytes)?;
    }
    Ok(path)
}

/// A kernel by the name of its series, or a file of the user's.
pub fn kernel(ws: &Workspace, name: &str) -> Result<PathBuf> {
    if let Some(kernel) = packages::Kernel::named(name) {
        return kernel.image(ws);
    }
    let path = PathBuf::from(name);
    if path.is_file() {
        return Ok(path);
    }
    let known: Vec<&str> = packages::KERNELS.iter().map(|kernel| kernel.name).collect();
    Err(Error::missing(
        format!("No kernel {name}"),
        format!("name a file or one of {}", known.join(", ")),
    ))
}
