//! cloud-init's seed disk of the kind NoCloud: a FAT file system labelled
//! CIDATA with `user-data` and `meta-data`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};

use crate::error::{Error, Result};

/// The label that cloud-init looks for, padded as FAT has it.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Bytes of the disk.
const SIZE: u64 = 4 << 20;
/// A host name and a mark that shows that cloud-init has run.
const USER_DATA: &str = "#cloud-config\n\
    hostname: seeded\n\
    ssh_pwauth: true\n\
    write_files:\n\
    - path: /etc/seeded\n\
    \x20 content: by cloud-init\n\
    runcmd:\n\
    - [sh, -c, 'echo cloud-init has run >/dev/console']\n";
const META_DATA: &str = "instance-id: xenner-1\nlocal-hostname: seeded\n";

/// Write a seed disk with the user data from a file, or with the sample.
pub fn write(disk: &Path, user_data: Option<&Path>) -> Result<()> {
    let user_data = match user_data {
        Some(file) => std::fs::read(file).map_err(Error::file("read", file))?,
        None => USER_DATA.as_bytes().to_vec(),
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(disk)
        .map_err(Error::file("make", disk))?;
    file.set_len(SIZE).map_err(Error::file("size", disk))?;
    fill(file, &user_data).map_err(Error::file("write", disk))
}

fn fill(mut file: File, user_data: &[u8]) -> std::io::Result<()> {
    let options = FormatVolumeOptions::new().volume_label(LABEL);
    format_volume(&mut file, options)?;
    let volume = FileSystem::new(file, FsOptions::new())?;
    let root = volume.root_dir();
    root.create_file("user-data")?.write_all(user_data)?;
    root.create_file("meta-data")?
        .write_all(META_DATA.as_bytes())?;
    drop(root);
    volume.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_seed_disk_is_labelled_and_holds_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("seed.img");
        write(&disk, None).unwrap();
        let volume = FileSystem::new(File::open(&disk).unwrap(), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "CIDATA");
        for (name, wanted) in [("user-data", USER_DATA), ("meta-data", META_DATA)] {
            let mut text = String::new();
            let mut file = volume.root_dir().open_file(name).unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, wanted);
        }
    }
}
