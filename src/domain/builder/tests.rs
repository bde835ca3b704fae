//! Chapter by chapter of Xen's start-of-day layout (`xen/include/public/xen.h`), on kernels of a
//! few bytes.

use std::io::Write;
use std::os::unix::fs::FileExt;

use tempfile::NamedTempFile;
use xenner_emu_abi::frame::{self, TYPE_L1, TYPE_L4, TYPE_NONE};
use xenner_emu_abi::layout::HOLE_END_SLOT;
use xenner_xen_abi::elfnote::{
    XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_LOADER,
    XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_XEN_VERSION,
};

use super::*;
use crate::loader;

const LINUX_BASE: u64 = 0xffff_ffff_8000_0000;
const LINUX_P2M: u64 = 0x80_0000_0000;
const HARDWARE: Flavour = Flavour { pvm: false };

/// A kernel of one segment: `data` at `paddr`, zeroes up to `memsz`, its first byte the entry.
fn kernel(notes: &[(u32, &[u8])], paddr: u64, data: &[u8], memsz: u64) -> KernelImage {
    let base = notes.iter().find(|n| n.0 == XEN_ELFNOTE_VIRT_BASE);
    let base = base.map_or(0, |n| u64::from_le_bytes(n.1.try_into().unwrap()));
    let always: [(u32, &[u8]); 2] = [
        (XEN_ELFNOTE_LOADER, b"generic\0"),
        (XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0"),
    ];
    let mut note_bytes = Vec::new();
    for (kind, desc) in always.iter().chain(notes) {
        note_bytes.extend([4, desc.len() as u32, *kind].map(u32::to_le_bytes).concat());
        note_bytes.extend(b"Xen\0");
        note_bytes.extend(*desc);
    }
    let header = |kind: u32, offset: u64, paddr: u64, filesz: u64, memsz: u64| {
        let words = [offset, 0, paddr, filesz, memsz, 0x1000];
        [
            [kind, 7].map(u32::to_le_bytes).concat(),
            words.map(u64::to_le_bytes).concat(),
        ]
        .concat()
    };
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&base.wrapping_add(paddr).to_le_bytes());
    file[32] = 64;
    file[52..58].copy_from_slice(&[64, 0, 56, 0, 2, 0]);
    let (notes_at, notes_len) = (64 + 2 * 56, note_bytes.len() as u64);
    file.extend(header(4, notes_at, 0, notes_len, notes_len));
    let len = data.len() as u64;
    file.extend(header(1, notes_at + notes_len, paddr, len, memsz));
    file.extend(note_bytes);
    file.extend(data);
    loader::parse(file, "test").unwrap()
}

/// What Linux asks for: upper half, P2M apart, initrd unmapped.
fn linux() -> KernelImage {
    let notes: &[(u32, &[u8])] = &[
        (XEN_ELFNOTE_VIRT_BASE, &LINUX_BASE.to_le_bytes()),
        (XEN_ELFNOTE_INIT_P2M, &LINUX_P2M.to_le_bytes()),
        (XEN_ELFNOTE_MOD_START_PFN, &1u64.to_le_bytes()),
        (
            XEN_ELFNOTE_HYPERCALL_PAGE,
            &(LINUX_BASE + 0x10_1000).to_le_bytes(),
        ),
    ];
    kernel(notes, 0x10_0000, &[0xb5; 0x2345], 0x5000)
}

/// What Mini-OS asks for: nothing, everything in one mapping from 0.
fn minios() -> KernelImage {
    kernel(&[], 0x10_0000, &[0xb5; 0x2345], 0x5000)
}

#[derive(Debug)]
struct Made {
    m: Memory,
    map: MachineMap,
    built: Built,
}

fn hole_l4() -> [u64; 16] {
    std::array::from_fn(|i| 0xabc_0003 + ((i as u64) << 12))
}

fn make(kernel: &KernelImage, pages: u64, initrd: Option<&Path>) -> Result<Made, BuildError> {
    let map = MachineMap::new(pages, 2);
    let m = Memory::new(pages, map.start, map.extra())?;
    let plan = Plan {
        kernel,
        initrd,
        command_line: "console=hvc0 quiet",
        flavour: HARDWARE,
    };
    let built = build(&m, &map, &plan, &hole_l4())?;
    Ok(Made { m, map, built })
}

