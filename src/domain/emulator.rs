//! Puts the emulator into the domain's memory: image, page tables, boot information.

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, elf};
use thiserror::Error;
use xenner_emu_abi::area::{AREA_SIZE, AREA_STUB};
use xenner_emu_abi::boot::{BootInfo, CpuidEntry};
use xenner_emu_abi::layout::{
    BOOT_INFO_VA, CPUID_TABLE_VA, DIRECT_SLOT, EMU_VA, FRAME_TABLE_VA, HOLE_FIRST_SLOT, IMAGE_MAX,
    IMAGE_VA, INFO_PAGES, M2P_SLOT, M2P_SLOT_ALT, PAGE_SIZE, TRAMPOLINE_VA, VCPU_AREA_VA,
    WINDOW_SIZE, WINDOW_VA, slot_va,
};
use xenner_emu_abi::pte::{self, A, D, NX, P, PSE, RW, US};
use zerocopy::IntoBytes;

use super::layout::MachineMap;
use crate::kvm::probe::Flavour;
use crate::memory::{HOLE_END, HOLE_START, LARGE_PAGE, Memory, MemoryError};

/// The image, built with the program.
static IMAGE: &[u8] = include_bytes!(env!("XENNER_EMU_IMAGE"));

/// Why the emulator cannot be placed.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// The image in the program is not what the build makes.
    #[error("The emulator's image in this program is damaged: {0}")]
    Image(&'static str),
    /// Memory that should be there is not.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// What was placed where.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Entry point, a virtual address.
    pub entry: u64,
    /// Machine address of an L4 that maps the emulator alone.
    pub idle_l4: u64,
    /// The emulator's entries for L4 slots 256-271.
    pub hole_l4: [u64; 16],
    /// Where guests find the M2P.
    pub m2p_va: u64,
}

const TABLE: u64 = P | RW | A | US;
const DATA: u64 = P | RW | A | D | NX;

/// Loads the image and builds the emulator's page tables.
///
/// # Errors
/// The image is damaged or does not fit.
pub fn place(m: &Memory, map: &MachineMap, flavour: Flavour) -> Result<Placed, EmulatorError> {
    let mut tables = Tables {
        m,
        next: map.tables,
        end: map.tables_end,
    };
    let idle_l4 = tables.page()?;
    let m2p_slot = if flavour.pvm { M2P_SLOT_ALT } else { M2P_SLOT };
    let entry = load_image(m, map)?;
    if flavour.pvm {
        // in large pages whatever the rights: each access is a walk of the tables
        let mut at = map.start;
        while at < map.m2p {
            tables.map_large(idle_l4, EMU_VA + (at - map.start), at | P | RW | A | D)?;
            at += LARGE_PAGE;
        }
    } else {
        map_by_rights(&mut tables, map, idle_l4)?;
    }
    map_windows(&mut tables, map, idle_l4)?;
    tables.map(idle_l4, TRAMPOLINE_VA, map.trampoline | P | US | A)?;
    // HLT raises #GP in ring 3, which is how ring 0 learns of a SYSCALL that stayed there; the
    // byte behind it tells it from a patched hypercall site
    m.write(map.trampoline, &[0xf4, 0x90])?;
    let mut at = map.m2p;
    while at < map.end {
        tables.map_large(
            idle_l4,
            slot_va(m2p_slot as u64) + (at - map.m2p),
            at | P | US | A | NX,
        )?;
        at += LARGE_PAGE;
    }
    map_machine(&mut tables, map, idle_l4)?;
    let mut hole_l4 = [0; 16];
    for (i, e) in hole_l4.iter_mut().enumerate() {
        *e = m.load(idle_l4 + (HOLE_FIRST_SLOT + i) as u64 * 8)?;
    }
    Ok(Placed {
        entry,
        idle_l4,
        hole_l4,
        m2p_va: slot_va(m2p_slot as u64),
    })
}

/// Maps machine memory at the direct map's place. A page may stand over nothing in part; the
/// emulator checks frames before it touches them.
fn map_machine(t: &mut Tables<'_>, map: &MachineMap, l4: u64) -> Result<(), EmulatorError> {
    let direct = slot_va(DIRECT_SLOT as u64);
    for (start, end) in [(0, map.ram_end), (map.start, map.end)] {
        for at in (start..end).step_by(LARGE_PAGE as usize) {
            if !(HOLE_START..HOLE_END).contains(&at) {
                t.map_large(l4, direct + at, at | DATA)?;
            }
        }
    }
    Ok(())
}

/// A loadable segment of the image.
struct ImageSegment {
    va: u64,
    /// Bytes in memory; what `data` does not fill is zero.
    len: u64,
    writable: bool,
    executable: bool,
    data: &'static [u8],
}

/// The image's entry point and segments.
fn segments() -> Result<(u64, Vec<ImageSegment>), EmulatorError> {
    let file =
        ElfFile64::<LittleEndian>::parse(IMAGE).map_err(|_| EmulatorError::Image("not ELF"))?;
    let endian = LittleEndian;
    let mut list = Vec::new();
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let va = segment.p_vaddr(endian);
        let len = segment.p_memsz(endian);
        if va < IMAGE_VA || va % PAGE_SIZE != 0 || va + len > IMAGE_VA + IMAGE_MAX {
            return Err(EmulatorError::Image("a segment outside of its place"));
        }
        let data = segment
            .data(endian, IMAGE)
            .map_err(|()| EmulatorError::Image("a truncated segment"))?;
        let flags = segment.p_flags(endian).0;
        list.push(ImageSegment {
            va,
            len,
            writable: flags & elf::PF_W.0 != 0,
            executable: flags & elf::PF_X.0 != 0,
            data,
        });
    }
    Ok((file.elf_header().e_entry(endian), list))
}

