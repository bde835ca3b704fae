//! Raw memory: volatile access by address, the page pool, bytes of the image.
//!
//! Addresses given here must be mapped; what may fault goes through a snippet
//! (`probe`).

#![expect(unsafe_code)]
// UNSAFETY: memory by address; a test kernel has no other owner of it.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
const POOL_PAGES: usize = 512;

#[repr(C, align(4096))]
struct Pool([[u8; 4096]; POOL_PAGES]);
static mut POOL: Pool = Pool([[0; 4096]; POOL_PAGES]);
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A zeroed page of the kernel image; `None` if the pool is empty.
pub fn alloc_page() -> Option<u64> {
    alloc_pages(1)
}

/// Zeroed pages in a row.
pub fn alloc_pages(n: usize) -> Option<u64> {
    let i = NEXT.load(Ordering::Relaxed);
    if i + n > POOL_PAGES {
        return None;
    }
    NEXT.store(i + n, Ordering::Relaxed);
    let va = &raw mut POOL as u64 + (i as u64) * PAGE;
    fill(va, 0, n * 4096);
    Some(va)
}

/// What `pool_reset` goes back to.
pub fn pool_mark() -> usize {
    NEXT.load(Ordering::Relaxed)
}

/// Free all pages taken since the mark.
pub fn pool_reset(mark: usize) {
    NEXT.store(mark, Ordering::Relaxed);
}

/// Write `n` bytes of `byte`.
pub fn fill(va: u64, byte: u8, n: usize) {
    // SAFETY: the caller gives mapped memory that no Rust object occupies.
    unsafe { (va as *mut u8).write_bytes(byte, n) }
}

/// Copy bytes to an address.
pub fn put(va: u64, bytes: &[u8]) {
    // SAFETY: as above.
    unsafe { (va as *mut u8).copy_from(bytes.as_ptr(), bytes.len()) }
}

/// Copy bytes from an address.
pub fn get(va: u64, bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        // SAFETY: the caller gives mapped memory.
        *b = unsafe { ((va + i as u64) as *const u8).read_volatile() };
    }
}

/// Store a plain structure at an address.
pub fn put_struct<T: Copy>(va: u64, value: &T) {
    // SAFETY: as above; `T` is plain data.
    unsafe { (va as *mut T).write_volatile(*value) }
}

/// Load a plain structure of integers from an address.
pub fn get_struct<T: Copy>(va: u64) -> T {
    // SAFETY: as above; used with structures of integers, any bits are valid.
    unsafe { (va as *const T).read_volatile() }
}

/// Load 8 bytes.
pub fn read64(va: u64) -> u64 {
    // SAFETY: mapped memory.
    unsafe { (va as *const u64).read_volatile() }
}

/// Store 8 bytes.
pub fn write64(va: u64, v: u64) {
    // SAFETY: mapped writable memory that no Rust object occupies.
    unsafe { (va as *mut u64).write_volatile(v) }
}

/// Load 4 bytes.
pub fn read32(va: u64) -> u32 {
    // SAFETY: mapped memory.
    unsafe { (va as *const u32).read_volatile() }
}

/// Store 4 bytes.
pub fn write32(va: u64, v: u32) {
    // SAFETY: mapped writable memory that no Rust object occupies.
    unsafe { (va as *mut u32).write_volatile(v) }
}

/// Load a byte.
pub fn read8(va: u64) -> u8 {
    // SAFETY: mapped memory.
    unsafe { (va as *const u8).read_volatile() }
}

/// Store a byte.
pub fn write8(va: u64, v: u8) {
    // SAFETY: mapped writable memory that no Rust object occupies.
    unsafe { (va as *mut u8).write_volatile(v) }
}

/// The word at an address as an atomic.
pub fn atomic64(va: u64) -> &'static AtomicU64 {
    // SAFETY: aligned mapped memory, shared with the hypervisor as atomics.
    unsafe { AtomicU64::from_ptr(va as *mut u64) }
}

/// Bytes between two labels of the image.
pub fn image_bytes(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: two labels of one read-only section, `end` not before `start`.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Full memory fence.
pub fn fence() {
    core::sync::atomic::fence(Ordering::SeqCst);
}