fn initrd_of(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// An initrd of zeroes that takes no place on disk.
fn sparse_initrd(len: u64) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

/// start_info as the guest reads it.
struct StartInfo(Vec<u8>);

impl StartInfo {
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

impl Made {
    /// The entry that maps `va`; checks the tables on the way.
    fn entry(&self, va: u64) -> Option<u64> {
        let mut table = self.built.l4;
        for level in (2..=4).rev() {
            let at = table * PAGE_SIZE + pte::index(va, level) as u64 * 8;
            let e = self.m.load(at).unwrap();
            if e == 0 {
                return None;
            }
            assert_eq!(e & !pte::ADDR, P | RW | A | D | US, "level {level}");
            table = pte::mfn(e);
            assert_eq!(frame::kind(self.record(table)), level - 1);
        }
        let at = table * PAGE_SIZE + pte::index(va, 1) as u64 * 8;
        Some(self.m.load(at).unwrap()).filter(|e| *e != 0)
    }

    fn record(&self, mfn: u64) -> u32 {
        self.m.load_u32(self.map.frame_table + mfn * 4).unwrap()
    }

    fn read(&self, mfn: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.m.read(mfn * PAGE_SIZE, &mut bytes).unwrap();
        bytes
    }

    fn words(&self, ma: u64, count: u64) -> Vec<u64> {
        let mut bytes = vec![0; count as usize * 8];
        self.m.read(ma, &mut bytes).unwrap();
        let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
        bytes.chunks(8).map(word).collect()
    }

    fn start_info(&self) -> StartInfo {
        let e = self.entry(self.built.start_info).unwrap();
        StartInfo(self.read(pte::mfn(e), 4096))
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

#[test]
fn table_counts() {
    assert_eq!(tables_for(0, 1 << 21), [1, 1, 1]);
    assert_eq!(
        tables_for(0x8000000000, 0x8000000000 + (3 << 21)),
        [3, 1, 1]
    );
    let (count, mapped) = Pages::main_tables(LINUX_BASE, 0x5000).unwrap();
    assert_eq!(mapped % 1024, 0);
    assert_eq!(count, 3 + mapped / 512);
    assert!(Pages::main_tables(0xffff_8000_0000_0000, 16).is_err());
}

#[test]
fn hypercall_stubs_are_xens() {
    let page = hypercall_page(HARDWARE);
    assert_eq!(page.len(), 4096);
    assert_eq!(
        &page[32..46],
        [
            0x51, 0x41, 0x53, 0xb8, 1, 0, 0, 0, 0x0f, 5, 0x41, 0x5b, 0x59, 0xc3
        ]
    );
    assert_eq!(
        &page[23 * 32..23 * 32 + 11],
        [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 5]
    );
    let trapping = hypercall_page(Flavour { pvm: true });
    assert_eq!(trapping[40..42], [0xf4, 5]);
}

#[test]
fn a_kernel_like_linux() {
    let content: Vec<u8> = (0..10_000u32).map(|i| i as u8 | 1).collect();
    let initrd = initrd_of(&content);
    let made = make(&linux(), 64 << 8, Some(initrd.path())).unwrap();
    let info = made.start_info();
    let va = |pfn: u64| LINUX_BASE + pfn * PAGE_SIZE;
    // kernel to 0x105; start_info, xenstore, console, tables, stack
    assert_eq!(made.built.rip, va(0x100));
    assert_eq!(made.built.start_info, va(0x105));
    assert_eq!(
        (made.built.store_mfn, made.built.console_mfn),
        (0x106, 0x107)
    );
    assert_eq!(made.built.l4, 0x108);
    // up to 4 MiB: L4, L3, L2 and two L1s, the stack behind them
    assert_eq!(made.built.rsp, va(0x108 + 5 + 1));
    assert_eq!(&info.0[..15], b"xen-3.0-x86_64\0");
    let fields = [32, 40, 56, 72, 88, 96].map(|at| info.u64(at));
    let expected = [64 << 8, made.map.shared_info, 0x106, 0x107, va(0x108), 5];
    assert_eq!(fields, expected);
    assert_eq!([64, 80].map(|at| info.u32(at)), [STORE_PORT, CONSOLE_PORT]);
    // the initrd behind the mapping, by its frame; then the P2M and its own tables
    assert_eq!(info.u32(48), SIF_MOD_START_PFN | SIF_VIRT_P2M_4TOOLS);
    assert_eq!((info.u64(112), info.u64(120)), (0x400, 10_000));
    assert_eq!(made.read(0x400, 10_000), content);
    assert_eq!(info.u64(104), LINUX_P2M);
    assert_eq!((info.u64(1152), info.u64(1160)), (0x403, 32 + 3));
    assert_eq!(info.0[128..147], *b"console=hvc0 quiet\0");
    assert!(is_zero(&info.0[1168..]) && is_zero(&info.0[147..1152]));
    assert_eq!(made.entry(va(0x400)), None, "the initrd is not mapped");
    assert_eq!(made.entry(LINUX_BASE - 1), None);
}

#[test]
fn a_kernel_that_asks_for_nothing() {
    let initrd = initrd_of(&[7; 4097]);
    let made = make(&minios(), 64 << 8, Some(initrd.path())).unwrap();
    let info = made.start_info();
    // kernel to 0x105, initrd, 32 pages of P2M, start_info
    assert_eq!((info.u64(112), info.u64(120)), (0x105 << 12, 4097));
    assert_eq!(made.read(0x105, 4097), [7; 4097]);
    assert_eq!(info.u64(104), 0x107 << 12);
    assert_eq!(made.built.start_info, 0x127 << 12);
    assert_eq!(info.u32(48), 0);
    assert_eq!(
        (info.u64(1152), info.u64(1160)),
        (0, 0),
        "fields of INIT_P2M"
    );
    assert_eq!(made.words(0x107 << 12, 64 << 8), Vec::from_iter(0..64 << 8));
    let none = make(&minios(), 64 << 8, None).unwrap().start_info();
    assert_eq!((none.u64(112), none.u64(120), none.u32(48)), (0, 0, 0));
}

#[test]
fn everything_is_mapped_and_only_tables_read_only() {
    for (kernel, base) in [(linux(), LINUX_BASE), (minios(), 0)] {
        let made = make(&kernel, 64 << 8, None).unwrap();
        let info = made.start_info();
        let first = (info.u64(88) - base) / PAGE_SIZE;
        let tables = first..first + info.u64(96);
        assert_eq!(tables.start, made.built.l4, "the L4 comes first");
        let mut pages = 0;
        while let Some(e) = made.entry(base + pages * PAGE_SIZE) {
            let rw = if tables.contains(&pages) { 0 } else { RW };
            assert_eq!(e, pages << 12 | P | A | US | rw, "page {pages:#x}");
            let kind = frame::kind(made.record(pages));
            assert_eq!(
                kind != TYPE_NONE,
                tables.contains(&pages),
                "page {pages:#x}"
            );
            if kind == TYPE_NONE {
                let count = frame::count(made.record(pages));
                // the rings are the process' own to write as well
                let ring = [made.built.store_mfn, made.built.console_mfn].contains(&pages);
                let wanted = 1 + u32::from(ring);
                assert_eq!(count, wanted, "writable mappings of page {pages:#x}");
            } else if pages != made.built.l4 {
                assert_eq!(frame::count(made.record(pages)), 1);
            }
            pages += 1;
        }
        let end = base + pages * PAGE_SIZE;
        assert!(end.is_multiple_of(4 << 20), "{end:#x}");
        assert!(end - made.built.rsp >= 512 << 10, "mapped behind the stack");
        let l4 = made.record(made.built.l4);
        assert_eq!((frame::kind(l4), frame::count(l4)), (TYPE_L4, 2));
        assert_ne!(l4 & PINNED, 0);
        let slots = made.words(made.built.l4 << 12, 512);
        assert_eq!(slots[HOLE_FIRST_SLOT..HOLE_END_SLOT], hole_l4());
    }
}

#[test]
fn the_p2m_is_mapped_where_linux_wants_it() {
    let pages = 64 << 8;
    let made = make(&linux(), pages, None).unwrap();
    let info = made.start_info();
    let (first, frames) = (info.u64(1152), info.u64(1160));
    for i in 0..32 {
        let e = made.entry(LINUX_P2M + i * PAGE_SIZE);
        assert_eq!(e, Some((first + i) << 12 | P | RW | A | US));
        assert_eq!(made.record(first + i), TYPE_NONE + COUNT_ONE);
    }
    assert_eq!(made.entry(LINUX_P2M + (32 << 12)), None);
    // its tables are not mapped, and typed
    for pfn in first + 32..first + frames {
        let record = made.record(pfn);
        let kind = frame::kind(record);
        assert!((TYPE_L1..TYPE_L4).contains(&kind) && frame::count(record) == 1);
    }
    assert_eq!(made.words(first << 12, pages), Vec::from_iter(0..pages));
}

#[test]
fn what_no_page_has_is_invalid_in_both_tables() {
    // not a whole page of P2M
    let pages = (32 << 8) + 3;
    let made = make(&linux(), pages, None).unwrap();
    let first = made.start_info().u64(1152);
    let p2m = made.words(first << 12, 17 * 512);
    assert_eq!(p2m[pages as usize - 1], pages - 1);
    assert!(p2m[pages as usize..].iter().all(|e| *e == u64::MAX));
    let m2p = made.words(made.map.m2p, made.map.m2p_entries);
    let shared = made.map.shared_info >> 12..made.map.shared_end >> 12;
    for (mfn, pfn) in (0..).zip(m2p) {
        let expected = match mfn {
            _ if mfn < pages => mfn,
            _ if shared.contains(&mfn) => u64::MAX - 1,
            _ => u64::MAX,
        };
        assert_eq!(pfn, expected, "mfn {mfn:#x}");
    }
}

#[test]
fn the_kernel_is_copied_and_the_rest_is_zero() {
    let made = make(&linux(), 64 << 8, None).unwrap();
    let code = made.read(0x100, 0x5000);
    assert_eq!(code[..0x1000], [0xb5; 0x1000]);
    assert_eq!(code[0x1000..0x2000], hypercall_page(HARDWARE));
    assert_eq!(code[0x2000..0x2345], [0xb5; 0x345]);
    assert!(is_zero(&code[0x2345..]));
    assert!(is_zero(&made.read(0, 0x10_0000)), "below the kernel");
    assert!(
        is_zero(&made.read(0x106, 2 << 12)),
        "xenstore and console pages"
    );
}

#[test]
fn the_backends_pages_are_granted() {
    let made = make(&linux(), 64 << 8, None).unwrap();
    let grants = made.words(made.map.grant_frames, 512);
    let entry = |mfn: u64| GRANT_PERMIT_ACCESS | mfn << 32;
    assert_eq!(grants[0], entry(made.built.console_mfn));
    assert_eq!(grants[1], entry(made.built.store_mfn));
    assert!(grants[2..].iter().all(|g| *g == 0));
}

/// What `-m` the error asks for.
fn needed(kernel: &KernelImage, mib: u64, initrd: Option<&Path>) -> u64 {
    match make(kernel, mib << 8, initrd) {
        Err(BuildError::TooSmall { have, need }) => {
            assert_eq!(have, mib);
            need
        }
        other => panic!("{mib} MiB: {other:?}"),
    }
}

#[test]
fn the_size_that_is_asked_for_is_the_least_that_works() {
    // an initrd so large that its P2M counts
    let large = sparse_initrd(1100 << 20);
    for kernel in [linux(), minios()] {
        for initrd in [None, Some(large.path())] {
            let need = needed(&kernel, 1, initrd);
            assert_eq!(needed(&kernel, need - 1, initrd), need);
            if initrd.is_none() {
                make(&kernel, need << 8, None).unwrap();
            } else {
                let plan = Plan {
                    kernel: &kernel,
                    initrd,
                    command_line: "",
                    flavour: HARDWARE,
                };
                Pages::lay_out(&plan, need << 8, 1100 << 20).unwrap();
            }
        }
    }
}

#[test]
fn a_kernel_across_the_hole() {
    let start = HOLE_START - PAGE_SIZE;
    let data: Vec<u8> = (1..=3u8).flat_map(|n| [n; 4096]).collect();
    let kernel = kernel(&[], start, &data, 3 * PAGE_SIZE);
    let pages = 4200 << 8;
    let made = make(&kernel, pages, None).unwrap();
    let (low, high) = (HOLE_START >> 12, HOLE_END >> 12);
    assert_eq!(made.read(low - 1, 4096), [1; 4096]);
    assert_eq!(made.read(high, 8192), data[4096..]);
    assert!(made.m.load(HOLE_START).is_err(), "the hole is no memory");
    let info = made.start_info();
    let p2m = low + 2;
    assert_eq!(info.u64(104), p2m << 12);
    // frames are numbered by the machine, pages by the guest
    let mfn = |pfn| pfn_to_mfn(pfn);
    assert_eq!(made.built.start_info >> 12, p2m + pages.div_ceil(512));
    assert_eq!(made.built.store_mfn, mfn((made.built.start_info >> 12) + 1));
    assert_eq!(info.u64(56), made.built.store_mfn);
    assert_eq!(info.u64(72), made.built.store_mfn + 1);
    assert_eq!(made.built.l4, mfn(info.u64(88) >> 12));
    for pfn in [0, low - 1, low, low + 1, p2m] {
        let e = made.entry(pfn << 12).unwrap();
        assert_eq!(e, mfn(pfn) << 12 | P | RW | A | US, "page {pfn:#x}");
        assert_eq!(made.record(mfn(pfn)), COUNT_ONE);
    }
    for e in made.words(mfn(p2m) << 12, pages).into_iter().zip(0..) {
        assert_eq!(e.0, mfn(e.1));
    }
    let m2p = made.words(made.map.m2p, made.map.m2p_entries);
    for pfn in 0..pages {
        assert_eq!(m2p[mfn(pfn) as usize], pfn);
    }
    assert!(
        m2p[low as usize..high as usize]
            .iter()
            .all(|e| *e == INVALID_M2P_ENTRY)
    );
    assert!((low..high).all(|mfn| made.record(mfn) == NOT_OWNED));
}

#[test]
fn an_unmapped_initrd_across_the_hole() {
    const MIB: u64 = 1 << 20;
    let initrd = sparse_initrd(100 * MIB);
    for i in 0..100 {
        initrd
            .as_file()
            .write_all_at(&[i as u8 + 1], i * MIB)
            .unwrap();
    }
    let notes: &[(u32, &[u8])] = &[(XEN_ELFNOTE_MOD_START_PFN, &1u64.to_le_bytes())];
    let kernel = kernel(notes, HOLE_START - 48 * MIB, &[1], 4096);
    let made = make(&kernel, 4300 << 8, Some(initrd.path())).unwrap();
    let info = made.start_info();
    assert_eq!(
        (info.u32(48), info.u64(120)),
        (SIF_MOD_START_PFN, 100 * MIB)
    );
    let first = info.u64(112);
    let hole = HOLE_START >> 12;
    assert!(first < hole && first + (100 << 8) > hole, "{first:#x}");
    for i in 0..100 {
        let mfn = pfn_to_mfn(first + (i << 8));
        assert_eq!(made.read(mfn, 2), [i as u8 + 1, 0], "MiB {i}");
    }
}

#[test]
fn kernels_too_far_away_are_refused() {
    for paddr in [
        1 << 40,
        1 << 46,
        1 << 52,
        u64::MAX - 0x1fff,
        u64::MAX - 0xff_ffff,
    ] {
        let kernel = kernel(&[], paddr & !0xfff, &[1; 16], 4096);
        match make(&kernel, 64 << 8, None) {
            Err(BuildError::TooSmall { need, .. }) => assert!(need >= paddr >> 20),
            Err(BuildError::Layout) => assert!(paddr > 1 << 46),
            other => panic!("{paddr:#x}: {other:?}"),
        }
    }
}

#[test]
fn a_p2m_goes_where_nothing_else_is() {
    let at = |va: u64| {
        let notes: &[(u32, &[u8])] = &[
            (XEN_ELFNOTE_VIRT_BASE, &LINUX_BASE.to_le_bytes()),
            (XEN_ELFNOTE_INIT_P2M, &va.to_le_bytes()),
        ];
        make(&kernel(notes, 0x10_0000, &[1], 4096), 64 << 8, None)
    };
    // the hypervisor's, not canonical, across an edge, meeting the main mapping
    let bad = [
        0xffff_8000_0000_0000,
        0xffff_87ff_ffff_f000,
        0x8000_0000_0000,
        0x7fff_ffff_0000,
        LINUX_BASE - PAGE_SIZE,
    ];
    for va in bad {
        let e = at(va).unwrap_err();
        assert!(
            matches!(e, BuildError::InitP2m { va: v } if v == va),
            "{e:?}"
        );
    }
    assert!(at(0xffff_8800_0000_0000).is_ok());
    // misaligned or above the kernel's base: inside the main mapping, as if not asked for
    for va in [LINUX_P2M + 8, LINUX_BASE + (1 << 30)] {
        let info = at(va).unwrap().start_info();
        assert_eq!(info.u64(104), LINUX_BASE + 0x10_1000);
        assert_eq!(info.u64(1152), 0);
    }
}

#[test]
fn an_initrd_that_is_no_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), &dir.path().join("missing")] {
        let e = make(&linux(), 64 << 8, Some(path)).unwrap_err();
        assert!(matches!(&e, BuildError::Initrd { path: p, .. } if p == path));
        assert!(e.to_string().starts_with("-initrd: /"), "{e}");
    }
}
