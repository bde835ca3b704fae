//! Opens the images of a domain's disks, all of them before the guest sees anything.

use std::io;
use std::sync::Arc;

use thiserror::Error;
use xenner_console::{FdSets, FdSource, InheritedFds};
use xenner_pvdevices::image::{Attachment, BlockNodes, Image, NodeError};

use crate::config::{DiskConfig, PassedFd, VmConfig};

/// A disk and its open image.
#[derive(Debug)]
pub struct OpenDisk {
    /// What it is for the guest.
    pub config: DiskConfig,
    /// Its image, open and locked; `None` for an empty CD-ROM drive.
    pub image: Option<Arc<dyn Image>>,
}

/// Why the disks cannot be opened; the message begins with the option.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A node cannot be opened.
    #[error("{origin}")]
    Node {
        /// The option that asks for it: `-drive file=debian.img`.
        origin: String,
        /// What is wrong.
        source: NodeError,
    },
    /// A device cannot have its image.
    #[error("-device {device}")]
    Device {
        /// The device.
        device: String,
        /// What is wrong.
        source: NodeError,
    },
    /// `-add-fd` names a descriptor that is not open.
    #[error("-add-fd: Descriptor {fd} was not open when xenner started; leave it open for it")]
    NoFd {
        /// Its number.
        fd: i32,
        /// What the host answered.
        source: io::Error,
    },
}

/// The sets of `-add-fd`.
///
/// # Errors
/// [`DiskError::NoFd`].
pub fn fd_sets(passed: &[PassedFd], inherited: InheritedFds) -> Result<FdSets, DiskError> {
    let mut sets = FdSets::new(inherited);
    for PassedFd { fd, set, opaque } in passed {
        sets.add_inherited(*fd, *set, opaque.clone())
            .map_err(|source| DiskError::NoFd { fd: *fd, source })?;
    }
    Ok(sets)
}

/// Opens all block nodes and gives the disks their images, in the order of the configuration.
///
/// # Errors
/// [`DiskError`]; everything is closed and unlocked again then.
pub fn open(
    config: &VmConfig,
    fds: &mut dyn FdSource,
) -> Result<(BlockNodes, Vec<OpenDisk>), DiskError> {
    let mut nodes = BlockNodes::new();
    for block_node in &config.block_nodes {
        nodes
            .add(&block_node.node, fds)
            .map_err(|source| DiskError::Node {
                origin: block_node.origin.clone(),
                source,
            })?;
    }
    let mut disks = Vec::with_capacity(config.disks.len());
    for disk in &config.disks {
        let image = attach(config, disk, &mut nodes, fds)?;
        disks.push(OpenDisk {
            config: disk.clone(),
            image,
        });
    }
    Ok((nodes, disks))
}

/// The name by which [`BlockNodes`] knows a disk: its id, else its place.
pub fn user_name(disk: &DiskConfig) -> String {
    disk.id.clone().unwrap_or_else(|| disk.vdev.to_string())
}

/// What a disk wants of its image.
pub fn attachment(disk: &DiskConfig) -> Attachment {
    Attachment {
        user: user_name(disk),
        read_only: disk.read_only,
        share_rw: disk.share_rw,
        logical_block: disk.logical_block,
        physical_block: disk.physical_block,
        discard_granularity: disk.discard_granularity,
    }
}

fn attach(
    config: &VmConfig,
    disk: &DiskConfig,
    nodes: &mut BlockNodes,
    fds: &mut dyn FdSource,
) -> Result<Option<Arc<dyn Image>>, DiskError> {
    let Some(node) = &disk.node else {
        return Ok(None);
    };
    let image = nodes.attach(node, &attachment(disk), fds);
    // A drive is its device's option as well; a device names itself.
    let option = config
        .block_nodes
        .iter()
        .find(|known| known.node.name.as_ref() == Some(node) && disk.backend.is_some());
    image.map(Some).map_err(|source| match option {
        Some(known) => DiskError::Node {
            origin: known.origin.clone(),
            source,
        },
        None => DiskError::Device {
            device: format!("{},drive={node}", disk.driver),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{self, Action};

    fn config(args: &[&str]) -> VmConfig {
        let words = ["-kernel", "k"].iter().chain(args).map(OsString::from);
        match cli::parse(words).unwrap() {
            Action::Run(config) => *config,
            Action::Print(text) => panic!("{text}"),
        }
    }

    fn line(error: &dyn Error) -> String {
        match error.source() {
            Some(source) => format!("{error}: {}", line(source)),
            None => error.to_string(),
        }
    }

    #[test]
    fn the_disks_of_a_command_line_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 8192]).unwrap();
        let drive = format!("file={},format=raw", path.display());
        let config = config(&["-drive", &drive, "-device", "ide-cd,id=cd"]);
        let (nodes, disks) = open(&config, &mut FdSets::default()).unwrap();
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[0].image.as_ref().unwrap().geometry().size, 8192);
        assert!(disks[1].image.is_none());
        let info = nodes
            .info(config.disks[0].node.as_deref().unwrap())
            .unwrap();
        assert_eq!(info.users, ["xvda"]);
        let again = open(&config, &mut FdSets::default()).unwrap_err();
        let text = line(&again);
        let file = path.display();
        assert_eq!(
            text,
            format!(
                "-drive file={file}: Failed to get \"write\" lock; \
                 is another process using the image [{file}]?"
            )
        );
        drop((nodes, disks));
        open(&config, &mut FdSets::default()).unwrap();
    }

    #[test]
    fn what_is_missing_is_told_with_its_option() {
        let config = config(&["-drive", "file=/nowhere/disk,format=raw"]);
        let error = open(&config, &mut FdSets::default()).unwrap_err();
        assert_eq!(
            line(&error),
            "-drive file=/nowhere/disk: Could not open '/nowhere/disk': \
             No such file or directory (os error 2)"
        );
        let passed = [PassedFd {
            fd: 999,
            set: 0,
            opaque: None,
        }];
        assert!(matches!(
            fd_sets(&passed, InheritedFds::default()),
            Err(DiskError::NoFd { fd: 999, .. })
        ));
    }
}
