//! The domain builder: a PV kernel's initial memory, as Xen's tools make it
//! (`xen/include/public/xen.h`, "Start-of-day memory layout").

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;
use xenner_emu_abi::frame::{COUNT_ONE, NOT_OWNED, PINNED};
use xenner_emu_abi::layout::{HOLE_FIRST_SLOT, PAGE_SIZE};
use xenner_emu_abi::pte::{self, A, D, P, RW, US};
use xenner_xen_abi::arch_x86_64::{INVALID_M2P_ENTRY, SHARED_M2P_ENTRY};
use xenner_xen_abi::xen::{SIF_MOD_START_PFN, SIF_VIRT_P2M_4TOOLS};

use super::layout::MachineMap;
use crate::kvm::probe::Flavour;
use crate::loader::{KernelImage, WordSize};
use crate::memory::{HOLE_END, HOLE_START, LARGE_PAGE, Memory, MemoryError, pfn_to_mfn};

#[cfg(test)]
mod tests;

/// Event channel port of the xenstore ring.
pub const STORE_PORT: u32 = 1;
/// Event channel port of the console ring.
pub const CONSOLE_PORT: u32 = 2;
/// Mapped pages behind everything else, which guests count on.
const SLACK: u64 = 512 << 10;
/// The mapping ends at a multiple of this.
const MAPPING_UNIT: u64 = 4 << 20;
const GRANT_PERMIT_ACCESS: u64 = 1;

/// Why a domain cannot be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The initrd cannot be read.
    #[error("-initrd: {path}: Cannot be read")]
    Initrd {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The domain has too little memory.
    #[error("-m: {have} MiB is too little: this kernel and initrd need at least {need} MiB")]
    TooSmall {
        /// MiB given.
        have: u64,
        /// MiB wanted.
        need: u64,
    },
    /// The kernel is for 32-bit domains.
    #[error("-kernel: This is a 32-bit PV kernel; this version runs 64-bit PV kernels only")]
    WordSize,
    /// The kernel asks for an address space that cannot be.
    #[error(
        "-kernel: The kernel's notes ask for an initial mapping that meets the hypervisor's addresses"
    )]
    Layout,
    /// The kernel asks for its P2M in a place that is not free.
    #[error("-kernel: The kernel's note INIT_P2M asks for addresses that are not free: {va:#x}")]
    InitP2m {
        /// The note's value.
        va: u64,
    },
    /// Memory that should be there is not.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// What the rest of the VMM needs of a built domain.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// Entry point.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Virtual address of start_info.
    pub start_info: u64,
    /// Frame of the L4.
    pub l4: u64,
    /// Frame of the xenstore page.
    pub store_mfn: u64,
    /// Frame of the console page.
    pub console_mfn: u64,
}

/// What is to be built.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage,
    /// The initrd.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// How KVM behaves: which hypercall stubs the guest gets.
    pub flavour: Flavour,
}

/// Page numbers of everything in the domain's memory.
#[derive(Debug)]
struct Pages {
    base: u64,
    initrd: u64,
    initrd_len: u64,
    initrd_mapped: bool,
    p2m: u64,
    p2m_pages: u64,
    /// Where the P2M is mapped if it is outside the main mapping.
    p2m_va: Option<u64>,
    p2m_tables: u64,
    p2m_table_pages: u64,
    start_info: u64,
    store: u64,
    console: u64,
    tables: u64,
    table_pages: u64,
    stack: u64,
    /// Pages of the main mapping.
    mapped: u64,
    /// First page behind all.
    end: u64,
}

/// Pages of L1, L2 and L3 tables for a range of addresses.
fn tables_for(start: u64, end: u64) -> [u64; 3] {
    [21u32, 30, 39].map(|shift| ((end - 1) >> shift) - (start >> shift) + 1)
}

impl Pages {
    fn lay_out(plan: &Plan<'_>, pages: u64, initrd_len: u64) -> Result<Self, BuildError> {
        const MIB: u64 = (1 << 20) / PAGE_SIZE;
        let placed = Self::place(plan, pages, initrd_len)?;
        if placed.end <= pages {
            return Ok(placed);
        }
        let (have, mut need) = (pages / MIB, placed.end.div_ceil(MIB));
        // more memory has a larger P2M, which needs more memory
        loop {
            let end = Self::place(plan, need * MIB, initrd_len)?.end;
            if end <= need * MIB {
                return Err(BuildError::TooSmall { have, need });
            }
            need = end.div_ceil(MIB);
        }
    }

