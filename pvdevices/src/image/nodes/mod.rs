//! The graph of block nodes: QEMU's `blockdev-add`, `blockdev-del`, and what a monitor asks of them.
//!
//! A node is opened when it is added, and its file is locked as soon as somebody uses it: a format
//! from the beginning, raw bytes when a device is attached. Everything is opened before a device
//! appears to the guest.

mod format;
mod query;

use std::sync::Arc;

use thiserror::Error;
use xenner_console::FdSource;

use super::Image;
use super::attached::{AttachedImage, Attachment, NodePolicy};
use super::config::{CacheConfig, DetectZeroes, Driver, FileConfig, NodeConfig, NodeRef};
use super::error::ImageError;
use super::file::{Access, HostFile};
use super::formats::FormatImage;
use super::lock::Claim;
use super::null::NullImage;
use super::raw::RawImage;

pub use query::NodeInfo;

/// Why a node cannot be added, used or removed.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The image itself; the source has it all.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Another node has the name.
    #[error("There is a block node '{0}' already; choose another node-name")]
    Exists(String),
    /// A name that is none.
    #[error(
        "'{0}' is not a node name; write 1 to 31 letters, digits, '-', '.' and '_', a letter first"
    )]
    BadName(String),
    /// No node has the name.
    #[error("There is no block node '{0}'")]
    Missing(String),
    /// The node is in use.
    #[error("Block node '{node}' is in use by '{user}'; detach that first")]
    InUse {
        /// The node.
        node: String,
        /// A node above it, or a device.
        user: String,
    },
    /// The node is only read.
    #[error("Block node '{0}' is read-only; leave read-only out")]
    ReadOnly(String),
    /// A node where a file has to be.
    #[error("Block node '{0}' is no file or host device; name one as the file of a format")]
    NoFile(String),
    /// Zeros cannot be unmapped where nothing is discarded.
    #[error("detect-zeroes=unmap needs discard=unmap; add it")]
    UnmapNeedsDiscard,
    /// A node that no image can stand on.
    #[error("Block node '{0}' cannot be a backing image; name a file, raw or qcow2 node")]
    NoBacking(String),
    /// Nodes that stand on each other without an end.
    #[error("There are more than {0} images on top of each other; merge some by qemu-img commit")]
    TooDeep(usize),
    /// A format that is only read.
    #[error("VMDK images can only be read; add read-only=on")]
    VmdkWrite,
}

/// The most nodes on top of each other: a backing file may lead back to its image.
const MAX_DEPTH: usize = 64;

/// All block nodes of a domain.
#[derive(Debug, Default)]
pub struct BlockNodes {
    nodes: Vec<Node>,
    made_up: u32,
}

#[derive(Debug)]
struct Node {
    name: String,
    driver: &'static str,
    read_only: bool,
    discards: bool,
    force_share: bool,
    cache: CacheConfig,
    detect_zeroes: DetectZeroes,
    implicit: bool,
    /// How many nodes are above it.
    depth: usize,
    /// Nodes that this one stands on: the file first.
    children: Vec<String>,
    backing: Option<String>,
    users: Vec<User>,
    body: Body,
}

#[derive(Debug)]
struct User {
    name: String,
    writes: bool,
}

#[derive(Debug)]
enum Body {
    /// A file, open and not yet used by anybody.
    File {
        config: FileConfig,
        /// As it was opened when the node was added; its first user takes it if it suits.
        spare: Option<HostFile>,
        /// As its user has it.
        used: Option<Arc<HostFile>>,
    },
    /// Bytes of a file, opened when a device is attached.
    Raw {
        offset: u64,
        size: Option<u64>,
        guessed: bool,
        image: Option<Arc<dyn Image>>,
    },
    /// An image of a format, open all the time.
    Format(Arc<FormatImage>),
    /// No medium.
    Null(Arc<NullImage>),
}

