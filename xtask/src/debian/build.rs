//! Making the disk image: mmdebstrap makes the tree from the archive (as root,
//! or in a user namespace, or under fakechroot), mke2fs the file system. No
//! loop device and no mount of it is needed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::{self, BootFiles};
use crate::apt::Apt;
use crate::error::{Error, Result};
use crate::packages::{self, LEFT_OUT, files_below};
use crate::process::{capture, in_path};
use crate::ui;
use crate::workspace::{Workspace, make_dir};

/// The release of the image.
const SUITE: &str = "bookworm";
/// A small package that is put on the image as a file, to be installed from there.
const LOCAL_PACKAGE: &str = "hello";
/// Every date in the image, as far as the tools let it be set.
const DATE: &str = "1735689600";
/// Settings that need a shell in the new tree.
const SETTLE: &str = include_str!("../../debian/settle");
/// From the tree's archive to the file system.
const FILESYSTEM: &str = include_str!("../../debian/filesystem");

/// What is installed beyond the essential packages.
const PACKAGES: [&str; 28] = [
    "systemd-sysv",
    "systemd-resolved",
    "udev",
    "dbus",
    "kmod",
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "e2fsprogs",
    "login",
    "passwd",
    "procps",
    "iproute2",
    "iputils-ping",
    "ethtool",
    "openssh-server",
    "xenstore-utils",
    "fio",
    "iperf3",
    "sqlite3",
    "curl",
    "ca-certificates",
    "debian-archive-keyring",
    "busybox",
    "less",
    "nano",
    "fdisk",
    "file",
];

/// Which image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Debian with the programs that tests use.
    Plain,
    /// The same and cloud-init.
    Cloud,
}

impl Variant {
    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Plain => "debian",
            Variant::Cloud => "debian-cloud",
        }
    }

    fn packages(self) -> String {
        let mut all = PACKAGES.join(",");
        if self == Variant::Cloud {
            all.push_str(",cloud-init,cloud-guest-utils,netplan.io");
        }
        all
    }
}

/// An image in the cache.
#[derive(Debug)]
pub struct Kept {
    /// The whole disk, raw.
    pub disk: PathBuf,
    /// Its kernel and initrd, as files.
    pub boot: BootFiles,
}

/// The image, made if the cache has none of these contents.
pub fn ensure(ws: &Workspace, variant: Variant) -> Result<Kept> {
    let dir = ws
        .cache
        .join(format!("{}-{}", variant.name(), key(ws, variant)?));
    if !dir.exists() {
        make(ws, variant, &dir)?;
    }
    Ok(Kept {
        disk: dir.join("disk.img"),
        boot: BootFiles::inside(&dir),
    })
}

/// A short name for all that the image is made of, but for the versions of the
/// archive's packages.
fn key(ws: &Workspace, variant: Variant) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    (variant.packages(), SUITE, LOCAL_PACKAGE, DATE, LEFT_OUT).hash(&mut hasher);
    (SETTLE, FILESYSTEM, disk::SIZE).hash(&mut hasher);
    let mut files = files_below(&overlay(ws))?;
    files.sort();
    for file in files {
        let bytes = std::fs::read(&file).map_err(Error::file("read", &file))?;
        (file.strip_prefix(&ws.root).ok(), bytes).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn overlay(ws: &Workspace) -> PathBuf {
    ws.root.join("xtask/debian/overlay")
}

/// Make it in a scratch directory of the cache, which becomes `dir` at the end.
fn make(ws: &Workspace, variant: Variant, dir: &Path) -> Result<()> {
    ui::step(&format!(
        "Making the image {} (2-4 minutes)",
        variant.name()
    ));
    let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
    let tree = tree_archive(ws, variant, scratch.path())?;
    ui::step("Making its file system");
    let kept = scratch.path().join("image");
    make_dir(&kept)?;
    let disk = kept.join("disk.img");
    disk::partition(&disk)?;
    file_system(&tree, scratch.path(), &disk)?;
    BootFiles::read(&disk, &kept)?;
    match std::fs::rename(&kept, dir) {
        // Another command may have made it meanwhile.
        Err(_) if dir.exists() => Ok(()),
        result => result.map_err(Error::file("move to", dir)),
    }
}

/// The archive (tar) of the whole tree.
fn tree_archive(ws: &Workspace, variant: Variant, scratch: &Path) -> Result<PathBuf> {
    let apt = Apt::for_suite(ws, SUITE, true)?;
    apt.update()?;
    let additions = additions(ws, &apt, scratch)?;
    let tree = scratch.join("tree.tar");
    let mut command = packages::bootstrap(ws, &variant.packages())?;
    // Early, because the initrd is made by one of the settings.
    command.arg(format!("--essential-hook=tar-in {} /", additions.display()));
    command.arg(format!("--customize-hook={SETTLE}"));
    command.arg(SUITE).arg(&tree).arg(apt.sources_file());
    command.env("SOURCE_DATE_EPOCH", DATE);
    capture("mmdebstrap", &mut command)?;
    Ok(tree)
}

/// An archive of the files that are the project's own, and the local package.
fn additions(ws: &Workspace, apt: &Apt, scratch: &Path) -> Result<PathBuf> {
    let opt = scratch.join("opt");
    make_dir(&opt)?;
    let deb = apt.download(LOCAL_PACKAGE)?;
    let to = opt.join(format!("{LOCAL_PACKAGE}.deb"));
    std::fs::rename(&deb, &to).map_err(Error::file("move to", &to))?;
    let archive = scratch.join("additions.tar");
    let mut tar = Command::new("tar");
    tar.args([
        "--owner=0",
        "--group=0",
        "--mode=u=rwX,go=rX",
        "--sort=name",
    ]);
    tar.arg(format!("--mtime=@{DATE}")).arg("-cf").arg(&archive);
    tar.arg("-C").arg(overlay(ws)).arg(".");
    tar.arg("-C").arg(scratch).arg("opt");
    capture("tar", &mut tar)?;
    Ok(archive)
}

fn file_system(tree: &Path, scratch: &Path, disk: &Path) -> Result<()> {
    let unpacked = scratch.join("tree");
    make_dir(&unpacked)?;
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else if in_path("fakeroot").is_some() {
        let mut fakeroot = Command::new("fakeroot");
        fakeroot.arg("sh");
        fakeroot
    } else {
        return Err(Error::missing(
            "Only root or fakeroot can keep the owners of the image's files",
            "install it: apt install fakeroot uidmap",
        ));
    };
    command.args(["-c", FILESYSTEM, "filesystem"]);
    command.arg(tree).arg(&unpacked).arg(disk);
    command.args([disk::ROOT_OFFSET.to_string(), disk::root_size_kib()]);
    command.arg(disk::ROOT_UUID).env("SOURCE_DATE_EPOCH", DATE);
    capture("mke2fs", &mut command).map(drop)
}
