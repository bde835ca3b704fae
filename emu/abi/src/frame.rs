//! Records of the frame table: what each machine frame is used for.
//!
//! A frame has at most one type at a time; a type is held by references (a pin,
//! a base pointer, an entry of a table one level up) and ends with the last.
//! A frame without a type counts its writable mappings instead, and can get a
//! type only when there are none. A zero record is an ordinary frame of the
//! domain's memory that nothing maps.

/// No type: ordinary memory; the count is that of writable mappings.
pub const TYPE_NONE: u32 = 0;
/// L1 page table. L2, L3 and L4 are 2, 3 and 4.
pub const TYPE_L1: u32 = 1;
/// L4 page table.
pub const TYPE_L4: u32 = 4;
/// Descriptor table page (GDT or LDT).
pub const TYPE_SEGDESC: u32 = 5;
/// Bits that hold the type.
pub const TYPE_MASK: u32 = 0xf;
/// The guest pinned the frame with its present type.
pub const PINNED: u32 = 1 << 4;
/// The frame is not the domain's (ballooned out, or a hole in the machine map).
pub const NOT_OWNED: u32 = 1 << 5;
/// The frame's content is being checked or given up as that of its type: entries are changed by
/// the vcpu alone that holds the MMU lock.
pub const BUSY: u32 = 1 << 6;
/// One reference to the type, or one writable mapping.
pub const COUNT_ONE: u32 = 1 << 8;
/// Set once there are so many references that the next ones are refused, long before the count
/// could wrap.
pub const FULL: u32 = 1 << 31;

/// The record's type.
pub const fn kind(record: u32) -> u32 {
    record & TYPE_MASK
}

/// The record's number of type references.
pub const fn count(record: u32) -> u32 {
    record >> 8
}
