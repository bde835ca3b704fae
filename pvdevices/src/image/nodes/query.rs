//! What a monitor asks of block nodes (`query-named-block-nodes`).

use std::path::PathBuf;

use super::super::config::{Aio, CacheConfig, DetectZeroes};
use super::super::file::HostFile;
use super::{BlockNodes, Body, Node};
use crate::image::Image;

/// What is known of a node: what `query-named-block-nodes` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// `node-name`.
    pub name: String,
    /// `drv`: the driver by QEMU's name.
    pub driver: &'static str,
    /// `file`: the host's file at the bottom; `None` where there is none.
    pub filename: Option<PathBuf>,
    /// `virtual-size` in bytes.
    pub virtual_size: u64,
    /// `actual-size`: bytes on the host, if it tells.
    pub actual_size: Option<u64>,
    /// `ro`.
    pub read_only: bool,
    /// `cache`.
    pub cache: CacheConfig,
    /// `aio` of the host's file.
    pub aio: Aio,
    /// `detect_zeroes`.
    pub detect_zeroes: DetectZeroes,
    /// The node that has the bytes of a format.
    pub file: Option<String>,
    /// The node under a copy-on-write image.
    pub backing: Option<String>,
    /// Nodes and devices that use it.
    pub users: Vec<String>,
    /// Nobody gave it a name: it came with another node and goes with it.
    pub implicit: bool,
}

impl BlockNodes {
    /// Everything that is known of a node.
    pub fn info(&self, name: &str) -> Option<NodeInfo> {
        self.find(name).map(|node| self.describe(node))
    }

    /// Everything that is known of all nodes, in the order they were added.
    pub fn query(&self) -> Vec<NodeInfo> {
        self.nodes.iter().map(|node| self.describe(node)).collect()
    }

    fn describe(&self, node: &Node) -> NodeInfo {
        let file = self.bottom(node);
        NodeInfo {
            name: node.name.clone(),
            driver: node.driver,
            filename: file.as_ref().map(|file| file.path.clone()),
            virtual_size: match &node.body {
                Body::Format(image) => image.geometry().size,
                Body::Null(image) => image.geometry().size,
                Body::Raw {
                    image: Some(image), ..
                } => image.geometry().size,
                Body::Raw { offset, size, .. } => {
                    let whole = file.as_ref().map_or(0, |file| file.size);
                    size.unwrap_or(whole.saturating_sub(*offset))
                }
                Body::File { .. } => file.as_ref().map_or(0, |file| file.size),
            },
            actual_size: file.as_ref().and_then(|file| file.allocated),
            read_only: node.read_only,
            cache: node.cache,
            aio: file.as_ref().map_or(Aio::Auto, |file| file.aio),
            detect_zeroes: node.detect_zeroes,
            file: node.children.first().cloned(),
            backing: node.backing.clone(),
            users: node.users.iter().map(|user| user.name.clone()).collect(),
            implicit: node.implicit,
        }
    }

    /// The host's file under a node.
    fn bottom(&self, node: &Node) -> Option<HostInfo> {
        if let Body::File {
            config,
            spare,
            used,
        } = &node.body
        {
            let file = used.as_deref().or(spare.as_ref());
            return Some(HostInfo {
                path: config.path.clone(),
                aio: config.aio,
                size: file.map_or(0, HostFile::size),
                allocated: file.and_then(|file| file.allocated().ok()),
            });
        }
        let below = node.children.first().or(node.backing.as_ref())?;
        self.bottom(self.find(below)?)
    }
}

/// The host's file under a node.
struct HostInfo {
    path: PathBuf,
    aio: Aio,
    size: u64,
    allocated: Option<u64>,
}