/// Copies the image; returns the entry point.
fn load_image(m: &Memory, map: &MachineMap) -> Result<u64, EmulatorError> {
    let (entry, list) = segments()?;
    for segment in list {
        m.write(map.image + (segment.va - IMAGE_VA), segment.data)?;
    }
    Ok(entry)
}

/// Maps image, information, areas and frame table with no more rights than each needs.
fn map_by_rights(t: &mut Tables<'_>, map: &MachineMap, l4: u64) -> Result<(), EmulatorError> {
    for segment in segments()?.1 {
        let mut bits = P | A | D;
        if segment.writable {
            bits |= RW;
        }
        if !segment.executable {
            bits |= NX;
        }
        for page in 0..segment.len.div_ceil(PAGE_SIZE) {
            let va = segment.va + page * PAGE_SIZE;
            t.map(l4, va, (map.image + (va - IMAGE_VA)) | bits)?;
        }
    }
    for page in 0..INFO_PAGES {
        t.map(
            l4,
            BOOT_INFO_VA + page * PAGE_SIZE,
            (map.info + page * PAGE_SIZE) | P | A | D | NX,
        )?;
    }
    for page in 0..map.vcpus * (AREA_SIZE / PAGE_SIZE) {
        let stub = page % (AREA_SIZE / PAGE_SIZE) == AREA_STUB / PAGE_SIZE;
        let bits = if stub { P | RW | A | D } else { DATA };
        t.map(
            l4,
            VCPU_AREA_VA + page * PAGE_SIZE,
            (map.areas + page * PAGE_SIZE) | bits,
        )?;
    }
    let mut at = map.frame_table;
    while at < map.m2p {
        t.map_large(l4, FRAME_TABLE_VA + (at - map.frame_table), at | DATA)?;
        at += LARGE_PAGE;
    }
    Ok(())
}

/// The descriptor windows: empty pages, and the emulator's descriptors in page 14 of the GDT.
fn map_windows(t: &mut Tables<'_>, map: &MachineMap, l4: u64) -> Result<(), EmulatorError> {
    for slot in 0..map.vcpus * (WINDOW_SIZE / PAGE_SIZE) {
        let (vcpu, page) = (
            slot / (WINDOW_SIZE / PAGE_SIZE),
            slot % (WINDOW_SIZE / PAGE_SIZE),
        );
        let entry = if page == 14 {
            (map.areas + vcpu * AREA_SIZE) | DATA
        } else {
            map.zero | P | A | NX
        };
        t.m.store(map.windows + slot * 8, entry)?;
    }
    for table in 0..map.vcpus.div_ceil(super::layout::WINDOWS_PER_TABLE) {
        let va = WINDOW_VA + table * LARGE_PAGE;
        let l2 = t.table_for(l4, va, 2)?;
        let entry = (map.windows + table * PAGE_SIZE) | P | RW | A;
        t.m.store(l2 + pte::index(va, 2) as u64 * 8, entry)?;
    }
    Ok(())
}

/// Writes the boot information and the CPUID table.
///
/// # Errors
/// The pages are not memory.
pub fn write_info(
    m: &Memory,
    map: &MachineMap,
    info: &BootInfo,
    cpuid: &[CpuidEntry],
) -> Result<(), MemoryError> {
    m.write(map.info, info.as_bytes())?;
    m.write(map.info + (CPUID_TABLE_VA - BOOT_INFO_VA), cpuid.as_bytes())
}

/// Page tables under construction, from a range of frames.
struct Tables<'a> {
    m: &'a Memory,
    next: u64,
    end: u64,
}

impl Tables<'_> {
    fn page(&mut self) -> Result<u64, EmulatorError> {
        if self.next >= self.end {
            return Err(EmulatorError::Image("too few frames for its page tables"));
        }
        let at = self.next;
        self.next += PAGE_SIZE;
        Ok(at)
    }

    /// The table of `level` that covers `va`, made if it is not there.
    fn table_for(&mut self, l4: u64, va: u64, level: u32) -> Result<u64, EmulatorError> {
        let mut table = l4;
        for l in (level + 1..=4).rev() {
            let at = table + pte::index(va, l) as u64 * 8;
            let e = self.m.load(at)?;
            table = if e & P != 0 {
                e & pte::ADDR
            } else {
                let new = self.page()?;
                self.m.store(at, new | TABLE)?;
                new
            };
        }
        Ok(table)
    }

    fn map(&mut self, l4: u64, va: u64, entry: u64) -> Result<(), EmulatorError> {
        let l1 = self.table_for(l4, va, 1)?;
        Ok(self.m.store(l1 + pte::index(va, 1) as u64 * 8, entry)?)
    }

    fn map_large(&mut self, l4: u64, va: u64, entry: u64) -> Result<(), EmulatorError> {
        let l2 = self.table_for(l4, va, 2)?;
        Ok(self
            .m
            .store(l2 + pte::index(va, 2) as u64 * 8, entry | PSE)?)
    }
}
