//! The disks and block nodes as the monitor shows them.

use rustix::io::Errno;
use xenner_pvdevices::blkback::{ErrorAction, IoFault, IoKind, OpStats, Stats};
use xenner_pvdevices::image::NodeInfo;
use xenner_pvdevices::image::config::DetectZeroes;

use super::disks::{Disk, Disks};
use crate::config::DiskKind;
use crate::disks::user_name;
use crate::qmp::control::{
    BlockCache, BlockCounters, BlockInfo, BlockNode, BlockStats, ImageInfo, IoStatus, Properties,
    RingStats,
};
use crate::qmp::events::{BlockIoError, IoErrorOutcome, IoOperation};

impl Disks {
    /// `query-block`.
    pub(super) fn blocks(&self) -> Vec<BlockInfo> {
        self.disks.iter().map(|disk| self.block(disk)).collect()
    }

    fn block(&self, disk: &Disk) -> BlockInfo {
        let config = &disk.config;
        let removable = config.kind == DiskKind::Cdrom;
        let info = config.node.as_ref().and_then(|node| self.nodes.info(node));
        BlockInfo {
            device: config.backend.clone().unwrap_or_default(),
            qdev: Some(qdev(disk)),
            r#type: "unknown".to_owned(),
            removable,
            locked: false,
            inserted: info.map(|info| self.node(&info)),
            tray_open: removable.then_some(disk.tray_open),
            io_status: Some(match disk.control.held() {
                0 => IoStatus::Ok,
                _ => disk.fault.unwrap_or(IoStatus::Failed),
            }),
        }
    }

    /// `query-blockstats`.
    pub(super) fn stats(&self, nodes: bool) -> Vec<BlockStats> {
        let of_node = |info: NodeInfo| {
            let disk = self
                .disks
                .iter()
                .find(|disk| disk.config.node.as_deref() == Some(info.name.as_str()));
            BlockStats {
                device: None,
                qdev: None,
                node_name: Some(info.name),
                stats: disk.map_or_else(BlockCounters::default, counters),
            }
        };
        if nodes {
            return self.nodes.query().into_iter().map(of_node).collect();
        }
        let disks = self.disks.iter();
        disks
            .map(|disk| BlockStats {
                device: Some(disk.config.backend.clone().unwrap_or_default()),
                qdev: Some(qdev(disk)),
                node_name: disk.config.node.clone(),
                stats: counters(disk),
            })
            .collect()
    }

    /// `query-named-block-nodes`.
    pub(super) fn block_nodes(&self) -> Vec<BlockNode> {
        let nodes = self.nodes.query();
        nodes.iter().map(|info| self.node(info)).collect()
    }

    fn node(&self, info: &NodeInfo) -> BlockNode {
        let file = filename(info);
        let backing = info.backing.as_ref().and_then(|node| self.nodes.info(node));
        let mut depth = 0;
        let mut below = backing.clone();
        while let Some(info) = below {
            depth += 1;
            below = info.backing.and_then(|node| self.nodes.info(&node));
        }
        BlockNode {
            file: file.clone(),
            node_name: Some(info.name.clone()),
            ro: info.read_only,
            drv: info.driver.to_owned(),
            backing_file: backing.as_ref().map(filename),
            backing_file_depth: depth,
            encrypted: false,
            detect_zeroes: match info.detect_zeroes {
                DetectZeroes::Off => "off",
                DetectZeroes::On => "on",
                DetectZeroes::Unmap => "unmap",
            }
            .to_owned(),
            bps: 0,
            bps_rd: 0,
            bps_wr: 0,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            image: ImageInfo {
                filename: file,
                format: info.driver.to_owned(),
                virtual_size: info.virtual_size,
                actual_size: info.actual_size,
                cluster_size: None,
                backing_filename: backing.as_ref().map(filename),
                backing_format: backing.map(|info| info.driver.to_owned()),
            },
            cache: BlockCache {
                writeback: true,
                direct: info.cache.direct,
                no_flush: info.cache.no_flush,
            },
            write_threshold: 0,
        }
    }

