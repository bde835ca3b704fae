//! `io/ring.h`: header of a shared ring, and its index arithmetic.

use core::mem::offset_of;

/// First 64 bytes of a shared ring; the entries follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SringHeader {
    /// Requests put.
    pub req_prod: u32,
    /// Notify when `req_prod` passes this.
    pub req_event: u32,
    /// Responses put.
    pub rsp_prod: u32,
    /// Notify when `rsp_prod` passes this.
    pub rsp_event: u32,
    /// Private and padding.
    pub pvt_pad: [u8; 48],
}

impl Default for SringHeader {
    fn default() -> Self {
        Self {
            req_prod: 0,
            req_event: 0,
            rsp_prod: 0,
            rsp_event: 0,
            pvt_pad: [0; 48],
        }
    }
}

const _: () = assert!(size_of::<SringHeader>() == 64);
const _: () = assert!(offset_of!(SringHeader, req_prod) == 0);
const _: () = assert!(offset_of!(SringHeader, req_event) == 4);
const _: () = assert!(offset_of!(SringHeader, rsp_prod) == 8);
const _: () = assert!(offset_of!(SringHeader, rsp_event) == 12);
const _: () = assert!(offset_of!(SringHeader, pvt_pad) == 16);

/// Entries of `entry_size` bytes in a ring of `bytes`: the largest power of
/// two that fits behind the header, 0 if none does.
#[must_use]
pub const fn ring_size(bytes: usize, entry_size: usize) -> u32 {
    if bytes <= size_of::<SringHeader>() || entry_size == 0 {
        return 0;
    }
    let n = (bytes - size_of::<SringHeader>()) / entry_size;
    if n == 0 { 0 } else { 1 << n.ilog2() }
}

/// Whether the other side wants a notification after the producer index went
/// from `old` to `new` while its event index is `event`.
#[must_use]
pub const fn needs_notify(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}
