//! Why a file is not taken as a PV kernel: one line that names the file, the
//! cause and, where there is one, the way out.

use std::io;

use super::decompress::Codec;

/// A kernel file that cannot be loaded. Prints as one line.
#[derive(Debug, thiserror::Error)]
#[error("Cannot load kernel '{file}': {cause}")]
pub struct LoaderError {
    /// The file's name as the user gave it.
    pub file: String,
    /// What is wrong with it.
    pub cause: Cause,
}

/// What is wrong with a kernel file. Sizes are bytes, addresses are in hex.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Opening or reading failed.
    #[error("{0}")]
    Io(io::Error),
    /// A directory, socket or device.
    #[error("is not a regular file")]
    NotAFile,
    /// No byte in it.
    #[error("is empty")]
    Empty,
    /// The file, or what it says it unpacks to, is beyond any kernel's size.
    #[error("{what} is {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What is measured.
        what: &'static str,
        /// Its size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A bzImage that ends early or contradicts itself.
    #[error("bzImage is damaged: {0}")]
    BadBzImage(String),
    /// A boot protocol without payload fields (below 2.08).
    #[error(
        "bzImage has boot protocol {major}.{minor:02}, without the place of the kernel inside: \
         needs 2.08 or newer (Linux 2.6.26), or give the uncompressed vmlinux"
    )]
    OldBootProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// Neither ELF, nor bzImage, nor a known compression.
    #[error("is neither an ELF image, nor a bzImage, nor a compressed ELF image")]
    UnknownFormat,
    /// lzop.
    #[error("is compressed with LZO, which is not supported: give the uncompressed vmlinux")]
    Lzo,
    /// The decompressor gave up.
    #[error("cannot decompress ({codec}): {reason}")]
    Decompress {
        /// The compression found.
        codec: Codec,
        /// The decompressor's words.
        reason: String,
    },
    /// The compressed data holds no ELF image.
    #[error("what the {codec} data unpacks to is not an ELF image")]
    NotElfInside {
        /// The compression found.
        codec: Codec,
    },
    /// The ELF image is damaged.
    #[error("ELF image is damaged: {0}")]
    BadElf(String),
    /// An ELF image, but no kernel for this machine.
    #[error("is an ELF image for {0}: needs x86-64 or i386 (PAE)")]
    WrongMachine(String),
    /// A 32-bit kernel without PAE.
    #[error("is a 32-bit kernel without PAE, which Xen does not run: needs CONFIG_X86_PAE")]
    NoPae,
    /// The segments do not make a kernel.
    #[error("the kernel's address space makes no sense: {0}")]
    BadLayout(String),
    /// No notes and no legacy text.
    #[error("has no Xen notes: not built with CONFIG_XEN_PV")]
    NoXenNotes,
    /// Only the PVH entry.
    #[error("is a PVH kernel only (no Xen PV entry): not built with CONFIG_XEN_PV")]
    PvhOnly,
    /// A note that breaks the rules.
    #[error("Xen notes are damaged: {0}")]
    BadNotes(String),
    /// Built for some other hypervisor interface.
    #[error("was built for Xen interface '{0}': needs xen-3.0")]
    XenVersion(String),
    /// Neither the generic loader's image nor Linux.
    #[error("asks for loader '{loader}' (guest OS '{guest_os}'): needs 'generic'")]
    Loader {
        /// The LOADER note.
        loader: String,
        /// The GUEST_OS note.
        guest_os: String,
    },
    /// A `!feature` nobody knows or no PV domain has.
    #[error("requires the Xen feature '{0}', which a PV domain does not have")]
    RequiredFeature(String),
}
