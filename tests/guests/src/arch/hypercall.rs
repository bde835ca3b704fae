//! The hypercall instruction. The typed calls are in `harness::xen`.

#![expect(unsafe_code)]
// UNSAFETY: the syscall instruction, and memory that hypercalls write.

use core::arch::asm;

/// A hypercall with up to five arguments; its result. Memory that the arguments
/// point to may change.
#[cfg(not(feature = "hypercall_page"))]
pub fn call(nr: u64, a: [u64; 5]) -> i64 {
    let ret: i64;
    // SAFETY: arguments are numbers or addresses of live data of the caller;
    // a wrong one is what tests want to see refused.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => ret,
            inlateout("rdi") a[0] => _, inlateout("rsi") a[1] => _, inlateout("rdx") a[2] => _,
            inlateout("r10") a[3] => _, inlateout("r8") a[4] => _,
            out("rcx") _, out("r11") _, out("r9") _,
        );
    }
    ret
}

/// As above, through the hypercall page.
#[cfg(feature = "hypercall_page")]
pub fn call(nr: u64, a: [u64; 5]) -> i64 {
    let ret: i64;
    // SAFETY: as above; the page was filled by the domain builder.
    unsafe {
        asm!(
            "call {page}",
            page = in(reg) page() + nr * 32,
            inlateout("rax") nr => ret,
            inlateout("rdi") a[0] => _, inlateout("rsi") a[1] => _, inlateout("rdx") a[2] => _,
            inlateout("r10") a[3] => _, inlateout("r8") a[4] => _,
            out("rcx") _, out("r11") _, out("r9") _,
        );
    }
    ret
}

/// Address of the hypercall page.
#[cfg(feature = "hypercall_page")]
pub fn page() -> u64 {
    super::entry::pvtest_hypercall_page as *const () as u64
}
