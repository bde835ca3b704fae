//! What the project fetches from Debian: guest kernels, a static busybox, the
//! xenstore tools, and QEMU. Each `ensure`-like function is instant when the
//! cache has it already. libvirt alone is installed.

mod bootstrap;
mod libvirt;
mod qemu;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{self, Apt};
use crate::error::{Error, Result};
use crate::ui;
use crate::workspace::{Workspace, make_dir, write_whole};

pub use bootstrap::{LEFT_OUT, bootstrap};
pub use libvirt::install as install_libvirt;
pub use qemu::Qemu;
pub use tools::{Tool, ethtool, iperf3, qemu_img, qemu_io, xenstore_program};

/// The suite that programs for the guest come from.
const TOOLS_SUITE: &str = "bookworm";

/// The modules that give the rig's machine its `/dev/kvm`, disks that this
/// machine lends it, and bridges, in order of insertion.
pub const RIG_MODULES: [&str; 15] = [
    "irqbypass",
    "ccp",
    "kvm",
    "kvm-amd",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "tun",
    "llc",
    "stp",
    "bridge",
    "veth",
];
/// The modules with which a guest without a root file system uses disks and
/// networks, of Xen's kind and (for comparisons) of QEMU's, in order of insertion.
pub const DEVICE_MODULES: [&str; 16] = [
    "xen-blkfront",
    "xen-netfront",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
];

/// One of the stock kernels that the project boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its version series, the name by which commands know it.
    pub name: &'static str,
    suite: &'static str,
    security: bool,
}

/// The kernels, oldest first. The 5.10 one has a hypercall page; its security
/// updates may lack it, so it comes from the plain suite.
pub const KERNELS: [Kernel; 3] = [
    Kernel {
        name: "5.10",
        suite: "bullseye",
        security: false,
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        security: true,
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        security: false,
    },
];

/// The kernel that is booted unless another is asked for, and the rig's own.
pub const DEFAULT_KERNEL: &str = "6.1";

impl Kernel {
    /// The kernel of that name.
    pub fn named(name: &str) -> Option<Kernel> {
        KERNELS.into_iter().find(|kernel| kernel.name == name)
    }

    fn dir(&self, ws: &Workspace) -> PathBuf {
        ws.cache.join(format!("kernel-{}", self.name))
    }

    /// Its `vmlinuz`, fetched if need be.
    pub fn image(&self, ws: &Workspace) -> Result<PathBuf> {
        let image = self.dir(ws).join("vmlinuz");
        if !image.exists() {
            self.fetch(ws)?;
        }
        Ok(image)
    }

    /// The directory with the modules of [`RIG_MODULES`] and [`DEVICE_MODULES`]
    /// as `NAME.ko`.
    pub fn modules(&self, ws: &Workspace) -> Result<PathBuf> {
        self.image(ws)?;
        let dir = self.dir(ws).join("modules");
        // The list may have grown since they were fetched.
        if module_names().any(|name| !dir.join(format!("{name}.ko")).exists()) {
            self.fetch(ws)?;
        }
        Ok(dir)
    }

    fn fetch(&self, ws: &Workspace) -> Result<()> {
        ui::step(&format!(
            "Fetching Debian's kernel {} ({})",
            self.name, self.suite
        ));
        let apt = Apt::for_suite(ws, self.suite, self.security)?;
        apt.update()?;
        let package = apt.kernel_behind("linux-image-amd64")?;
        let deb = apt.download(&package)?;
        let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
        let names: Vec<String> = module_names().map(|name| format!("*/{name}.ko")).collect();
        let mut patterns = vec!["./boot/vmlinuz-*"];
        // Only the default kernel's modules are used; newer suites compress theirs.
        if self.name == DEFAULT_KERNEL {
            patterns.extend(names.iter().map(String::as_str));
        }
        apt::unpack_members(&deb, scratch.path(), &patterns)?;
        self.keep(ws, scratch.path())?;
        write_whole(&self.dir(ws).join("package"), package.as_bytes())?;
        apt.clean()
    }