impl BlockNodes {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a node and those that come with it; returns its name.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is added then.
    pub fn add(
        &mut self,
        config: &NodeConfig,
        fds: &mut dyn FdSource,
    ) -> Result<String, NodeError> {
        let before = self.nodes.len();
        let result = self.add_tree(config, 0, fds);
        if result.is_err() {
            // What came with it goes with it, the last first.
            let added: Vec<String> = self.nodes.drain(before..).map(|node| node.name).collect();
            self.forget_users(&added);
        }
        result
    }

    /// Takes the users of these names off all nodes.
    fn forget_users(&mut self, gone: &[String]) {
        for node in &mut self.nodes {
            for name in gone {
                node.release(name);
            }
        }
    }

    fn add_tree(
        &mut self,
        config: &NodeConfig,
        depth: usize,
        fds: &mut dyn FdSource,
    ) -> Result<String, NodeError> {
        if config.detect_zeroes == DetectZeroes::Unmap && !config.discard {
            return Err(NodeError::UnmapNeedsDiscard);
        }
        if depth > MAX_DEPTH {
            return Err(NodeError::TooDeep(MAX_DEPTH));
        }
        let name = self.name_for(config)?;
        let mut node = Node {
            name: name.clone(),
            driver: config.driver.name(),
            read_only: config.read_only,
            discards: config.discard,
            force_share: config.force_share,
            cache: config.cache,
            detect_zeroes: config.detect_zeroes,
            depth,
            implicit: depth > 0 && config.name.is_none(),
            children: Vec::new(),
            backing: None,
            users: Vec::new(),
            body: Body::Null(Arc::new(NullImage::new(0))),
        };
        let body = match config.snapshot {
            true => self.open_snapshot(config, &mut node, fds),
            false => self.open(config, &mut node, fds),
        };
        match body {
            // A node below may have taken the name.
            Ok(_) if self.find(&name).is_some() => Err(NodeError::Exists(name)),
            Ok(body) => {
                node.body = body;
                self.nodes.push(node);
                Ok(name)
            }
            Err(error) => {
                self.forget_users(&[name]);
                Err(error)
            }
        }
    }

    fn open(
        &mut self,
        config: &NodeConfig,
        node: &mut Node,
        fds: &mut dyn FdSource,
    ) -> Result<Body, NodeError> {
        match &config.driver {
            Driver::File(file) => {
                // Who needs to write it says so when it uses it.
                let write = !config.read_only && !config.auto_read_only;
                let access = Access {
                    write,
                    cache: config.cache,
                };
                Ok(Body::File {
                    spare: Some(HostFile::open(file, access, fds)?),
                    config: file.clone(),
                    used: None,
                })
            }
            Driver::Null { size } => Ok(Body::Null(Arc::new(NullImage::new(*size)))),
            Driver::Raw { file, offset, size } => {
                self.child(file, node, fds)?;
                Ok(Body::Raw {
                    offset: *offset,
                    size: *size,
                    guessed: false,
                    image: None,
                })
            }
            Driver::Probe { file } => {
                let child = self.child(file, node, fds)?;
                self.open_guessed(config, node, &child, fds)
            }
            Driver::Qcow2 {
                file,
                backing,
                data_file,
            } => {
                let child = self.child(file, node, fds)?;
                self.open_qcow2(node, &child, (backing, data_file.as_ref()), fds)
            }
            Driver::Vmdk { file } => {
                let child = self.child(file, node, fds)?;
                self.open_vmdk(node, &child, fds)
            }
        }
    }

    /// Adds the node under `node`, or finds it, and notes that it is in use.
    fn child(
        &mut self,
        child: &NodeRef,
        node: &mut Node,
        fds: &mut dyn FdSource,
    ) -> Result<String, NodeError> {
        let name = match child {
            NodeRef::Inline(config) => self.add_tree(config, node.depth + 1, fds)?,
            NodeRef::Name(name) => name.clone(),
        };
        let found = self.find_mut(&name)?;
        if let Some(user) = found.users.first() {
            return Err(NodeError::InUse {
                node: name,
                user: user.name.clone(),
            });
        }
        found.users.push(User {
            name: node.name.clone(),
            writes: !node.read_only,
        });
        node.children.push(name.clone());
        Ok(name)
    }