    /// The layout for this many pages, whether they hold it or not.
    fn place(plan: &Plan<'_>, pages: u64, initrd_len: u64) -> Result<Self, BuildError> {
        let notes = &plan.kernel.notes;
        let base = notes.virt_base;
        let kernel_end = (plan.kernel.virt_kend() - base).div_ceil(PAGE_SIZE);
        let mut next = kernel_end;
        let mut take = |n: u64| {
            let at = next;
            next += n;
            at
        };
        let initrd_pages = initrd_len.div_ceil(PAGE_SIZE);
        let initrd_mapped = !notes.mod_start_pfn;
        let mut initrd = if initrd_mapped { take(initrd_pages) } else { 0 };
        let p2m_pages = (pages * 8).div_ceil(PAGE_SIZE);
        let p2m_va = notes
            .init_p2m
            .filter(|va| *va < base && va % PAGE_SIZE == 0);
        let mut p2m = if p2m_va.is_none() { take(p2m_pages) } else { 0 };
        let start_info = take(1);
        let store = take(1);
        let console = take(1);
        let tables = take(0);
        let (table_pages, mapped) = Self::main_tables(base, tables)?;
        take(table_pages);
        let stack = take(1);
        let mut end = mapped;
        if !initrd_mapped {
            initrd = end;
            end += initrd_pages;
        }
        let (mut p2m_tables, mut p2m_table_pages) = (0, 0);
        if let Some(va) = p2m_va {
            let top = va
                .checked_add(p2m_pages * PAGE_SIZE)
                .filter(|top| *top <= base && !crosses_hole(va, *top - 1))
                .ok_or(BuildError::InitP2m { va })?;
            p2m = end;
            p2m_tables = p2m + p2m_pages;
            p2m_table_pages = tables_for(va, top).iter().sum();
            end = p2m_tables + p2m_table_pages;
        }
        Ok(Self {
            base,
            initrd,
            initrd_len,
            initrd_mapped,
            p2m,
            p2m_pages,
            p2m_va,
            p2m_tables,
            p2m_table_pages,
            start_info,
            store,
            console,
            tables,
            table_pages,
            stack,
            mapped,
            end,
        })
    }

    /// How many tables map everything up to and with themselves, the stack and the slack, and
    /// how many pages that is.
    fn main_tables(base: u64, before: u64) -> Result<(u64, u64), BuildError> {
        let mut count = 4;
        loop {
            let top = (before + count + 1)
                .checked_mul(PAGE_SIZE)
                .and_then(|bytes| bytes.checked_add(SLACK))
                .and_then(|bytes| base.checked_add(bytes))
                .and_then(|t| t.checked_next_multiple_of(MAPPING_UNIT).or(Some(0)))
                .ok_or(BuildError::Layout)?;
            // a mapping may end with the address space
            let last = top.wrapping_sub(1);
            if base > last {
                return Err(BuildError::Layout);
            }
            if crosses_hole(base, last) {
                return Err(BuildError::Layout);
            }
            let need = 1 + [21u32, 30, 39]
                .iter()
                .map(|shift| (last >> shift) - (base >> shift) + 1)
                .sum::<u64>();
            if need <= count {
                return Ok((count, (last - base) / PAGE_SIZE + 1));
            }
            count = need;
        }
    }

    fn va(&self, page: u64) -> u64 {
        self.base.wrapping_add(page * PAGE_SIZE)
    }
}

fn crosses_hole(first: u64, last: u64) -> bool {
    use xenner_emu_abi::layout::{HOLE_END, HOLE_START};
    const LOW_END: u64 = 1 << 47;
    first < HOLE_END && last >= HOLE_START || first < HOLE_START && last >= LOW_END
}

/// Builds the domain in memory.
///
/// # Errors
/// The initrd cannot be read, or the domain is too small.
pub fn build(
    m: &Memory,
    map: &MachineMap,
    plan: &Plan<'_>,
    hole_l4: &[u64; 16],
) -> Result<Built, BuildError> {
    if plan.kernel.word != WordSize::Bits64 {
        return Err(BuildError::WordSize);
    }
    let initrd = plan.initrd.map(Initrd::open).transpose()?;
    let pages = Pages::lay_out(plan, map.pages, initrd.as_ref().map_or(0, |i| i.len))?;
    copy_kernel(m, plan)?;
    if let Some(initrd) = initrd {
        initrd.copy(m, pages.initrd)?;
    }
    write_p2m(m, &pages, map.pages)?;
    write_m2p(m, map)?;
    let l4 = write_tables(m, map, &pages, hole_l4)?;
    write_frame_table_hole(m, map)?;
    hold_rings(m, map, &pages)?;
    write_start_info(m, map, &pages, plan)?;
    seed_grants(m, map, &pages)?;
    Ok(Built {
        rip: plan.kernel.entry,
        rsp: pages.va(pages.stack + 1),
        start_info: pages.va(pages.start_info),
        l4,
        store_mfn: pfn_to_mfn(pages.store),
        console_mfn: pfn_to_mfn(pages.console),
    })
}

