//! Loads a PV kernel image: unwraps a bzImage, unpacks it, reads the ELF
//! image and its Xen notes, and checks that they make sense. Pure: no guest
//! memory, no KVM. The domain builder copies the segments and reads the notes.
//!
//! Kernel files are untrusted input. Sizes in them are believed only as far as
//! bytes back them, nothing here panics on any file, and every refusal is one
//! line.

mod bytes;
mod bzimage;
mod decompress;
mod elf;
mod error;
mod hugepage;
mod layout;
mod lz4;
mod notes;
mod xz;
mod zstd;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use decompress::{Inflate, MAX_IMAGE};
use elf::{Content, Elf};

pub use decompress::Codec;
pub use error::{Cause, LoaderError};
pub use notes::{PaeMode, XenNotes};

/// Word size and page-table form of a PV kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordSize {
    /// x86-64.
    Bits64,
    /// i386 with PAE, Xen's `x86_32p`.
    Bits32Pae,
}

/// A kernel ready to be copied into a domain.
pub struct KernelImage {
    /// Word size.
    pub word: WordSize,
    /// What the kernel asks for.
    pub notes: XenNotes,
    /// Virtual address of the first instruction, within the kernel.
    pub entry: u64,
    /// What to copy where, in the order of the file. Segments may overlap:
    /// later ones win.
    pub segments: Vec<Segment>,
    /// Lowest `p_paddr`.
    pub pstart: u64,
    /// End of the highest segment in memory, in terms of `p_paddr`.
    pub pend: u64,
    data: Vec<u8>,
}

/// One PT_LOAD segment. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `p_paddr`; see [`KernelImage::pseudo_phys`].
    pub paddr: u64,
    /// Bytes to copy. Zeros at the segment's end are not counted, whatever the
    /// file says.
    pub filesz: u64,
    /// Size in memory, at least `filesz`. The rest is zero.
    pub memsz: u64,
    range: Range<usize>,
}

/// Reads a kernel from a regular file.
pub fn load(path: &Path) -> Result<KernelImage, LoaderError> {
    let name = path.display().to_string();
    match read_file(path) {
        Ok(bytes) => parse(bytes, &name),
        Err(cause) => Err(LoaderError { file: name, cause }),
    }
}

/// Reads a kernel from memory; `name` is for messages.
pub fn parse(bytes: Vec<u8>, name: &str) -> Result<KernelImage, LoaderError> {
    build(bytes).map_err(|cause| LoaderError {
        file: name.to_owned(),
        cause,
    })
}

impl KernelImage {
    /// The bytes to copy for a segment of this image, `filesz` of them.
    pub fn segment_data(&self, segment: &Segment) -> &[u8] {
        self.data.get(segment.range.clone()).unwrap_or_default()
    }

    /// Pseudo-physical address of a segment: what lies at `pfn << 12`.
    pub fn pseudo_phys(&self, segment: &Segment) -> u64 {
        // Both checked by `layout`: no segment is below PADDR_OFFSET.
        segment.paddr.wrapping_sub(self.notes.paddr_offset)
    }

    /// Added (modulo 2^64) to a `p_paddr`, gives the virtual address.
    pub fn virt_offset(&self) -> u64 {
        self.notes.virt_base.wrapping_sub(self.notes.paddr_offset)
    }

    /// First virtual address of the kernel, at or above VIRT_BASE.
    pub fn virt_kstart(&self) -> u64 {
        self.pstart.wrapping_add(self.virt_offset())
    }

    /// First virtual address behind the kernel.
    pub fn virt_kend(&self) -> u64 {
        self.pend.wrapping_add(self.virt_offset())
    }

    /// The frame that the initial mapping has at a virtual address, `None`
    /// below VIRT_BASE.
    pub fn pfn_of(&self, virt: u64) -> Option<u64> {
        Some(virt.checked_sub(self.notes.virt_base)? >> 12)
    }
}

impl fmt::Debug for KernelImage {
    /// Without the kernel's bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelImage")
            .field("word", &self.word)
            .field("notes", &self.notes)
            .field("entry", &format_args!("{:#x}", self.entry))
            .field("segments", &self.segments)
            .field("pstart", &format_args!("{:#x}", self.pstart))
            .field("pend", &format_args!("{:#x}", self.pend))
            .finish_non_exhaustive()
    }
}

/// Reads a regular file of bearable size.
fn read_file(path: &Path) -> Result<Vec<u8>, Cause> {
    // Without O_NONBLOCK, opening a FIFO waits for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(Cause::Io)?;
    let metadata = file.metadata().map_err(Cause::Io)?;
    if !metadata.is_file() {
        return Err(Cause::NotAFile);
    }
    check_size(metadata.len())?;
    read_all(&file, metadata.len()).map_err(Cause::Io)
}

/// Reads up to `len` bytes: the file may shrink meanwhile, and what it grows
/// by is not wanted.
fn read_all(mut file: &File, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = hugepage::zeroed(usize::try_from(len).unwrap_or(0));
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn check_size(size: u64) -> Result<(), Cause> {
    if size > MAX_IMAGE as u64 {
        return Err(Cause::TooLarge {
            what: "the file",
            size,
            limit: MAX_IMAGE as u64,
        });
    }
    Ok(())
}

fn build(bytes: Vec<u8>) -> Result<KernelImage, Cause> {
    if bytes.is_empty() {
        return Err(Cause::Empty);
    }
    check_size(bytes.len() as u64)?;
    let payload = bzimage::payload(&bytes)?;
    let in_bzimage = payload.is_some();
    let place = payload.unwrap_or(0..bytes.len());
    let (start, inner) = (place.start, &bytes[place]);
    let Some(codec) = Codec::detect(inner)? else {
        let elf = elf::read(&mut Content::Plain(inner))?;
        return image(elf, bytes, start);
    };
    let mut content = Content::Packed(Inflate::new(codec, inner, in_bzimage)?);
    let elf = elf::read(&mut content)?;
    match content {
        Content::Packed(inflate) => image(elf, inflate.into_bytes(), 0),
        Content::Plain(_) => Err(Cause::UnknownFormat),
    }
}

/// Applies the rules to what `elf`, at `start` of `data`, says.
fn image(elf: Elf, data: Vec<u8>, start: usize) -> Result<KernelImage, Cause> {
    let Elf {
        word,
        entry,
        loads,
        span,
        notes,
    } = elf;
    let notes = notes.finish()?;
    let layout = layout::place(word, entry, span, &notes)?;
    let segment = |load: &elf::Load| {
        let range = load.range(start);
        let bytes = data.get(range.clone()).unwrap_or_default();
        let used = used_len(bytes);
        Segment {
            paddr: load.paddr,
            filesz: used as u64,
            memsz: load.memsz,
            range: range.start..range.start + used,
        }
    };
    Ok(KernelImage {
        word,
        entry: layout.entry,
        segments: loads.iter().map(segment).collect(),
        pstart: layout.pstart,
        pend: layout.pend,
        notes,
        data,
    })
}

/// Length without the zero pages at the end: Linux 6.1 keeps 20 MiB of bss in
/// the file, which need not be copied into memory that is zero already.
fn used_len(bytes: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let used = bytes.rchunks(PAGE).take_while(|page| is_zero(page));
    bytes.len() - used.map(<[u8]>::len).sum::<usize>()
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks(64)
        .all(|line| line.iter().fold(0, |all, &b| all | b) == 0)
}
