//! Rules about the notes.

use xenner_xen_abi::elfnote::*;

use super::super::{PaeMode, WordSize};
use super::image::{TestElf, VIRT_BASE, basic_notes, linux_notes, long, note, note_of};
use super::{accepted, refusal};

fn with_notes(parts: &[Vec<u8>]) -> Vec<u8> {
    TestElf::new(parts.concat()).build()
}

fn with_basic(more: &[Vec<u8>]) -> Vec<u8> {
    with_notes(&[basic_notes(), more.concat()])
}

#[test]
fn linux() {
    let image = accepted(TestElf::new(linux_notes()).build());
    let notes = &image.notes;
    assert_eq!(image.word, WordSize::Bits64);
    assert_eq!(image.entry, VIRT_BASE + 0x10_0040);
    assert_eq!(notes.virt_base, VIRT_BASE);
    assert_eq!(notes.paddr_offset, 0);
    assert_eq!(notes.hypercall_page, Some(VIRT_BASE + 0x10_1000));
    assert_eq!(notes.init_p2m, Some(0x80_0000_0000));
    assert_eq!(notes.hv_start_low, Some(0xffff_8000_0000_0000));
    assert_eq!(notes.phys32_entry, Some(0x10_0000));
    assert_eq!(notes.l1_mfn_valid, Some((1, 1)));
    assert!(notes.mod_start_pfn && notes.suspend_cancel && !notes.bsd_symtab);
    assert_eq!(
        (notes.features, notes.required, notes.supported_features),
        (0x11, 0x1, 0x8811)
    );
    assert_eq!(notes.guest_os, "linux");
    assert_eq!(notes.guest_version, "2.6");
    assert_eq!(notes.loader, "generic");
    assert_eq!(notes.xen_version, "xen-3.0");
    assert_eq!(image.virt_kstart(), VIRT_BASE + 0x10_0000);
    assert_eq!(image.virt_kend(), VIRT_BASE + 0x10_c000);
    assert_eq!(image.pfn_of(image.virt_kstart()), Some(0x100));
    assert_eq!(image.pfn_of(0), None);
}

#[test]
fn defaults() {
    let image = accepted(with_notes(&[basic_notes()]));
    assert_eq!((image.notes.virt_base, image.notes.paddr_offset), (0, 0));
    assert_eq!(image.entry, 0x10_0000);
    assert_eq!(image.notes.hypercall_page, None);
    assert!(!image.notes.mod_start_pfn);
}

#[test]
fn netbsd_has_virtual_addresses_in_p_paddr() {
    let mut elf = TestElf::new(
        [
            basic_notes(),
            long(XEN_ELFNOTE_VIRT_BASE, VIRT_BASE),
            long(XEN_ELFNOTE_PADDR_OFFSET, VIRT_BASE),
            long(XEN_ELFNOTE_ENTRY, VIRT_BASE + 0x10_0000),
            note(XEN_ELFNOTE_FEATURES, b"\0"),
            note(XEN_ELFNOTE_BSD_SYMTAB, b"yes\0"),
            note(XEN_ELFNOTE_SUSPEND_CANCEL, &0u32.to_le_bytes()),
        ]
        .concat(),
    );
    for load in &mut elf.loads {
        load.paddr += VIRT_BASE;
    }
    let image = accepted(elf.build());
    assert_eq!(image.virt_offset(), 0);
    assert_eq!(image.virt_kstart(), VIRT_BASE + 0x10_0000);
    assert_eq!(image.pseudo_phys(&image.segments[0]), 0x10_0000);
    assert!(image.notes.bsd_symtab && !image.notes.suspend_cancel);
}

