//! Everything with assembly or raw memory: entry, hypercalls, trap entry,
//! running of snippets, per-vCPU state. All `unsafe` of the kernel is here; the
//! tests above are safe Rust over it.

pub mod entry;
pub mod hypercall;
pub mod memory;
pub mod probe;
pub mod trap;
pub mod vcpu;

/// Machine code of the given assembly lines (Intel syntax), as bytes that can
/// be copied to where they shall run. Local labels are numbers 2 to 89.
#[macro_export]
macro_rules! code {
    ($($line:literal),+ $(,)?) => {{
        let start: *const u8;
        let end: *const u8;
        #[expect(unsafe_code, reason = "emits bytes")]
        // SAFETY: only puts bytes into a read-only section and takes their addresses.
        let () = unsafe {
            core::arch::asm!(
                ".pushsection .rodata.snippet, \"a\"", "91:", $($line),+, "92:", ".popsection",
                "lea {0}, [rip + 91b]", "lea {1}, [rip + 92b]",
                out(reg) start, out(reg) end, options(nomem, nostack),
            )
        };
        $crate::arch::memory::image_bytes(start, end)
    }};
}