    fn name_for(&mut self, config: &NodeConfig) -> Result<String, NodeError> {
        let Some(name) = &config.name else {
            loop {
                let name = format!("#block{:03}", self.made_up);
                self.made_up += 1;
                if self.find(&name).is_none() {
                    return Ok(name);
                }
            }
        };
        if !is_name(name) {
            return Err(NodeError::BadName(name.clone()));
        }
        match self.find(name) {
            Some(_) => Err(NodeError::Exists(name.clone())),
            None => Ok(name.clone()),
        }
    }

    fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Node, NodeError> {
        self.nodes
            .iter_mut()
            .find(|node| node.name == name)
            .ok_or_else(|| NodeError::Missing(name.to_owned()))
    }

    /// Closes a node and those that came with it.
    ///
    /// # Errors
    /// [`NodeError::Missing`], [`NodeError::InUse`].
    pub fn remove(&mut self, name: &str) -> Result<(), NodeError> {
        let node = self.find_mut(name)?;
        if let Some(user) = node.users.first() {
            return Err(NodeError::InUse {
                node: name.to_owned(),
                user: user.name.clone(),
            });
        }
        let mut children = node.children.clone();
        children.extend(node.backing.clone());
        self.nodes.retain(|node| node.name != name);
        for child in children {
            let node = self.find_mut(&child)?;
            node.release(name);
            if node.implicit {
                self.remove(&child)?;
            }
        }
        Ok(())
    }

    /// Opens a node for a device: its file is locked from here on.
    ///
    /// # Errors
    /// [`NodeError::InUse`] if somebody else has it already and either of the two writes without
    /// sharing it, and all that can be wrong with the file.
    pub fn attach(
        &mut self,
        name: &str,
        device: &Attachment,
        fds: &mut dyn FdSource,
    ) -> Result<Arc<dyn Image>, NodeError> {
        let node = self.find_mut(name)?;
        let mut device = device.clone();
        device.read_only |= node.read_only;
        let writes = !device.read_only;
        let alone = |user: &&User| (writes || user.writes) && !device.share_rw;
        if let Some(user) = node.users.iter().find(alone) {
            return Err(NodeError::InUse {
                node: name.to_owned(),
                user: user.name.clone(),
            });
        }
        let mut policy = NodePolicy {
            detect_zeroes: node.detect_zeroes,
            guessed_raw: false,
        };
        if let Body::Raw { guessed, .. } = &node.body {
            policy.guessed_raw = *guessed;
        }
        let image = match self.image_for(name, &device, fds) {
            Ok(image) => image,
            Err(error) => {
                self.close_idle(name);
                return Err(error);
            }
        };
        self.find_mut(name)?.users.push(User {
            name: device.user.clone(),
            writes,
        });
        Ok(Arc::new(AttachedImage::new(image, device, policy)))
    }

    fn image_for(
        &mut self,
        name: &str,
        device: &Attachment,
        fds: &mut dyn FdSource,
    ) -> Result<Arc<dyn Image>, NodeError> {
        let node = self.find_mut(name)?;
        let (discards, force_share) = (node.discards, node.force_share);
        let (file, offset, size) = match &node.body {
            Body::Format(image) => return Ok(Arc::clone(image) as Arc<dyn Image>),
            Body::Null(image) => return Ok(Arc::clone(image) as Arc<dyn Image>),
            Body::Raw {
                image: Some(image), ..
            } => return Ok(Arc::clone(image)),
            Body::Raw { offset, size, .. } => (node.children.first().cloned(), *offset, *size),
            Body::File { .. } => (Some(name.to_owned()), 0, None),
        };
        let file = file.ok_or_else(|| NodeError::NoFile(name.to_owned()))?;
        let mut claim = Claim::device(!device.read_only, device.share_rw);
        if force_share && device.read_only {
            claim = claim.sharing();
        }
        let opened = self.claim(&file, claim, !device.read_only, fds)?;
        opened.check_direct_size()?;
        let raw: Arc<dyn Image> = Arc::new(RawImage::new(opened, offset, size, discards)?);
        if let Body::Raw { image, .. } = &mut self.find_mut(name)?.body {
            *image = Some(Arc::clone(&raw));
        }
        Ok(raw)
    }