#[test]
fn numbers_are_of_either_size_in_either_class() {
    let short = note(XEN_ELFNOTE_MOD_START_PFN, &1u32.to_le_bytes());
    assert!(accepted(with_basic(&[short])).notes.mod_start_pfn);
    let pae = note(XEN_ELFNOTE_PAE_MODE, b"yes");
    let wide = long(XEN_ELFNOTE_ENTRY, 0x10_0010);
    let image = accepted(TestElf::new32([basic_notes(), pae, wide].concat()).build());
    assert_eq!(image.entry, 0x10_0010);
    for size in [0, 1, 2, 3, 5, 7, 9, 16] {
        let line = refusal(with_basic(&[note(XEN_ELFNOTE_ENTRY, &vec![0; size])]));
        let expected = format!("note 1 holds {size} bytes instead of a number of 4 or 8");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn mfn_valid_is_a_pair() {
    let pair = |desc: &[u8]| with_basic(&[note(XEN_ELFNOTE_L1_MFN_VALID, desc)]);
    let small = [3u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    assert_eq!(accepted(pair(&small)).notes.l1_mfn_valid, Some((3, 1)));
    let big = [[7, 5, 9, 9].map(u64::to_le_bytes).concat()].concat();
    assert_eq!(accepted(pair(&big)).notes.l1_mfn_valid, Some((7, 5)));
    for size in [0, 1, 4, 6, 13] {
        assert!(refusal(pair(&vec![0; size])).contains("Xen notes are damaged"));
    }
}

#[test]
fn last_note_may_claim_more_than_there_is() {
    let mut notes = [basic_notes(), note(XEN_ELFNOTE_PAE_MODE, b"yes\0")].concat();
    let claim = notes.len() - 4 - 4 - 8;
    notes[claim..claim + 4].copy_from_slice(&12u32.to_le_bytes());
    let image = accepted(TestElf::new32(notes.clone()).build());
    assert_eq!(image.word, WordSize::Bits32Pae);
    assert_eq!(image.notes.pae_mode, PaeMode::ExtendedCr3);
    // Even by 4 GiB.
    notes[claim..claim + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    accepted(TestElf::new32(notes.clone()).build());
    // And so may the name, which then is no longer ours.
    notes[claim - 4..claim].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refusal(TestElf::new32(notes).build()).contains("without PAE"));
}

#[test]
fn pae_modes() {
    let mode = |text: &[u8]| TestElf::new32([basic_notes(), note(9, text)].concat()).build();
    let found = |text: &[u8]| accepted(mode(text)).notes.pae_mode;
    assert_eq!(found(b"yes"), PaeMode::ExtendedCr3);
    assert_eq!(found(b"bimodal\0"), PaeMode::Bimodal);
    assert_eq!(found(b"yes,bimodal\0"), PaeMode::Bimodal);
    for no in [&b"no\0"[..], b"", b"maybe"] {
        assert!(refusal(mode(no)).contains("CONFIG_X86_PAE"));
    }
}

#[test]
fn other_owners_do_not_count() {
    let gnu = note_of(b"GNU\0", 3, &[1; 20]);
    let linux = note_of(b"Linux\0", 0x101, &[0; 4]);
    let line = refusal(with_notes(&[gnu.clone(), linux.clone()]));
    assert_eq!(
        line,
        "Cannot load kernel 'k': has no Xen notes: not built with CONFIG_XEN_PV"
    );
    accepted(with_notes(&[gnu, linux, basic_notes()]));
    assert!(refusal(with_notes(&[note_of(b"Xenon\0", 8, b"generic")])).contains("no Xen notes"));
}

#[test]
fn unknown_notes_are_ignored() {
    accepted(with_basic(&[
        note(0, b"?"),
        note(99, &[0; 5]),
        note(19, &[0; 12]),
    ]));
}

#[test]
fn pvh_only() {
    let pvh = long(XEN_ELFNOTE_PHYS32_ENTRY, 0x10_0000);
    let line = refusal(with_notes(std::slice::from_ref(&pvh)));
    assert!(line.contains("is a PVH kernel only"), "{line}");
    // As Linux with CONFIG_XEN_PVHVM.
    let os = note(XEN_ELFNOTE_GUEST_OS, b"linux\0");
    assert!(refusal(with_basic(&[os.clone(), pvh])).contains("PVH kernel only"));
    assert!(refusal(with_basic(&[os])).contains("not built with CONFIG_XEN_PV"));
}

#[test]
fn origin() {
    let loader = |text: &[u8]| note(XEN_ELFNOTE_LOADER, text);
    let version = |text: &[u8]| note(XEN_ELFNOTE_XEN_VERSION, text);
    let os = note(XEN_ELFNOTE_GUEST_OS, b"BeOS\0");
    let ok = version(b"xen-3.0-x86_64\0");
    accepted(with_notes(&[loader(b"generic-2\0"), ok.clone()]));
    assert_eq!(
        refusal(with_notes(&[os, loader(b"own\n\0"), ok.clone()])),
        "Cannot load kernel 'k': asks for loader 'own\\n' (guest OS 'BeOS'): needs 'generic'"
    );
    assert!(refusal(with_notes(&[ok])).contains("asks for loader ''"));
    let line = refusal(with_notes(&[loader(b"generic"), version(b"xen-4.0")]));
    assert!(
        line.contains("interface 'xen-4.0': needs xen-3.0"),
        "{line}"
    );
    assert!(refusal(with_notes(&[loader(b"generic")])).contains("needs xen-3.0"));
    let linux = [
        note(XEN_ELFNOTE_GUEST_OS, b"linux"),
        version(b"xen-3.0"),
        long(XEN_ELFNOTE_ENTRY, 0x10_0000),
    ];
    accepted(with_notes(&linux));
}

#[test]
fn features() {
    let list = |text: &str| with_basic(&[note(XEN_ELFNOTE_FEATURES, text.as_bytes())]);
    let found = |text: &str| {
        let notes = accepted(list(text)).notes;
        (notes.features, notes.required)
    };
    assert_eq!(
        found("writable_page_tables|!pae_pgdir_above_4gb"),
        (0x11, 0x10)
    );
    assert_eq!(found("||unheard_of|dom0|"), (0x800, 0));
    assert_eq!(found(""), (0, 0));
    for name in [
        "dom0",
        "auto_translated_physmap",
        "supervisor_mode_kernel",
        "unheard_of",
    ] {
        let line = refusal(list(&format!("writable_page_tables|!{name}")));
        assert!(
            line.contains(&format!("requires the Xen feature '{name}'")),
            "{line}"
        );
    }
}

#[test]
fn paddr_offset_needs_virt_base() {
    let line = refusal(with_basic(&[long(XEN_ELFNOTE_PADDR_OFFSET, 0)]));
    assert!(line.contains("PADDR_OFFSET without VIRT_BASE"), "{line}");
}

#[test]
fn notes_in_sections() {
    let mut elf = TestElf::new(note_of(b"GNU\0", 3, &[0; 4]));
    elf.sections = vec![
        (".text", 1, vec![0; 3]),
        (".note.other", 7, note_of(b"GNU\0", 3, &[0; 4])),
        (".note.Xen", 7, linux_notes()),
    ];
    assert_eq!(accepted(elf.build()).notes.virt_base, VIRT_BASE);
    elf.notes = None;
    assert_eq!(accepted(elf.build()).notes.virt_base, VIRT_BASE);
    // Segments go first.
    elf.notes = Some(basic_notes());
    assert_eq!(accepted(elf.build()).notes.virt_base, 0);
}

fn legacy(text: &str) -> TestElf {
    let mut elf = TestElf::new(Vec::new());
    elf.notes = None;
    elf.sections = vec![("__xen_guest", 1, text.as_bytes().to_vec())];
    elf
}

#[test]
fn legacy_text() {
    let mut elf = legacy(
        "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,HYPERCALL_PAGE=0x101,VIRT_BASE=0xC0000000,\
         VIRT_ENTRY=0xC0100020,ELF_PADDR_OFFSET=0x0,LOADER=generic,BSD_SYMTAB=,\
         PAE=yes[extended-cr3],FEATURES=writable_page_tables|!pae_pgdir_above_4gb,NEW=1\0rest",
    );
    let image = accepted(elf.build());
    let notes = &image.notes;
    assert_eq!(notes.virt_base, 0xc000_0000);
    assert_eq!(notes.hypercall_page, Some(0xc010_1000));
    assert_eq!(image.entry, 0xc010_0020);
    assert_eq!(notes.pae_mode, PaeMode::ExtendedCr3);
    assert!(notes.bsd_symtab);
    assert_eq!((notes.features, notes.required), (0x11, 0x10));
    (elf.bits64, elf.machine) = (false, 3);
    assert_eq!(accepted(elf.build()).word, WordSize::Bits32Pae);
}

#[test]
fn legacy_paddr_offset_is_virt_base() {
    let mut elf = legacy("LOADER=generic,XEN_VER=xen-3.0,PAE=yes,VIRT_BASE=0xC0000000");
    for load in &mut elf.loads {
        load.paddr += 0xc000_0000;
    }
    elf.entry = 0xc010_0000;
    let image = accepted(elf.build());
    assert_eq!(image.notes.paddr_offset, 0xc000_0000);
    assert_eq!(image.pseudo_phys(&image.segments[1]), 0x10_4000);
    assert_eq!(image.notes.pae_mode, PaeMode::Yes);
}

#[test]
fn legacy_text_that_lies() {
    let basic = "LOADER=generic,XEN_VER=xen-3.0";
    for (text, expected) in [
        (
            "VIRT_BASE=0xC0ffee0xyz",
            "VIRT_BASE=0xC0ffee0xyz is not a number",
        ),
        ("HYPERCALL_PAGE=0xffffffffffffffff", "is no page number"),
        ("HYPERCALL_PAGE=", "HYPERCALL_PAGE= is not a number"),
        (
            "HYPERCALL_PAGE=0x1000",
            "hypercall page 0x1000000 is outside",
        ),
        ("ELF_PADDR_OFFSET=0x0", "PADDR_OFFSET without VIRT_BASE"),
        ("FEATURES=!nothing", "requires the Xen feature 'nothing'"),
    ] {
        let line = refusal(legacy(&format!("{basic},{text}")).build());
        assert!(line.contains(expected), "{line}");
    }
    assert!(refusal(legacy("").build()).contains("asks for loader ''"));
}
