//! The initramfs of the guests (and, with modules added, of the rig's
//! machine): a static busybox, an init, and the benchmark program. What to run
//! comes from the kernel's command line or from an archive appended to it.

use crate::builds;
use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::packages;
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

/// Write the guests' initramfs to the assets; give back its file.
pub fn stage(ws: &Workspace) -> Result<std::path::PathBuf> {
    let path = ws.assets().join("initramfs");
    make_dir(&ws.assets())?;
    let bytes = base(ws)?;
    // An unchanged file keeps its date, and what depends on it stays as it is.
    if std::fs::read(&path).ok().as_deref() != Some(&bytes) {
        write_whole(&path, &bytes)?;
    }
    Ok(path)
}

/// A kernel by the name of its series, or a file of the user's.
pub fn kernel(ws: &Workspace, name: &str) -> Result<std::path::PathBuf> {
    if let Some(kernel) = packages::Kernel::named(name) {
        return kernel.image(ws);
    }
    let path = std::path::PathBuf::from(name);
    if path.is_file() {
        return Ok(path);
    }
    let known: Vec<&str> = packages::KERNELS.iter().map(|kernel| kernel.name).collect();
    Err(Error::missing(
        format!("No kernel {name}"),
        format!("name a file or one of {}", known.join(", ")),
    ))
}
