//! What a PV kernel tells the domain builder about itself: ELF notes of the
//! owner `Xen` (`xen/include/public/elfnote.h`) or, in older kernels, the text
//! of the section `__xen_guest`. Parsing and the rules that need no segments;
//! the rules about addresses are `layout`'s.

use std::fmt::Display;

use xenner_xen_abi::elfnote::*;
use xenner_xen_abi::features::*;

use super::bytes::le_u32;
use super::error::Cause;

/// Longest text taken from a note (bytes), as in Xen's `ELF_MAX_STRING_LENGTH`.
const MAX_TEXT: usize = 4096;

/// PAE_MODE of a 32-bit kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PaeMode {
    /// No PAE, or not said.
    #[default]
    No,
    /// PAE, top table below 4 GiB.
    Yes,
    /// PAE, top table anywhere.
    ExtendedCr3,
    /// Runs with PAE and without.
    Bimodal,
}

/// What the kernel asks for. Addresses are virtual unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XenNotes {
    /// VIRT_BASE: address of pseudo-physical frame 0; 0 where not given.
    pub virt_base: u64,
    /// PADDR_OFFSET: what `p_paddr` exceeds the pseudo-physical address by.
    pub paddr_offset: u64,
    /// ENTRY.
    pub entry: Option<u64>,
    /// HYPERCALL_PAGE: a page of the kernel to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// INIT_P2M: where the initial P2M is to be mapped.
    pub init_p2m: Option<u64>,
    /// MOD_START_PFN: the initrd need not be mapped, `mod_start` is its pfn.
    pub mod_start_pfn: bool,
    /// HV_START_LOW: the lowest address left to the hypervisor.
    pub hv_start_low: Option<u64>,
    /// PHYS32_ENTRY, physical: the PVH entry, no concern of a PV domain.
    pub phys32_entry: Option<u64>,
    /// SUSPEND_CANCEL: the suspend hypercall may return 1, cancelled.
    pub suspend_cancel: bool,
    /// L1_MFN_VALID: an L1 entry holds a frame if `entry & mask == value`, as
    /// (mask, value).
    pub l1_mfn_valid: Option<(u64, u64)>,
    /// FEATURES, bit numbers `XENFEAT_*`: all that the kernel names, with or
    /// without `!`.
    pub features: u64,
    /// The subset named with `!`. Says what the kernel cannot do without, not
    /// what to advertise.
    pub required: u64,
    /// SUPPORTED_FEATURES, joined with `features`.
    pub supported_features: u64,
    /// PAE_MODE.
    pub pae_mode: PaeMode,
    /// BSD_SYMTAB: wants its ELF symbol table behind the kernel.
    pub bsd_symtab: bool,
    /// GUEST_OS.
    pub guest_os: String,
    /// GUEST_VERSION.
    pub guest_version: String,
    /// LOADER.
    pub loader: String,
    /// XEN_VERSION.
    pub xen_version: String,
}

/// Notes as they are read, before defaults and rules.
#[derive(Debug, Default)]
pub(super) struct NoteReader {
    pub(super) notes: XenNotes,
    pub(super) virt_base: Option<u64>,
    pub(super) paddr_offset: Option<u64>,
    /// Anything found at all.
    pub(super) found: bool,
    /// Read from `__xen_guest`.
    pub(super) legacy: bool,
}