/// Writes a run of pseudo-physical memory, which may cross the hole.
fn write_pfns(m: &Memory, mut pseudo: u64, mut data: &[u8]) -> Result<(), MemoryError> {
    while !data.is_empty() {
        let limit = if pseudo < HOLE_START {
            HOLE_START - pseudo
        } else {
            u64::MAX
        };
        let n = limit.min(data.len() as u64) as usize;
        let ma = pfn_to_mfn(pseudo / PAGE_SIZE) * PAGE_SIZE + pseudo % PAGE_SIZE;
        m.write(ma, &data[..n])?;
        data = &data[n..];
        pseudo += n as u64;
    }
    Ok(())
}

fn copy_kernel(m: &Memory, plan: &Plan<'_>) -> Result<(), BuildError> {
    let kernel = plan.kernel;
    for segment in &kernel.segments {
        // the rest of a segment is zero, as fresh memory is
        write_pfns(m, kernel.pseudo_phys(segment), kernel.segment_data(segment))?;
    }
    if let Some(pfn) = kernel.notes.hypercall_page.and_then(|va| kernel.pfn_of(va)) {
        write_pfns(m, pfn * PAGE_SIZE, &hypercall_page(plan.flavour))?;
    }
    Ok(())
}

/// The hypercall page: 128 stubs of 32 bytes. Where SYSCALL stays in ring 3 they trap with HLT
/// instead, which the emulator knows by the byte behind it.
fn hypercall_page(flavour: Flavour) -> Vec<u8> {
    const IRET: u32 = 23;
    let call = if flavour.pvm {
        [0xf4, 0x05]
    } else {
        [0x0f, 0x05]
    };
    let mut page = Vec::with_capacity(PAGE_SIZE as usize);
    for n in 0..128u32 {
        let mut stub = vec![0x51, 0x41, 0x53]; // push rcx; push r11
        if n == IRET {
            stub.push(0x50); // push rax
        }
        stub.push(0xb8); // mov eax, n
        stub.extend(n.to_le_bytes());
        stub.extend(call);
        if n != IRET {
            stub.extend([0x41, 0x5b, 0x59, 0xc3]); // pop r11; pop rcx; ret
        }
        stub.resize(32, 0xcc);
        page.extend(stub);
    }
    page
}

struct Initrd {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Initrd {
    fn open(path: &Path) -> Result<Self, BuildError> {
        let fail = |source| BuildError::Initrd {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            let e = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(fail(e));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            len: meta.len(),
        })
    }

    fn copy(self, m: &Memory, page: u64) -> Result<(), BuildError> {
        let fail = |source| BuildError::Initrd {
            path: self.path.clone(),
            source,
        };
        let mut buf = vec![0; 1 << 20];
        let mut done = 0;
        let mut file = &self.file;
        while done < self.len {
            let want = (self.len - done).min(buf.len() as u64) as usize;
            let n = file.read(&mut buf[..want]).map_err(fail)?;
            if n == 0 {
                let e = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it shrank");
                return Err(fail(e));
            }
            write_pfns(m, page * PAGE_SIZE + done, &buf[..n])?;
            done += n as u64;
        }
        Ok(())
    }
}

/// Writes consecutive 8-byte values, computed by index, in chunks.
fn write_words(
    mut sink: impl FnMut(u64, &[u8]) -> Result<(), MemoryError>,
    count: u64,
    value: impl Fn(u64) -> u64,
) -> Result<(), MemoryError> {
    const CHUNK: u64 = 1 << 15;
    let mut at = 0;
    let mut buf = Vec::with_capacity(CHUNK as usize * 8);
    while at < count {
        buf.clear();
        let n = CHUNK.min(count - at);
        (at..at + n).for_each(|i| buf.extend(value(i).to_le_bytes()));
        sink(at * 8, &buf)?;
        at += n;
    }
    Ok(())
}

