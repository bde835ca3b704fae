//! Reads the ELF image inside a kernel file: machine, segments, notes. Unpacks
//! no more of it than that takes.

use std::ops::Range;

use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

use super::WordSize;
use super::decompress::{Inflate, MAX_IMAGE};
use super::error::Cause;
use super::layout;
use super::notes::NoteReader;

/// The longest header, `Elf64_Ehdr`.
const HEADER: usize = 64;
const LE: LittleEndian = LittleEndian;

/// The bytes of the image, as far as they are wanted.
pub(super) enum Content<'a> {
    /// All there.
    Plain(&'a [u8]),
    /// Being unpacked.
    Packed(Inflate<'a>),
}

impl Content<'_> {
    /// All bytes there are, `wanted` at least unless the image ends before.
    fn upto(&mut self, wanted: u64) -> Result<&[u8], Cause> {
        match self {
            Content::Plain(bytes) => Ok(bytes),
            Content::Packed(inflate) => inflate.upto(usize::try_from(wanted).unwrap_or(usize::MAX)),
        }
    }

    /// The image's size where known before unpacking.
    fn size(&self) -> Option<u64> {
        match self {
            Content::Plain(bytes) => Some(bytes.len() as u64),
            Content::Packed(inflate) => inflate.declared().map(|size| size as u64),
        }
    }

    fn limit(&self) -> u64 {
        match self {
            Content::Plain(_) => MAX_IMAGE as u64,
            Content::Packed(inflate) => inflate.limit() as u64,
        }
    }

    fn tail(&self) -> u64 {
        match self {
            Content::Plain(_) => 0,
            Content::Packed(inflate) => inflate.codec().tail() as u64,
        }
    }

    fn not_elf(&self) -> Cause {
        match self {
            Content::Plain(_) => Cause::UnknownFormat,
            Content::Packed(inflate) => Cause::NotElfInside {
                codec: inflate.codec(),
            },
        }
    }
}

/// A PT_LOAD segment. `offset..offset + filesz` lies within the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) paddr: u64,
    pub(super) memsz: u64,
    pub(super) offset: u64,
    pub(super) filesz: u64,
}

impl Load {
    /// The segment's bytes in a buffer that holds the image from `start` on.
    pub(super) fn range(&self, start: usize) -> Range<usize> {
        let place = |at: u64| usize::try_from(at).map_or(usize::MAX, |at| at.saturating_add(start));
        place(self.offset)..place(self.offset.saturating_add(self.filesz))
    }
}

/// What the image says, its notes not yet checked.
#[derive(Debug)]
pub(super) struct Elf {
    pub(super) word: WordSize,
    pub(super) entry: u64,
    pub(super) loads: Vec<Load>,
    /// Lowest and highest physical address.
    pub(super) span: (u64, u64),
    pub(super) notes: NoteReader,
}

/// Reads the image in `content`, of which every segment's bytes are there
/// afterwards.
pub(super) fn read(content: &mut Content) -> Result<Elf, Cause> {
    let header = content.upto(HEADER as u64)?;
    if !header.starts_with(&elf::ELFMAG) {
        return Err(content.not_elf());
    }
    match (header.get(4), header.get(5)) {
        (Some(2), Some(1)) => read_class::<elf::FileHeader64<LittleEndian>>(content),
        (Some(1), Some(1)) => read_class::<elf::FileHeader32<LittleEndian>>(content),
        (Some(_), Some(2)) => Err(Cause::WrongMachine("a big-endian machine".to_owned())),
        _ => Err(bad("its header is cut off or of an unknown class")),
    }
}

fn read_class<E: FileHeader<Endian = LittleEndian>>(content: &mut Content) -> Result<Elf, Cause> {
    let header = E::parse(content.upto(HEADER as u64)?).map_err(object_error)?;
    let word = word_size(header)?;
    let entry = header.e_entry(LE).into();
    let count = header.e_phnum(LE);
    if count == elf::PN_XNUM {
        return Err(bad("too many program headers"));
    }
    let table = u64::from(count) * u64::from(header.e_phentsize(LE));
    let end = header.e_phoff(LE).into().saturating_add(table);
    let data = content.upto(end)?;
    let header = E::parse(data).map_err(object_error)?;
    let segments = header.program_headers(LE, data).map_err(object_error)?;
    let (loads, note_ranges) = segment_ranges(segments);

    // Before anything is unpacked for them.
    let span = layout::span(&loads)?;
    let needed = loads_end(&loads, content)?;
    let data = content.upto(needed.saturating_add(content.tail()))?;
    if (data.len() as u64) < needed {
        return Err(truncated(needed, data.len() as u64));
    }
    let mut notes = NoteReader::default();
    for &(offset, size) in &note_ranges {
        let data = content.upto(offset.saturating_add(size))?;
        notes.read(clamped(data, offset, size))?;
    }
    if !notes.found {
        read_sections::<E>(content, &mut notes)?;
    }
    Ok(Elf {
        word,
        entry,
        loads,
        span,
        notes,
    })
}

