//! The disk image from outside: its partition table, and the kernel and initrd
//! read from its root file system without mounting it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, GptError, partition_types};

use crate::error::{Error, Result};
use crate::process::capture;

/// Bytes of the whole disk; most of them are a hole.
pub const SIZE: u64 = 3 << 30;
/// Where its only partition, the root file system, begins.
pub const ROOT_OFFSET: u64 = 1 << 20;
/// What the end of the disk is left for: the second partition table.
const TAIL: u64 = 1 << 20;
/// UUID of the root file system, the same in every image.
pub const ROOT_UUID: &str = "6465626e-0000-4000-8000-78656e6e6572";

/// The disk's own GUID, the same in every image.
const DISK_GUID: u128 = 0x6465_626e_0001_4000_8000_7865_6e6e_6572;

/// Size of the root file system as mke2fs takes it.
pub fn root_size_kib() -> String {
    format!("{}k", (SIZE - ROOT_OFFSET - TAIL) >> 10)
}

/// Make `disk` a new disk with a GUID partition table.
pub fn partition(disk: &Path) -> Result<()> {
    let broken = |source: std::io::Error| Error::file("partition", disk)(source);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(disk)
        .map_err(Error::file("make", disk))?;
    file.set_len(SIZE).map_err(Error::file("size", disk))?;
    let sectors = u32::try_from(SIZE / 512 - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors)
        .overwrite_lba0(&mut file)
        .map_err(|error| broken(std::io::Error::other(error)))?;
    write_table(file).map_err(|error| broken(std::io::Error::other(error)))
}

fn write_table(file: File) -> std::result::Result<(), GptError> {
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(uuid::Uuid::from_u128(DISK_GUID)))?;
    let alignment = ROOT_OFFSET / 512;
    let size = SIZE - ROOT_OFFSET - TAIL;
    table.add_partition("root", size, partition_types::LINUX_FS, 0, Some(alignment))?;
    table.write()?;
    Ok(())
}

/// Kernel and initrd of an image as files of this machine.
#[derive(Debug)]
pub struct BootFiles {
    /// `vmlinuz`
    pub kernel: PathBuf,
    /// `initrd.img`
    pub initrd: PathBuf,
}

impl BootFiles {
    /// Those that [`BootFiles::read`] put into `dir`.
    pub fn inside(dir: &Path) -> BootFiles {
        BootFiles {
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd.img"),
        }
    }

    /// Read what the links `/vmlinuz` and `/initrd.img` on `disk` name into `dir`.
    pub fn read(disk: &Path, dir: &Path) -> Result<BootFiles> {
        let files = BootFiles::inside(dir);
        for (link, file) in [("/vmlinuz", &files.kernel), ("/initrd.img", &files.initrd)] {
            let target = link_target(disk, link)?;
            debugfs(disk, &format!("dump \"/{target}\" \"{}\"", file.display()))?;
            if !file.metadata().is_ok_and(|meta| meta.len() > 0) {
                return Err(Error::Answer {
                    program: "debugfs",
                    what: format!("no {target} in {}", disk.display()),
                });
            }
        }
        Ok(files)
    }
}

/// Where a symbolic link of the root file system leads.
fn link_target(disk: &Path, link: &str) -> Result<String> {
    let text = debugfs(disk, &format!("stat {link}"))?;
    fast_link(&text).ok_or_else(|| Error::Answer {
        program: "debugfs",
        what: format!("no link {link} in {}: {text}", disk.display()),
    })
}

/// The target in debugfs's `Fast link dest: "boot/vmlinuz-..."`.
fn fast_link(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Fast link dest: \"")?;
    rest.split_once('"').map(|(target, _)| target.to_owned())
}

/// Run one request of debugfs on the root file system of `disk`, read-only.
fn debugfs(disk: &Path, request: &str) -> Result<String> {
    let file_system = format!("{}?offset={ROOT_OFFSET}", disk.display());
    let mut debugfs = Command::new("debugfs");
    let path = std::env::var("PATH").unwrap_or_default();
    debugfs
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .args(["-R", request, &file_system]);
    capture("debugfs", &mut debugfs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_of_links_are_read() {
        let text = "Inode: 15189   Type: symlink\nFast link dest: \"boot/vmlinuz-6.1.0\"\n";
        assert_eq!(fast_link(text).as_deref(), Some("boot/vmlinuz-6.1.0"));
        assert_eq!(fast_link("/vmlinuz: File not found"), None);
    }

    #[test]
    fn a_new_disk_has_one_partition_where_the_file_system_goes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        partition(&disk).unwrap();
        let table = GptConfig::new().open(&disk).unwrap();
        let partitions: Vec<_> = table.partitions().values().collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!(partitions[0].first_lba * 512, ROOT_OFFSET);
        assert_eq!(partitions[0].last_lba * 512 + 512, SIZE - TAIL);
        assert_eq!(disk.metadata().unwrap().len(), SIZE);
    }
}