fn write_p2m(m: &Memory, pages: &Pages, count: u64) -> Result<(), MemoryError> {
    let base = pages.p2m * PAGE_SIZE;
    let padded = pages.p2m_pages * 512;
    let value = |pfn| {
        if pfn < count {
            pfn_to_mfn(pfn)
        } else {
            u64::MAX
        }
    };
    write_words(
        |offset, data| write_pfns(m, base + offset, data),
        padded,
        value,
    )
}

fn write_m2p(m: &Memory, map: &MachineMap) -> Result<(), MemoryError> {
    let (hole_start, hole_end) = (HOLE_START / PAGE_SIZE, HOLE_END / PAGE_SIZE);
    let ram_end = map.ram_end / PAGE_SIZE;
    let (shared, shared_end) = (map.shared_info / PAGE_SIZE, map.shared_end / PAGE_SIZE);
    let value = |mfn| match mfn {
        _ if mfn < ram_end.min(hole_start) => mfn,
        _ if mfn >= hole_end && mfn < ram_end => mfn - (hole_end - hole_start),
        _ if mfn >= shared && mfn < shared_end => SHARED_M2P_ENTRY,
        _ => INVALID_M2P_ENTRY,
    };
    write_words(
        |offset, data| m.write(map.m2p + offset, data),
        map.m2p_entries,
        value,
    )
}

/// Counts the process' own use of the rings' frames: it writes there at any time, so that they must
/// not become page tables, whatever the guest unmaps.
fn hold_rings(m: &Memory, map: &MachineMap, pages: &Pages) -> Result<(), MemoryError> {
    for page in [pages.store, pages.console] {
        let record = map.frame_table + pfn_to_mfn(page) * 4;
        m.store_u32(record, m.load_u32(record)? + COUNT_ONE)?;
    }
    Ok(())
}

/// Records in the frame table that the frames of the hole are not the domain's.
fn write_frame_table_hole(m: &Memory, map: &MachineMap) -> Result<(), MemoryError> {
    if map.ram_end <= HOLE_START {
        return Ok(());
    }
    let records = ((HOLE_END - HOLE_START) / PAGE_SIZE) as usize;
    let data = NOT_OWNED.to_le_bytes().repeat(records);
    m.write(map.frame_table + HOLE_START / PAGE_SIZE * 4, &data)
}

/// The tables under construction and what the frame table is to say of them.
struct TableWriter<'a> {
    m: &'a Memory,
    map: &'a MachineMap,
    next: u64,
    end: u64,
}

impl TableWriter<'_> {
    /// A new table of `level`.
    fn table(&mut self, level: u32) -> Result<u64, BuildError> {
        if self.next >= self.end {
            return Err(BuildError::Layout);
        }
        let mfn = pfn_to_mfn(self.next);
        self.next += 1;
        self.m
            .store_u32(self.map.frame_table + mfn * 4, level + COUNT_ONE)?;
        Ok(mfn)
    }

    /// The L1 table that maps `va`, made with what leads to it.
    fn l1_for(&mut self, l4: u64, va: u64) -> Result<u64, BuildError> {
        let mut table = l4;
        for level in (2..=4).rev() {
            let at = table * PAGE_SIZE + pte::index(va, level) as u64 * 8;
            let e = self.m.load(at)?;
            table = if e & P != 0 {
                pte::mfn(e)
            } else {
                let new = self.table(level - 1)?;
                self.m.store(at, (new * PAGE_SIZE) | P | RW | A | D | US)?;
                new
            };
        }
        Ok(table)
    }

    /// Maps `count` consecutive pages from `pfn` at `va`; `read_only` says which.
    fn map(
        &mut self,
        l4: u64,
        va: u64,
        pfn: u64,
        count: u64,
        read_only: impl Fn(u64) -> bool,
    ) -> Result<(), BuildError> {
        let mut i = 0;
        while i < count {
            let at = va.wrapping_add(i * PAGE_SIZE);
            let l1 = self.l1_for(l4, at)?;
            let first = pte::index(at, 1) as u64;
            let n = (512 - first).min(count - i);
            let entry = |k: u64| {
                let page = pfn + i + k;
                let rw = if read_only(page) { 0 } else { RW };
                (pfn_to_mfn(page) * PAGE_SIZE) | P | A | US | rw
            };
            let target = l1 * PAGE_SIZE + first * 8;
            write_words(|offset, data| self.m.write(target + offset, data), n, entry)?;
            i += n;
        }
        Ok(())
    }
}

