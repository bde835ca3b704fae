//! Disks and images.

use serde_json::Value;

use super::Context;
use super::lifecycle::done;
use crate::qmp::control::{Answer, BlockInfo, BlockNode, BlockStats, BlockTarget, Properties};
use crate::qmp::error::QmpError;
use crate::qmp::shape::{Arguments, Case, Empty, qmp_enum, qmp_open_struct, qmp_struct};
use crate::qmp::table::Table;

pub(super) fn register(table: &mut Table) {
    table.add("query-block", |c, Empty {}| -> Answer<Vec<BlockInfo>> {
        Ok(c.control.blocks())
    });
    table.add("query-blockstats", query_blockstats);
    table.add("query-named-block-nodes", query_nodes);
    table.add("query-block-jobs", |_, Empty {}| Ok(Vec::<Value>::new()));
    table.add("blockdev-add", blockdev_add);
    table.add("blockdev-del", |c, node: NodeName| {
        c.control.blockdev_del(&node.node).map(done)
    });
    table.add("block_resize", block_resize);
    table.add("blockdev-open-tray", open_tray);
    table.add("blockdev-close-tray", |c, drive: Drive| {
        c.control.close_tray(&drive.name()?).map(done)
    });
    table.add("blockdev-remove-medium", |c, drive: DriveId| {
        c.control.remove_medium(&drive.id).map(done)
    });
    table.add("blockdev-insert-medium", |c, medium: Medium| {
        let control = &mut c.control;
        control
            .insert_medium(&medium.id, &medium.node, c.fds)
            .map(done)
    });
    table.add("eject", eject);
}

qmp_struct! {
    /// `query-blockstats`.
    Stats {
        /// Of all nodes rather than of the disks.
        nodes as "query-nodes": Option<bool>,
    }
}

fn query_blockstats(context: &mut Context<'_>, stats: Stats) -> Answer<Vec<BlockStats>> {
    Ok(context.control.block_stats(stats.nodes.unwrap_or(false)))
}

qmp_struct! {
    /// `query-named-block-nodes`.
    Nodes {
        /// Without what an image stands on.
        flat: Option<bool>,
    }
}

fn query_nodes(context: &mut Context<'_>, _: Nodes) -> Answer<Vec<BlockNode>> {
    // backing images are nodes with names of their own, so both forms say the same
    Ok(context.control.block_nodes())
}

qmp_enum! {
    /// Drivers of a block node.
    BlockDriver {
        /// A file.
        File as "file",
        /// A block device.
        HostDevice as "host_device",
        /// An image without a format.
        Raw as "raw",
        /// QEMU's format.
        Qcow2 as "qcow2",
    }
}

qmp_enum! {
    /// Ways to do a file's I/O.
    BlockAio {
        /// By threads.
        Threads as "threads",
        /// By the kernel's own asynchronous calls.
        Native as "native",
        /// By io_uring.
        IoUring as "io_uring",
    }
}

qmp_struct! {
    /// What clients ask about of files: libvirt takes no `io='io_uring'` where it is not told.
    FileNode {
        /// How its I/O is done.
        aio: Option<BlockAio>,
    }
}

/// The drivers whose members are told.
const CASES: &[Case] = &[
    Case {
        word: "file",
        members: <FileNode as Arguments>::OBJECT,
    },
    Case {
        word: "host_device",
        members: <FileNode as Arguments>::OBJECT,
    },
];

qmp_open_struct! {
    /// `blockdev-add`.
    BlockdevAdd (Some(CASES)) {
        /// Its kind.
        driver: BlockDriver,
        /// Its name.
        node as "node-name": Option<String>,
    }
}

fn blockdev_add(context: &mut Context<'_>, node: BlockdevAdd) -> Answer<Empty> {
    let name = node
        .node
        .ok_or_else(|| QmpError::generic("'node-name' must be specified for the root node"))?;
    let mut properties: Properties = node.rest;
    properties.insert("driver".into(), node.driver.word().into());
    properties.insert("node-name".into(), name.into());
    context
        .control
        .blockdev_add(properties, context.fds)
        .map(done)
}

qmp_struct! {
    /// `blockdev-del`.
    NodeName {
        /// The node.
        node as "node-name": String,
    }
}

qmp_struct! {
    /// `block_resize`.
    Resize {
        /// A drive's name.
        device: Option<String>,
        /// A node.
        node as "node-name": Option<String>,
        /// The new size, in bytes.
        size: i64,
    }
}

fn block_resize(context: &mut Context<'_>, resize: Resize) -> Answer<Empty> {
    let target = BlockTarget {
        device: resize.device,
        node: resize.node,
    };
    let size = u64::try_from(resize.size)
        .map_err(|_| QmpError::generic("Parameter 'size' expects a >0 size"))?;
    context.control.block_resize(&target, size).map(done)
}

qmp_struct! {
    /// `blockdev-open-tray`, `eject`.
    ForcedDrive {
        /// A drive's name.
        device: Option<String>,
        /// A device's id.
        id: Option<String>,
        /// Even if the guest has locked it.
        force: Option<bool>,
    }
}

qmp_struct! {
    /// `blockdev-close-tray`.
    Drive {
        /// A drive's name.
        device: Option<String>,
        /// A device's id.
        id: Option<String>,
    }
}

qmp_struct! {
    /// `blockdev-remove-medium`.
    DriveId {
        /// The device's id.
        id: String,
    }
}

qmp_struct! {
    /// `blockdev-insert-medium`.
    Medium {
        /// The device's id.
        id: String,
        /// The image.
        node as "node-name": String,
    }
}

impl Drive {
    /// The one name that was given.
    fn name(&self) -> Answer<String> {
        match (&self.device, &self.id) {
            (Some(name), None) | (None, Some(name)) => Ok(name.clone()),
            _ => Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        }
    }
}

fn forced(drive: ForcedDrive) -> Answer<(String, bool)> {
    let force = drive.force.unwrap_or(false);
    let ForcedDrive { device, id, .. } = drive;
    Ok((Drive { device, id }.name()?, force))
}

fn open_tray(context: &mut Context<'_>, drive: ForcedDrive) -> Answer<Empty> {
    let (id, force) = forced(drive)?;
    context.control.open_tray(&id, force).map(done)
}

fn eject(context: &mut Context<'_>, drive: ForcedDrive) -> Answer<Empty> {
    let (id, force) = forced(drive)?;
    context.control.open_tray(&id, force)?;
    context.control.remove_medium(&id).map(done)
}
