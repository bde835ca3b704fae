//! What block nodes are to be: plain typed data, in QEMU's terms.
//!
//! A disk's image is a tree of nodes as in QEMU's block layer: a *format* node (raw, qcow2, VMDK)
//! over a *protocol* node (a file or a host device), and under qcow2 perhaps a backing image and a
//! data file. Nothing here is opened; [`super::BlockNodes`] does that.

use std::path::PathBuf;

/// One node and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `node-name`: how others refer to it; one is made up if there is none.
    pub name: Option<String>,
    /// What it is.
    pub driver: Driver,
    /// `read-only`.
    pub read_only: bool,
    /// `auto-read-only`: becomes read-only where it cannot be written and nobody needs it to.
    pub auto_read_only: bool,
    /// `discard`: what the guest gives back is given back to the host (`unmap`); else ignored.
    pub discard: bool,
    /// `detect-zeroes`.
    pub detect_zeroes: DetectZeroes,
    /// `cache.*`: how the files below are cached.
    pub cache: CacheConfig,
    /// `force-share`: others may write the files below at the same time; only for read-only nodes.
    pub force_share: bool,
    /// `snapshot`: what is written goes to a temporary file that is gone at the end.
    pub snapshot: bool,
}

impl NodeConfig {
    /// A node of this driver without a name and with QEMU's defaults.
    pub fn new(driver: Driver) -> Self {
        Self {
            name: None,
            driver,
            read_only: false,
            auto_read_only: false,
            discard: false,
            detect_zeroes: DetectZeroes::Off,
            cache: CacheConfig::default(),
            force_share: false,
            snapshot: false,
        }
    }

    /// A host file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Driver::File(FileConfig::new(path)))
    }
}

/// What a node is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// `file`, `host_device`, `host_cdrom`: a file or device of the host.
    File(FileConfig),
    /// `raw`: the bytes as they are, or a part of them.
    Raw {
        /// The node that has the bytes.
        file: NodeRef,
        /// `offset`: the first byte.
        offset: u64,
        /// `size`: how many bytes; all to the end without it.
        size: Option<u64>,
    },
    /// `qcow2`.
    Qcow2 {
        /// The node with the image's metadata, and its data unless `data_file` has them.
        file: NodeRef,
        /// What lies under it.
        backing: Backing,
        /// `data-file`; the header's without it.
        data_file: Option<NodeRef>,
    },
    /// `vmdk`, read-only.
    Vmdk {
        /// The node with the descriptor.
        file: NodeRef,
    },
    /// A format that nobody named: found out from the first bytes, with a warning.
    Probe {
        /// The node that has the bytes.
        file: NodeRef,
    },
    /// `null-co`, `null-aio`: reads zeros (`read-zeroes`, always on) and forgets what is written.
    Null {
        /// Bytes.
        size: u64,
    },
}

impl Driver {
    /// The name that QEMU gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(file) => match file.kind {
                FileKind::File => "file",
                FileKind::HostDevice => "host_device",
                FileKind::HostCdrom => "host_cdrom",
            },
            Self::Raw { .. } | Self::Probe { .. } => "raw",
            Self::Qcow2 { .. } => "qcow2",
            Self::Vmdk { .. } => "vmdk",
            Self::Null { .. } => "null-co",
        }
    }
}

/// A node that another one stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeRef {
    /// The node of this `node-name`.
    Name(String),
    /// One of its own.
    Inline(Box<NodeConfig>),
}

impl From<NodeConfig> for NodeRef {
    fn from(config: NodeConfig) -> Self {
        Self::Inline(Box::new(config))
    }
}

/// Where a copy-on-write image finds what was never written to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Backing {
    /// Where its header says.
    #[default]
    FromHeader,
    /// Nowhere: it reads as zeros (`backing: null`).
    None,
    /// In this node.
    Node(NodeRef),
}

/// A file or device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// `filename`. `/dev/fdset/N` names descriptors that were passed.
    pub path: PathBuf,
    /// What it has to be.
    pub kind: FileKind,
    /// `locking`.
    pub locking: Locking,
    /// `aio`.
    pub aio: Aio,
}

impl FileConfig {
    /// The file at `path`, with QEMU's defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kind: FileKind::File,
            locking: Locking::Auto,
            aio: Aio::Auto,
        }
    }
}

/// What a path has to lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `file`: a regular file, or a device as well.
    File,
    /// `host_device`: a block device.
    HostDevice,
    /// `host_cdrom`: a CD-ROM drive.
    HostCdrom,
}

/// Whether others are kept from the file while it is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Locking {
    /// Where the host can.
    #[default]
    Auto,
    /// Always; an error where the host cannot.
    On,
    /// Never.
    Off,
}

/// How requests reach the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Aio {
    /// By io_uring where the host lets the process have one, else as [`Self::Threads`].
    #[default]
    Auto,
    /// By threads that read and write.
    Threads,
    /// By Linux AIO in QEMU; as [`Self::Auto`] here.
    Native,
    /// As [`Self::Auto`], asked for.
    IoUring,
}

/// How the host caches a file (`cache.direct`, `cache.no-flush`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheConfig {
    /// The host's page cache is gone around (`O_DIRECT`).
    pub direct: bool,
    /// The guest's flushes are not carried out.
    pub no_flush: bool,
}

/// The words of `cache=`, which say three things at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// `none`, `off`: direct, with flushes.
    None,
    /// `writeback`: QEMU's default.
    Writeback,
    /// `writethrough`: every write is flushed before it is answered.
    Writethrough,
    /// `directsync`: writethrough and direct.
    Directsync,
    /// `unsafe`: writeback, flushes ignored.
    Unsafe,
}

impl CacheMode {
    /// The words, as `cache=` takes them.
    pub const WORDS: [(&str, Self); 6] = [
        ("none", Self::None),
        ("off", Self::None),
        ("writeback", Self::Writeback),
        ("writethrough", Self::Writethrough),
        ("directsync", Self::Directsync),
        ("unsafe", Self::Unsafe),
    ];

    /// What becomes of the files.
    pub fn config(self) -> CacheConfig {
        CacheConfig {
            direct: matches!(self, Self::None | Self::Directsync),
            no_flush: self == Self::Unsafe,
        }
    }

    /// Whether the guest sees a volatile write cache that it has to flush.
    pub fn writeback(self) -> bool {
        !matches!(self, Self::Writethrough | Self::Directsync)
    }
}

/// What becomes of writes that are all zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// They are written.
    #[default]
    Off,
    /// The range is zeroed, keeping its space.
    On,
    /// The range is zeroed and its space given back, if the node discards.
    Unmap,
}
