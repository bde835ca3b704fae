//! Page-table entry bits (AMD APM volume 2, "Long-Mode Page Translation").

/// Present.
pub const P: u64 = 1 << 0;
/// Writable.
pub const RW: u64 = 1 << 1;
/// User accessible.
pub const US: u64 = 1 << 2;
/// Write-through.
pub const PWT: u64 = 1 << 3;
/// Cache disable.
pub const PCD: u64 = 1 << 4;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Page size (L2, L3) or PAT (L1).
pub const PSE: u64 = 1 << 7;
/// Global.
pub const G: u64 = 1 << 8;
/// No execute.
pub const NX: u64 = 1 << 63;
/// The bits that hold the frame's address.
pub const ADDR: u64 = 0x000f_ffff_ffff_f000;

/// Bits 52-58: the guest's own.
pub const AVAILABLE: u64 = 0x07f0_0000_0000_0000;
/// Bits that no present L1 entry of a guest may have: caching attributes and reserved address bits.
pub const L1_FORBIDDEN: u64 = PCD | PWT | PSE | 0x7ff0_0000_0000_0000 & !AVAILABLE;

/// The frame that an entry names.
pub const fn mfn(entry: u64) -> u64 {
    (entry & ADDR) >> 12
}

/// Index of the entry for `va` in a table of `level` (1-4).
pub const fn index(va: u64, level: u32) -> usize {
    ((va >> (12 + 9 * (level - 1))) & 511) as usize
}