    /// Gives a file node's file to its user, open as it needs it and locked.
    fn claim(
        &mut self,
        name: &str,
        claim: Claim,
        write: bool,
        fds: &mut dyn FdSource,
    ) -> Result<Arc<HostFile>, NodeError> {
        let node = self.find_mut(name)?;
        if write && node.read_only {
            return Err(NodeError::ReadOnly(name.to_owned()));
        }
        let claim = match node.force_share && !write {
            true => claim.sharing(),
            false => claim,
        };
        let cache = node.cache;
        let Body::File {
            config,
            spare,
            used,
        } = &mut node.body
        else {
            return Err(NodeError::NoFile(name.to_owned()));
        };
        if let Some(file) = used {
            return Ok(Arc::clone(file));
        }
        let mut file = match spare.take() {
            Some(file) if file.is_writable() == write => file,
            _ => HostFile::open(config, Access { write, cache }, fds)?,
        };
        file.lock(claim, config.locking)?;
        let file = Arc::new(file);
        *used = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Ends a device's use of its node. The file is closed and unlocked when the device has dropped
    /// the image as well.
    pub fn detach(&mut self, device: &str) {
        let mut idle = Vec::new();
        for node in &mut self.nodes {
            let before = node.users.len();
            node.release(device);
            if node.users.len() < before {
                idle.push(node.name.clone());
            }
        }
        idle.iter().for_each(|name| self.close_idle(name));
    }

    /// Raw bytes that no device has leave their file, which unlocks it; a format keeps it.
    fn close_idle(&mut self, name: &str) {
        let Some(node) = self.find(name).filter(|node| node.users.is_empty()) else {
            return;
        };
        let file = match &node.body {
            Body::Raw { .. } => node.children.first().cloned(),
            Body::File { .. } => Some(node.name.clone()),
            Body::Format(_) | Body::Null(_) => None,
        };
        if let Some(file) = file
            && let Ok(node) = self.find_mut(&file)
            && let Body::File { used, .. } = &mut node.body
        {
            *used = None;
        }
    }

    /// Changes the size of a node's image to `size` bytes (`block_resize`).
    ///
    /// # Errors
    /// [`NodeError::ReadOnly`], and [`NodeError::Image`] with what the host answered.
    pub fn resize(&mut self, name: &str, size: u64) -> Result<(), NodeError> {
        let node = self.find_mut(name)?;
        let image = match &node.body {
            Body::Format(image) => Some(Arc::clone(image) as Arc<dyn Image>),
            Body::Null(image) => Some(Arc::clone(image) as Arc<dyn Image>),
            Body::Raw { image, .. } => image.clone(),
            Body::File { .. } => None,
        };
        let Some(image) = image.filter(|_| !node.read_only) else {
            return Err(NodeError::ReadOnly(name.to_owned()));
        };
        let path = self.info(name).and_then(|info| info.filename);
        image.resize(size).map_err(|source| {
            NodeError::Image(ImageError::Resize {
                path: path.unwrap_or_default(),
                size,
                source,
            })
        })
    }
}

impl Node {
    /// Forgets a user; what only users keep open is closed with the last one.
    fn release(&mut self, user: &str) {
        let before = self.users.len();
        self.users.retain(|known| known.name != user);
        if self.users.is_empty() && before > 0 {
            match &mut self.body {
                Body::File { used, .. } => *used = None,
                Body::Raw { image, .. } => *image = None,
                Body::Format(_) | Body::Null(_) => {}
            }
        }
    }
}

/// QEMU's rule for node names; those that are made up begin with a character that it forbids.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
    let made_up = name.strip_prefix('#').unwrap_or(name);
    (1..=31).contains(&name.len())
        && made_up.starts_with(|c: char| c.is_ascii_alphabetic())
        && made_up.chars().all(inner)
}