fn word_size<E: FileHeader<Endian = LittleEndian>>(header: &E) -> Result<WordSize, Cause> {
    let machine = header.e_machine(LE);
    let kind = header.e_type(LE);
    if kind != elf::ET_EXEC && kind != elf::ET_DYN {
        return Err(bad("it is neither an executable nor a shared object"));
    }
    match (machine, header.is_type_64()) {
        (elf::EM_X86_64, true) => Ok(WordSize::Bits64),
        (elf::EM_386, false) => Ok(WordSize::Bits32Pae),
        _ => Err(Cause::WrongMachine(format!("machine {}", machine.0))),
    }
}

type Ranges = Vec<(u64, u64)>;

/// PT_LOAD segments with any access and the file ranges of PT_NOTE segments.
fn segment_ranges<P: ProgramHeader<Endian = LittleEndian>>(segments: &[P]) -> (Vec<Load>, Ranges) {
    let (mut loads, mut notes) = (Vec::new(), Vec::new());
    let access = elf::PF_R | elf::PF_W | elf::PF_X;
    for segment in segments {
        let offset: u64 = segment.p_offset(LE).into();
        let filesz: u64 = segment.p_filesz(LE).into();
        if segment.p_type(LE) == elf::PT_NOTE && offset != 0 {
            notes.push((offset, filesz));
        } else if segment.p_type(LE) == elf::PT_LOAD && (segment.p_flags(LE) & access).0 != 0 {
            loads.push(Load {
                paddr: segment.p_paddr(LE).into(),
                memsz: segment.p_memsz(LE).into(),
                offset,
                filesz,
            });
        }
    }
    (loads, notes)
}

/// Where in the image the last segment ends.
fn loads_end(loads: &[Load], content: &Content) -> Result<u64, Cause> {
    let mut needed = 0;
    for load in loads.iter().filter(|load| load.filesz > 0) {
        let end = load.offset.checked_add(load.filesz);
        needed = needed.max(end.ok_or_else(|| bad("a segment ends beyond 2^64"))?);
    }
    if needed > content.limit() {
        return Err(Cause::TooLarge {
            what: "the kernel's end in its ELF image",
            size: needed,
            limit: content.limit(),
        });
    }
    match content.size() {
        Some(size) if size < needed => Err(truncated(needed, size)),
        _ => Ok(needed),
    }
}

/// Looks for the notes in SHT_NOTE sections, then for `__xen_guest`. Wants the
/// image up to its section table, which usually is its end; every kernel with a
/// PT_NOTE segment is spared that.
fn read_sections<E: FileHeader<Endian = LittleEndian>>(
    content: &mut Content,
    notes: &mut NoteReader,
) -> Result<(), Cause> {
    let header = E::parse(content.upto(HEADER as u64)?).map_err(object_error)?;
    let table = u64::from(header.e_shnum(LE)) * u64::from(header.e_shentsize(LE));
    let offset: u64 = header.e_shoff(LE).into();
    if offset == 0 {
        return Ok(());
    }
    let data = content.upto(offset.saturating_add(table))?;
    let header = E::parse(data).map_err(object_error)?;
    // Damaged section headers are the same as none: a kernel runs without.
    let Ok(sections) = header.sections(LE, data) else {
        return Ok(());
    };
    let range = |section: &E::SectionHeader| {
        clamped(
            data,
            section.sh_offset(LE).into(),
            section.sh_size(LE).into(),
        )
    };
    for section in sections.iter() {
        if section.sh_type(LE) == elf::SHT_NOTE {
            notes.read(range(section))?;
        }
    }
    let legacy = sections.section_by_name(LE, b"__xen_guest");
    if let (false, Some((_, section))) = (notes.found, legacy) {
        notes.read_legacy(range(section))?;
    }
    Ok(())
}

/// The part of a claimed range that exists.
fn clamped(data: &[u8], offset: u64, size: u64) -> &[u8] {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
    &data[place(offset)..place(offset.saturating_add(size))]
}

fn truncated(needed: u64, there: u64) -> Cause {
    Cause::BadElf(format!(
        "segments end at byte {needed}, the image has {there}"
    ))
}

fn bad(what: &str) -> Cause {
    Cause::BadElf(what.to_owned())
}

fn object_error(e: object::read::Error) -> Cause {
    Cause::BadElf(e.to_string())
}