impl NoteReader {
    /// Reads a note segment or section. Name and descriptor are padded to 4
    /// bytes. A descriptor that claims more than there is gets what there is:
    /// GRUB's i386 image ends in such a note.
    pub(super) fn read(&mut self, mut data: &[u8]) -> Result<(), Cause> {
        while let (Some(namesz), Some(descsz), Some(kind)) =
            (le_u32(data, 0), le_u32(data, 4), le_u32(data, 8))
        {
            let (name, rest) = take_padded(&data[12..], namesz);
            let (desc, rest) = take_padded(rest, descsz);
            data = rest;
            if name == b"Xen\0" || name == b"Xen" {
                self.found = true;
                self.note(kind, desc)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, kind: u32, desc: &[u8]) -> Result<(), Cause> {
        let number = || number(kind, desc);
        let notes = &mut self.notes;
        match kind {
            XEN_ELFNOTE_ENTRY => notes.entry = Some(number()?),
            XEN_ELFNOTE_HYPERCALL_PAGE => notes.hypercall_page = Some(number()?),
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(number()?),
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(number()?),
            XEN_ELFNOTE_XEN_VERSION => notes.xen_version = text(desc),
            XEN_ELFNOTE_GUEST_OS => notes.guest_os = text(desc),
            XEN_ELFNOTE_GUEST_VERSION => notes.guest_version = text(desc),
            XEN_ELFNOTE_LOADER => notes.loader = text(desc),
            XEN_ELFNOTE_PAE_MODE => notes.pae_mode = pae_note(&text(desc)),
            XEN_ELFNOTE_FEATURES => notes.add_features(&text(desc))?,
            XEN_ELFNOTE_BSD_SYMTAB => notes.bsd_symtab = text(desc) == "yes",
            XEN_ELFNOTE_HV_START_LOW => notes.hv_start_low = Some(number()?),
            XEN_ELFNOTE_L1_MFN_VALID => notes.l1_mfn_valid = Some(pair(kind, desc)?),
            XEN_ELFNOTE_SUSPEND_CANCEL => notes.suspend_cancel = number()? != 0,
            XEN_ELFNOTE_INIT_P2M => notes.init_p2m = Some(number()?),
            XEN_ELFNOTE_MOD_START_PFN => notes.mod_start_pfn = number()? != 0,
            XEN_ELFNOTE_SUPPORTED_FEATURES => notes.supported_features |= number()?,
            XEN_ELFNOTE_PHYS32_ENTRY => notes.phys32_entry = Some(number()?),
            // INFO, PHYS32_RELOC and what is still to be invented.
            _ => {}
        }
        Ok(())
    }

    /// Reads the section `__xen_guest`: `KEY=VALUE,...` up to a NUL.
    pub(super) fn read_legacy(&mut self, section: &[u8]) -> Result<(), Cause> {
        let text = text(section);
        self.legacy = true;
        self.found = true;
        let mut hypercall_page = None;
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let hex = || legacy_number(key, value);
            let notes = &mut self.notes;
            match key {
                "LOADER" => notes.loader = value.to_owned(),
                "GUEST_OS" => notes.guest_os = value.to_owned(),
                "GUEST_VER" => notes.guest_version = value.to_owned(),
                "XEN_VER" => notes.xen_version = value.to_owned(),
                "PAE" => notes.pae_mode = pae_legacy(value),
                "BSD_SYMTAB" => notes.bsd_symtab = true,
                "VIRT_BASE" => self.virt_base = Some(hex()?),
                "VIRT_ENTRY" => notes.entry = Some(hex()?),
                "ELF_PADDR_OFFSET" => self.paddr_offset = Some(hex()?),
                "HYPERCALL_PAGE" => hypercall_page = Some(hex()?),
                "FEATURES" => notes.add_features(value)?,
                _ => {}
            }
        }
        // Given as a page number, and VIRT_BASE may come after it.
        if let Some(page) = hypercall_page {
            let at = page
                .checked_mul(4096)
                .and_then(|offset| offset.checked_add(self.virt_base.unwrap_or(0)))
                .ok_or_else(|| bad(format_args!("HYPERCALL_PAGE {page:#x} is no page number")))?;
            self.notes.hypercall_page = Some(at);
        }
        Ok(())
    }

    /// Applies defaults and the rules on what a PV kernel must say.
    pub(super) fn finish(mut self) -> Result<XenNotes, Cause> {
        if !self.found {
            return Err(Cause::NoXenNotes);
        }
        if self.paddr_offset.is_some() && self.virt_base.is_none() {
            return Err(bad("PADDR_OFFSET without VIRT_BASE"));
        }
        let notes = &mut self.notes;
        if self.virt_base.is_none() && notes.entry.is_none() && notes.is_native_only() {
            return Err(if notes.phys32_entry.is_some() {
                Cause::PvhOnly
            } else {
                Cause::NoXenNotes
            });
        }
        notes.virt_base = self.virt_base.unwrap_or(0);
        let default_offset = if self.legacy { notes.virt_base } else { 0 };
        notes.paddr_offset = self.paddr_offset.unwrap_or(default_offset);
        notes.supported_features |= notes.features;
        notes.check_origin()?;
        notes.check_required()?;
        Ok(self.notes)
    }
}

impl XenNotes {
    /// A kernel with notes, but without a PV entry: its ELF entry expects bare
    /// hardware. Linux's PV code always comes with ENTRY.
    fn is_native_only(&self) -> bool {
        self.phys32_entry.is_some() || self.guest_os.starts_with("linux")
    }

    /// The checks of `elf_xen_note_check` in Xen's `common/libelf`.
    fn check_origin(&self) -> Result<(), Cause> {
        if !self.loader.starts_with("generic") && !self.guest_os.starts_with("linux") {
            return Err(Cause::Loader {
                loader: shown(&self.loader),
                guest_os: shown(&self.guest_os),
            });
        }
        if !self.xen_version.starts_with("xen-3.0") {
            return Err(Cause::XenVersion(shown(&self.xen_version)));
        }
        Ok(())
    }

