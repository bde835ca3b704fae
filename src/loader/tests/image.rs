//! Builds small kernel images for tests. Every part can be made to lie.

use xenner_xen_abi::elfnote::*;

/// Owner, name and descriptor padded as ELF notes are.
pub(super) fn note(kind: u32, desc: &[u8]) -> Vec<u8> {
    note_of(b"Xen\0", kind, desc)
}

pub(super) fn note_of(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [owner.len() as u32, desc.len() as u32, kind] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for part in [owner, desc] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

pub(super) fn long(kind: u32, value: u64) -> Vec<u8> {
    note(kind, &value.to_le_bytes())
}

/// What every PV kernel says.
pub(super) fn basic_notes() -> Vec<u8> {
    [
        note(XEN_ELFNOTE_LOADER, b"generic\0"),
        note(XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0"),
    ]
    .concat()
}

pub(super) const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

/// What Linux says.
pub(super) fn linux_notes() -> Vec<u8> {
    [
        note(XEN_ELFNOTE_GUEST_OS, b"linux\0"),
        note(XEN_ELFNOTE_GUEST_VERSION, b"2.6\0"),
        basic_notes(),
        long(XEN_ELFNOTE_VIRT_BASE, VIRT_BASE),
        long(XEN_ELFNOTE_PADDR_OFFSET, 0),
        long(XEN_ELFNOTE_ENTRY, VIRT_BASE + 0x10_0040),
        long(XEN_ELFNOTE_HYPERCALL_PAGE, VIRT_BASE + 0x10_1000),
        note(
            XEN_ELFNOTE_FEATURES,
            b"!writable_page_tables|pae_pgdir_above_4gb",
        ),
        note(XEN_ELFNOTE_SUPPORTED_FEATURES, &0x8801u32.to_le_bytes()),
        note(XEN_ELFNOTE_PAE_MODE, b"yes\0"),
        note(
            XEN_ELFNOTE_L1_MFN_VALID,
            &[1u64.to_le_bytes(), 1u64.to_le_bytes()].concat(),
        ),
        note(XEN_ELFNOTE_SUSPEND_CANCEL, &1u32.to_le_bytes()),
        long(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000),
        long(XEN_ELFNOTE_MOD_START_PFN, 1),
        long(XEN_ELFNOTE_HV_START_LOW, 0xffff_8000_0000_0000),
        long(XEN_ELFNOTE_PHYS32_ENTRY, 0x10_0000),
    ]
    .concat()
}

pub(super) struct TestLoad {
    pub(super) paddr: u64,
    pub(super) data: Vec<u8>,
    pub(super) memsz: u64,
    pub(super) flags: u32,
}

impl TestLoad {
    pub(super) fn new(paddr: u64, data: Vec<u8>, memsz: u64) -> Self {
        Self {
            paddr,
            data,
            memsz,
            flags: 7,
        }
    }
}

pub(super) struct TestElf {
    pub(super) bits64: bool,
    pub(super) machine: u16,
    pub(super) entry: u64,
    pub(super) loads: Vec<TestLoad>,
    /// In a PT_NOTE segment.
    pub(super) notes: Option<Vec<u8>>,
    /// Name, type and content of sections.
    pub(super) sections: Vec<(&'static str, u32, Vec<u8>)>,
}

/// Code with calls and jumps, so that the x86 filter has work.
pub(super) fn code(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| match i % 7 {
            0 => [0xe8, 0xe9][i / 7 % 2],
            4 => [0x00, 0xff][i / 49 % 2],
            _ => ((i * i) >> 3) as u8,
        })
        .collect()
}

impl TestElf {
    /// One segment of code at 1 MiB and one with bss, p_vaddr 0 everywhere.
    pub(super) fn new(notes: Vec<u8>) -> Self {
        Self {
            bits64: true,
            machine: 62,
            entry: 0x10_0000,
            loads: vec![
                TestLoad::new(0x10_0000, code(0x2345), 0x3000),
                TestLoad::new(0x10_4000, vec![0xa5; 0x100], 0x8000),
            ],
            notes: Some(notes),
            sections: Vec::new(),
        }
    }

    pub(super) fn new32(notes: Vec<u8>) -> Self {
        Self {
            bits64: false,
            machine: 3,
            ..Self::new(notes)
        }
    }

    fn word(&self, out: &mut Vec<u8>, value: u64) {
        let size = if self.bits64 { 8 } else { 4 };
        out.extend_from_slice(&value.to_le_bytes()[..size]);
    }

    /// Header, program headers, notes, segments, sections, section table.
    pub(super) fn build(&self) -> Vec<u8> {
        let (header, entry_size) = if self.bits64 { (64, 56) } else { (52, 32) };
        let count = self.loads.len() + usize::from(self.notes.is_some());
        let mut at = header + count * entry_size;
        let mut table = Vec::new();
        let mut body = Vec::new();
        if let Some(notes) = &self.notes {
            self.program_header(&mut table, 4, 4, at, 0, notes.len(), notes.len() as u64);
            body.extend_from_slice(notes);
            at += notes.len();
        }
        for load in &self.loads {
            let size = load.data.len();
            self.program_header(&mut table, 1, load.flags, at, load.paddr, size, load.memsz);
            body.extend_from_slice(&load.data);
            at += size;
        }
        let sections = self.sections(at);
        let shoff = if self.sections.is_empty() {
            0
        } else {
            at + sections.0.len()
        };
        let mut out = self.header(count, shoff);
        for part in [table, body, sections.0, sections.1] {
            out.extend_from_slice(&part);
        }
        out
    }

    fn header(&self, count: usize, shoff: usize) -> Vec<u8> {
        let (class, header, entry_size, section_size) = if self.bits64 {
            (2, 64, 56, 64)
        } else {
            (1, 52, 32, 40)
        };
        let mut out = vec![0x7f, b'E', b'L', b'F', class, 1, 1];
        out.resize(16, 0);
        out.extend_from_slice(&2u16.to_le_bytes());
        out.extend_from_slice(&self.machine.to_le_bytes());
        out.extend_from_slice(&1u32.to_le_bytes());
        self.word(&mut out, self.entry);
        self.word(&mut out, header);
        self.word(&mut out, shoff as u64);
        out.extend_from_slice(&[0; 4]);
        let sections = if shoff == 0 {
            0
        } else {
            self.sections.len() + 2
        };
        let strings = sections.saturating_sub(1);
        for half in [
            header as usize,
            entry_size,
            count,
            section_size,
            sections,
            strings,
        ] {
            out.extend_from_slice(&(half as u16).to_le_bytes());
        }
        out
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one header")]
    fn program_header(
        &self,
        out: &mut Vec<u8>,
        kind: u32,
        flags: u32,
        offset: usize,
        paddr: u64,
        filesz: usize,
        memsz: u64,
    ) {
        out.extend_from_slice(&kind.to_le_bytes());
        if self.bits64 {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        for value in [offset as u64, 0, paddr, filesz as u64, memsz] {
            self.word(out, value);
        }
        if self.bits64 {
            self.word(out, 0x1000);
        } else {
            out.extend_from_slice(&flags.to_le_bytes());
            self.word(out, 0x1000);
        }
    }

    /// Contents (with the name table last) and the section table.
    fn sections(&self, at: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut body, mut table, mut names) = (Vec::new(), Vec::new(), vec![0]);
        if self.sections.is_empty() {
            return (body, table);
        }
        self.section_header(&mut table, 0, 0, 0, 0);
        for (name, kind, data) in &self.sections {
            let place = at + body.len();
            self.section_header(&mut table, names.len(), *kind, place, data.len());
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            body.extend_from_slice(data);
        }
        self.section_header(&mut table, 0, 3, at + body.len(), names.len());
        body.extend_from_slice(&names);
        (body, table)
    }

    fn section_header(
        &self,
        out: &mut Vec<u8>,
        name: usize,
        kind: u32,
        offset: usize,
        size: usize,
    ) {
        out.extend_from_slice(&(name as u32).to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        for value in [0, 0, offset as u64, size as u64] {
            self.word(out, value);
        }
        out.extend_from_slice(&[0; 8]);
        self.word(out, 1);
        self.word(out, 0);
    }
}

/// A bzImage of protocol 2.15 around `payload`, at an odd place.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0xcc; 3 * 512 + 7];
    file[0x1f1] = 2;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&7u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(payload);
    file.extend_from_slice(b"checksum");
    file
}

/// The size that Linux appends to a stream.
pub(super) fn with_size(mut stream: Vec<u8>, size: usize) -> Vec<u8> {
    stream.extend_from_slice(&(size as u32).to_le_bytes());
    stream
}
