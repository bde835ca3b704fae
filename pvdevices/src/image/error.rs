//! Why an image cannot be opened or changed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an image cannot be opened or changed. The source says what the host answered.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be opened.
    #[error("Could not open '{}'", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The path leads to something else.
    #[error("'{}' is {found}; {way_out}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The host does not tell what has to be known.
    #[error("Could not read the {what} of '{}'", path.display())]
    Query {
        /// The file.
        path: PathBuf,
        /// What was asked.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// The file system has no `O_DIRECT`.
    #[error(
        "The file system of '{}' does not support O_DIRECT; use cache=writeback \
         or leave cache.direct out",
        path.display()
    )]
    NoDirect {
        /// The file.
        path: PathBuf,
    },
    /// A size that `O_DIRECT` cannot end at.
    #[error(
        "The size of '{}' is not a multiple of {align} bytes, as O_DIRECT needs it to write there; \
         use cache=writeback or enlarge the file",
        path.display()
    )]
    DirectSize {
        /// The file.
        path: PathBuf,
        /// The alignment in bytes.
        align: u32,
    },
    /// Somebody else uses the image.
    #[error(
        "Failed to get {}\"{permission}\" lock; is another process using the image [{}]?",
        if *.shared { "shared " } else { "" }, path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// The permission.
        permission: &'static str,
        /// The other one has what we do not share; else it does not share what we need.
        shared: bool,
    },
    /// `locking=on` on a file system without locks.
    #[error("'{}' cannot be locked; use locking=auto or locking=off", path.display())]
    NoLocks {
        /// The file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// A part of a file that is not there.
    #[error(
        "The raw image's offset {offset} and size {size} do not fit into the {available} bytes of \
         '{}'; both are whole sectors of 512 bytes",
        path.display()
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes wanted.
        size: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The size cannot be changed.
    #[error("Could not change the size of '{}' to {size} bytes", path.display())]
    Resize {
        /// The file.
        path: PathBuf,
        /// Bytes wanted.
        size: u64,
        /// What the host answered.
        source: io::Error,
    },
    /// There is no place for what the guest writes.
    #[error("Could not make a temporary file in '{}'; point TMPDIR to a directory with room", path.display())]
    Temporary {
        /// The directory.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The header speaks against opening the image.
    #[error("'{}' {what}; {way_out}", path.display())]
    Header {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// The format's library does not take the image.
    #[error("Could not read '{}' as a {format} image", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A format that is known and not supported.
    #[error(
        "'{}' is a {format} image, which is not supported; convert it by qemu-img convert",
        path.display()
    )]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// The format.
        format: String,
    },
    /// A backing file that may be anything.
    #[error(
        "'{}' does not say which format its backing file '{backing}' has; add it by \
         qemu-img rebase -u -F FORMAT -b '{backing}' or name the backing node",
        path.display()
    )]
    NoBackingFormat {
        /// The image.
        path: PathBuf,
        /// The backing file.
        backing: String,
    },
    /// A backing file on something that is no file.
    #[error("'{}' names '{named}', which is not a file of this host", path.display())]
    NotAFile {
        /// The image.
        path: PathBuf,
        /// What it names.
        named: String,
    },
    /// An external data file without a name.
    #[error("'{}' keeps its data in another file; name it by data-file=NODE", path.display())]
    NoDataFile {
        /// The image.
        path: PathBuf,
    },
}