    fn check_required(&self) -> Result<(), Cause> {
        let refused = REFUSED.iter().find(|&&(_, bit)| self.required & bit != 0);
        match refused {
            Some(&(name, _)) => Err(Cause::RequiredFeature(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Reads a `|`-separated list. Unknown names matter only with a `!`.
    fn add_features(&mut self, list: &str) -> Result<(), Cause> {
        for item in list.split('|').filter(|item| !item.is_empty()) {
            let (name, required) = match item.strip_prefix('!') {
                Some(name) => (name, true),
                None => (item, false),
            };
            let Some(&(_, bit)) = FEATURES.iter().find(|&&(known, _)| known == name) else {
                if required {
                    return Err(Cause::RequiredFeature(shown(name)));
                }
                continue;
            };
            self.features |= bit;
            if required {
                self.required |= bit;
            }
        }
        Ok(())
    }
}

/// Names of the FEATURES note.
const FEATURES: [(&str, u64); 7] = [
    ("writable_page_tables", 1 << XENFEAT_WRITABLE_PAGE_TABLES),
    (
        "writable_descriptor_tables",
        1 << XENFEAT_WRITABLE_DESCRIPTOR_TABLES,
    ),
    (
        "auto_translated_physmap",
        1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP,
    ),
    (
        "supervisor_mode_kernel",
        1 << XENFEAT_SUPERVISOR_MODE_KERNEL,
    ),
    ("pae_pgdir_above_4gb", 1 << XENFEAT_PAE_PGDIR_ABOVE_4GB),
    ("hvm_callback_vector", 1 << XENFEAT_HVM_CALLBACK_VECTOR),
    ("dom0", 1 << XENFEAT_DOM0),
];

/// Required features that no PV domU has.
const REFUSED: [(&str, u64); 4] = [
    (
        "auto_translated_physmap",
        1 << XENFEAT_AUTO_TRANSLATED_PHYSMAP,
    ),
    (
        "supervisor_mode_kernel",
        1 << XENFEAT_SUPERVISOR_MODE_KERNEL,
    ),
    ("hvm_callback_vector", 1 << XENFEAT_HVM_CALLBACK_VECTOR),
    ("dom0", 1 << XENFEAT_DOM0),
];

/// Splits `len` bytes and their padding off, clamped to what is there.
fn take_padded(data: &[u8], len: u32) -> (&[u8], &[u8]) {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(data.len());
    let padded = len.next_multiple_of(4).min(data.len());
    (&data[..len], &data[padded..])
}

fn bad(what: impl Display) -> Cause {
    Cause::BadNotes(what.to_string())
}

/// A number of either word size, whatever the ELF class.
fn number(kind: u32, desc: &[u8]) -> Result<u64, Cause> {
    if let Ok(long) = <[u8; 8]>::try_from(desc) {
        Ok(u64::from_le_bytes(long))
    } else if let Ok(word) = <[u8; 4]>::try_from(desc) {
        Ok(u64::from(u32::from_le_bytes(word)))
    } else {
        Err(bad(format_args!(
            "note {kind} holds {} bytes instead of a number of 4 or 8",
            desc.len()
        )))
    }
}

/// Two numbers of the same size. More pairs may follow; the first counts.
fn pair(kind: u32, desc: &[u8]) -> Result<(u64, u64), Cause> {
    let half = if desc.len() >= 16 { 8 } else { desc.len() / 2 };
    let (first, rest) = desc.split_at(half);
    Ok((number(kind, first)?, number(kind, &rest[..half])?))
}

/// Text to its end or its NUL: Linux's FEATURES has none.
fn text(desc: &[u8]) -> String {
    let desc = &desc[..desc.len().min(MAX_TEXT)];
    let end = desc.iter().position(|&b| b == 0).unwrap_or(desc.len());
    String::from_utf8_lossy(&desc[..end]).into_owned()
}

/// A file's text for an error line: short, and nothing a terminal acts on.
fn shown(text: &str) -> String {
    text.escape_default().take(64).collect()
}

fn pae_note(value: &str) -> PaeMode {
    match value {
        "yes" => PaeMode::ExtendedCr3,
        other if other.contains("bimodal") => PaeMode::Bimodal,
        _ => PaeMode::No,
    }
}

fn pae_legacy(value: &str) -> PaeMode {
    match value {
        "yes" => PaeMode::Yes,
        "yes[extended-cr3]" => PaeMode::ExtendedCr3,
        _ => PaeMode::No,
    }
}

/// Hexadecimal with `0x`, decimal without.
fn legacy_number(key: &str, value: &str) -> Result<u64, Cause> {
    let parsed = match value.strip_prefix("0x").or(value.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| {
        bad(format_args!(
            "{}={} is not a number",
            shown(key),
            shown(value)
        ))
    })
}