    /// Remembers a disk's fault, and says what monitors are told of it.
    pub(super) fn note_fault(&mut self, name: &str, fault: &IoFault) -> BlockIoError {
        let nospace = fault.errno == Errno::NOSPC;
        let disks = &mut self.disks;
        let disk = disks
            .iter_mut()
            .find(|disk| user_name(&disk.config) == name);
        let mut event = BlockIoError {
            device: String::new(),
            node_name: None,
            operation: match fault.kind {
                IoKind::Read => IoOperation::Read,
                IoKind::Write | IoKind::Flush | IoKind::Discard => IoOperation::Write,
            },
            action: match fault.action {
                ErrorAction::Report => IoErrorOutcome::Report,
                ErrorAction::Ignore => IoErrorOutcome::Ignore,
                ErrorAction::Stop => IoErrorOutcome::Stop,
            },
            nospace: Some(nospace),
            reason: fault.errno.to_string(),
        };
        if let Some(disk) = disk {
            disk.fault = Some(match nospace {
                true => IoStatus::NoSpace,
                false => IoStatus::Failed,
            });
            event.device = disk.config.backend.clone().unwrap_or_default();
            event.node_name.clone_from(&disk.config.node);
        }
        event
    }

    /// The disks' part of `x-xenner-stats`.
    pub(super) fn rings(&self) -> Vec<RingStats> {
        let disks = self.disks.iter();
        disks
            .map(|disk| RingStats {
                name: format!("vbd {}", user_name(&disk.config)),
                counters: ring_counters(&disk.control.stats()),
            })
            .collect()
    }
}

/// How libvirt knows a disk: virtio disks by their backend, others by their id.
fn qdev(disk: &Disk) -> String {
    let id = user_name(&disk.config);
    match disk.config.driver.starts_with("virtio-blk") {
        true => format!("/machine/peripheral/{id}/virtio-backend"),
        false => id,
    }
}

fn filename(info: &NodeInfo) -> String {
    let path = info.filename.as_ref();
    path.map_or_else(String::new, |path| path.display().to_string())
}

fn counters(disk: &Disk) -> BlockCounters {
    let stats = disk.control.stats();
    let (rd, wr, flush, unmap) = (stats.read, stats.write, stats.flush, stats.discard);
    BlockCounters {
        rd_bytes: rd.bytes,
        wr_bytes: wr.bytes,
        unmap_bytes: unmap.bytes,
        rd_operations: rd.operations,
        wr_operations: wr.operations,
        flush_operations: flush.operations,
        unmap_operations: unmap.operations,
        rd_total_time_ns: rd.total_time_ns,
        wr_total_time_ns: wr.total_time_ns,
        flush_total_time_ns: flush.total_time_ns,
        unmap_total_time_ns: unmap.total_time_ns,
        wr_highest_offset: stats.write_highest_offset,
        failed_rd_operations: rd.failed,
        failed_wr_operations: wr.failed,
        failed_flush_operations: flush.failed,
        failed_unmap_operations: unmap.failed,
        invalid_rd_operations: rd.invalid,
        invalid_wr_operations: wr.invalid,
        invalid_flush_operations: flush.invalid,
        invalid_unmap_operations: unmap.invalid,
        ..BlockCounters::default()
    }
}

fn ring_counters(stats: &Stats) -> Properties {
    let kinds = [
        ("read", stats.read),
        ("write", stats.write),
        ("flush", stats.flush),
        ("discard", stats.discard),
    ];
    let each = |(name, op): (&str, OpStats)| {
        [
            (format!("{name}-operations"), op.operations.into()),
            (format!("{name}-bytes"), op.bytes.into()),
        ]
    };
    let mut all: Properties = kinds.into_iter().flat_map(each).collect();
    all.insert("notifications".into(), stats.notifications.into());
    all.insert("unknown".into(), stats.unknown.into());
    all
}