    /// Move what was unpacked under `from` to its place; the image comes last,
    /// because its presence says that all is there.
    fn keep(&self, ws: &Workspace, from: &Path) -> Result<()> {
        let dir = self.dir(ws);
        make_dir(&dir.join("modules"))?;
        for file in files_below(from)? {
            if file.extension().is_some_and(|ext| ext == "ko") {
                move_to(
                    &file,
                    &dir.join("modules")
                        .join(file.file_name().unwrap_or_default()),
                )?;
            }
        }
        let image = files_below(&from.join("boot"))?
            .into_iter()
            .next()
            .ok_or_else(|| Error::Answer {
                program: "dpkg-deb",
                what: format!("no vmlinuz in {}", self.name),
            })?;
        move_to(&image, &dir.join("vmlinuz"))
    }
}

/// All modules that are used outside of disk images, each once.
fn module_names() -> impl Iterator<Item = &'static str> {
    let others = DEVICE_MODULES.into_iter();
    RIG_MODULES
        .into_iter()
        .chain(others.filter(|name| !RIG_MODULES.contains(name)))
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::file("move to", to))
}

/// All regular files below `dir`, in no order.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::file("list", &dir))? {
            let entry = entry.map_err(Error::file("list", &dir))?;
            let kind = entry
                .file_type()
                .map_err(Error::file("look at", entry.path()))?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

/// A statically linked busybox.
pub fn busybox(ws: &Workspace) -> Result<PathBuf> {
    let kept = ws.cache.join("busybox");
    if !kept.exists() {
        ui::step("Fetching busybox-static");
        let apt = Apt::for_suite(ws, TOOLS_SUITE, true)?;
        apt.update()?;
        let deb = apt.download("busybox-static")?;
        let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
        apt::unpack(&deb, scratch.path())?;
        let found = ["bin/busybox", "usr/bin/busybox"].map(|name| scratch.path().join(name));
        let busybox = found
            .iter()
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Answer {
                program: "dpkg-deb",
                what: "no busybox in busybox-static".to_owned(),
            })?;
        move_to(busybox, &kept)?;
        apt.clean()?;
    }
    Ok(kept)
}

/// The directory tree with Debian's xenstore tools (`usr/bin/xenstore-ls`) and
/// their libraries.
pub fn xenstore_tools(ws: &Workspace) -> Result<PathBuf> {
    let packages = ["xenstore-utils", "libxenstore4", "libxentoolcore1"];
    tree(ws, "xenstore-tools", &packages)
}

/// GRUB as a PV kernel, which reads the menu from a disk of its domain.
pub fn grub_xen(ws: &Workspace) -> Result<PathBuf> {
    Ok(tree(ws, "grub-xen", &["grub-xen-host"])?.join("usr/lib/grub-xen/grub-x86_64-xen.bin"))
}

/// The directory `name` of the cache with these packages unpacked.
fn tree(ws: &Workspace, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let tree = ws.cache.join(name);
    if !tree.exists() {
        ui::step(&format!("Fetching {}", packages[0]));
        let apt = Apt::for_suite(ws, TOOLS_SUITE, true)?;
        apt.update()?;
        let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
        for package in packages {
            apt::unpack(&apt.download(package)?, scratch.path())?;
        }
        let new = scratch.keep();
        move_to(&new, &tree)?;
        apt.clean()?;
    }
    Ok(tree)
}

/// `cargo xtask fetch`: everything, so that later commands need no network.
pub fn fetch_all(ws: &Workspace) -> Result<std::process::ExitCode> {
    for kernel in KERNELS {
        let image = kernel.image(ws)?;
        ui::step(&format!("Kernel {}: {}", kernel.name, image.display()));
    }
    ui::step(&format!("busybox: {}", busybox(ws)?.display()));
    ui::step(&format!(
        "xenstore tools: {}",
        xenstore_tools(ws)?.display()
    ));
    ui::step(&format!("GRUB: {}", grub_xen(ws)?.display()));
    let images = crate::debian::stage(ws)?;
    ui::step(&format!("Debian image: {}", images.display()));
    let qemu = Qemu::ensure(ws)?;
    let (major, minor) = qemu.version;
    ui::step(&format!(
        "QEMU {major}.{minor}: {}",
        qemu.program().display()
    ));
    Ok(std::process::ExitCode::SUCCESS)
}