/// Writes the page tables and their types; returns the frame of the L4.
fn write_tables(
    m: &Memory,
    map: &MachineMap,
    p: &Pages,
    hole: &[u64; 16],
) -> Result<u64, BuildError> {
    let tables = p.tables..p.tables + p.table_pages;
    let mut w = TableWriter {
        m,
        map,
        next: tables.start,
        end: tables.end,
    };
    // each page of the mapping has one writable mapping, but for the tables
    let record = |page| {
        if tables.contains(&page) {
            0
        } else {
            u64::from(COUNT_ONE)
        }
    };
    count_mappings(m, map, 0, p.mapped, record)?;
    let l4 = w.table(4)?;
    w.map(l4, p.base, 0, p.mapped, |page| tables.contains(&page))?;
    if let Some(va) = p.p2m_va {
        count_mappings(m, map, p.p2m, p.p2m_pages, |_| u64::from(COUNT_ONE))?;
        w.next = p.p2m_tables;
        w.end = p.p2m_tables + p.p2m_table_pages;
        w.map(l4, va, p.p2m, p.p2m_pages, |_| false)?;
    }
    // pinned, and in use by the first vcpu
    m.store_u32(map.frame_table + l4 * 4, (4 + 2 * COUNT_ONE) | PINNED)?;
    for (i, e) in hole.iter().enumerate() {
        m.store(l4 * PAGE_SIZE + (HOLE_FIRST_SLOT + i) as u64 * 8, *e)?;
    }
    Ok(l4)
}

/// Writes the frame table's records of a run of pages.
fn count_mappings(
    m: &Memory,
    map: &MachineMap,
    first: u64,
    count: u64,
    record: impl Fn(u64) -> u64,
) -> Result<(), MemoryError> {
    let hole = HOLE_START / PAGE_SIZE;
    let below = hole.saturating_sub(first).min(count);
    for (start, n) in [(first, below), (first + below, count - below)] {
        let data: Vec<u8> = (start..start + n)
            .flat_map(|page| (record(page) as u32).to_le_bytes())
            .collect();
        m.write(map.frame_table + pfn_to_mfn(start) * 4, &data)?;
    }
    Ok(())
}

fn write_start_info(
    m: &Memory,
    map: &MachineMap,
    p: &Pages,
    plan: &Plan<'_>,
) -> Result<(), BuildError> {
    let at = pfn_to_mfn(p.start_info) * PAGE_SIZE;
    let mut flags = 0;
    let (mod_start, mod_len) = match (p.initrd_len, p.initrd_mapped) {
        (0, _) => (0, 0),
        (len, true) => (p.va(p.initrd), len),
        (len, false) => {
            flags |= SIF_MOD_START_PFN;
            (p.initrd, len)
        }
    };
    if p.p2m_va.is_some() {
        flags |= SIF_VIRT_P2M_4TOOLS;
    }
    m.write(at, b"xen-3.0-x86_64\0")?;
    m.store(at + 32, map.pages)?;
    m.store(at + 40, map.shared_info)?;
    m.store_u32(at + 48, flags)?;
    m.store(at + 56, pfn_to_mfn(p.store))?;
    m.store_u32(at + 64, STORE_PORT)?;
    m.store(at + 72, pfn_to_mfn(p.console))?;
    m.store_u32(at + 80, CONSOLE_PORT)?;
    m.store(at + 88, p.va(p.tables))?;
    m.store(at + 96, p.table_pages)?;
    m.store(at + 104, p.p2m_va.unwrap_or_else(|| p.va(p.p2m)))?;
    m.store(at + 112, mod_start)?;
    m.store(at + 120, mod_len)?;
    // validated: shorter than the field
    let line = plan.command_line.as_bytes();
    m.write(at + 128, &line[..line.len().min(1023)])?;
    if p.p2m_va.is_some() {
        m.store(at + 1152, p.p2m)?;
        m.store(at + 1160, p.p2m_pages + p.p2m_table_pages)?;
    }
    debug_assert!(p.end <= map.pages);
    Ok(())
}

/// Grants 0 and 1: the console and xenstore pages, for domain 0 (version 1 entries).
fn seed_grants(m: &Memory, map: &MachineMap, p: &Pages) -> Result<(), MemoryError> {
    m.store(
        map.grant_frames,
        GRANT_PERMIT_ACCESS | pfn_to_mfn(p.console) << 32,
    )?;
    m.store(
        map.grant_frames + 8,
        GRANT_PERMIT_ACCESS | pfn_to_mfn(p.store) << 32,
    )
}

const _: () = assert!(LARGE_PAGE == 1 << 21);
