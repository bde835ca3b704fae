//! ELF notes, entry point, stacks and trap entry stubs, in assembly.
//!
//! Stacks: 64 KiB a vCPU in one aligned array, so that the stack pointer alone
//! tells the vCPU, whatever a test does to GS. The lowest quarter is the stack
//! of kernel snippets, the next the one that Xen switches to from user mode,
//! the rest the vCPU's own.

#![expect(unsafe_code)]
// UNSAFETY: assembly and symbols that it defines.

use core::arch::global_asm;

/// vCPUs that the kernel can use.
pub const MAX_VCPUS: usize = 4;
/// Bytes of one vCPU's stacks.
pub const STACK_SIZE: u64 = 65536;
/// Top of the snippets' stack, from the start of a vCPU's stacks.
pub const SNIPPET_STACK_TOP: u64 = 0x4000;
/// Top of the stack for entries from user mode.
pub const KERNEL_SP_TOP: u64 = 0x8000;
/// Virtual address of pseudo-physical frame 0.
pub const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Stub number of the event callback.
pub const STUB_EVENT: u16 = 256;
/// Stub number of the syscall callback.
pub const STUB_SYSCALL: u16 = 257;
/// Stub number of the failsafe callback.
pub const STUB_FAILSAFE: u16 = 260;
/// Where INIT_P2M asks for the P2M list.
pub const INIT_P2M: u64 = 0x80_0000_0000;

global_asm!(
    r#"
.macro note type, desc:vararg
    .balign 4
    .long 4, 7002f - 7001f, \type
    .asciz "Xen"
7001: \desc
7002:
    .balign 4
.endm
.pushsection .note.xen, "a", @note
    note 6, .asciz "xenner-pvtest"
    note 7, .asciz "1"
    note 8, .asciz "generic"
    note 5, .asciz "xen-3.0"
    note 3, .quad 0xffffffff80000000
    note 4, .quad 0
    note 1, .quad _start
    note 10, .ascii "!writable_page_tables|pae_pgdir_above_4gb"
    note 9, .asciz "yes"
    note 13, .quad 1, 1
    note 14, .quad 1
    note 12, .quad 0xffff800000000000
.popsection

.pushsection .bss
    .balign 65536
    .global pvtest_stacks
pvtest_stacks: .zero 4 * 65536
    .balign 8
    .global pvtest_entry_regs
pvtest_entry_regs: .zero 8 * 20
.popsection

.pushsection .text.start, "ax"
    .global _start
_start:
    mov [rip + pvtest_entry_regs], rsp
    lea rsp, [rip + pvtest_entry_regs + 20 * 8]
    pushfq
    push rdi
    push rsi
    push rdx
    push rax
    push r8
    push r9
    push r10
    push r12
    push r13
    push r14
    push r15
    push rbx
    push rbp
    mov eax, ss
    push rax
    mov eax, cs
    push rax
    mov eax, ds
    push rax
    push rcx
    push r11
    cld
    lea rsp, [rip + pvtest_stacks + 65536]
    mov rdi, rsi
    xor ebp, ebp
    call pvtest_main
    ud2

    .global pvtest_ap_entry
pvtest_ap_entry:
    cld
    xor ebp, ebp
    call pvtest_ap_main
    ud2

    .balign 16
    .global pvtest_stubs
pvtest_stubs:
    .set vector, 0
    .rept 264
    .balign 16
    .byte 0x68
    .long vector
    .byte 0xe9
    .long pvtest_trap_common - . - 4
    .set vector, vector + 1
    .endr

pvtest_trap_common:
    push rdi
    push rsi
    push rdx
    push rax
    push r8
    push r9
    push r10
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    and rsp, -16
    cld
    call pvtest_trap
    ud2
.popsection
"#
);

#[cfg(not(feature = "hypercall_page"))]
global_asm!(
    r#"
.pushsection .note.xen, "a", @note
    note 15, .quad 0x8000000000
    note 16, .quad 1
.popsection
"#
);

#[cfg(feature = "hypercall_page")]
global_asm!(
    r#"
.pushsection .note.xen, "a", @note
    note 2, .quad pvtest_hypercall_page
.popsection
.pushsection .text.hypercall_page, "ax"
    .balign 4096
    .global pvtest_hypercall_page
pvtest_hypercall_page: .fill 4096, 1, 0xc3
.popsection
"#
);

/// Registers that `_start` saved, in the order of its pushes from the last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EntryRegs {
    /// The stack pointer.
    pub rsp: u64,
    /// r11, rcx, ds, cs, ss.
    pub r11_rcx_ds_cs_ss: [u64; 5],
    /// rbp, rbx, r15 to r12, r10, r9, r8, rax, rdx.
    pub others: [u64; 11],
    /// Start info.
    pub rsi: u64,
    /// rdi.
    pub rdi: u64,
    /// Flags.
    pub rflags: u64,
}

unsafe extern "C" {
    static pvtest_stacks: u8;
    static pvtest_entry_regs: EntryRegs;
    static pvtest_stubs: u8;
    static image_end: u8;
    fn pvtest_ap_entry();
}

#[cfg(feature = "hypercall_page")]
unsafe extern "C" {
    /// The page that the domain builder fills; not called by this name.
    pub fn pvtest_hypercall_page();
}

/// Start of all stacks.
pub fn stacks() -> u64 {
    &raw const pvtest_stacks as u64
}

/// End of the kernel's image.
pub fn end_of_image() -> u64 {
    &raw const image_end as u64
}

/// Start of a vCPU's stacks.
pub fn stack_base(vcpu: usize) -> u64 {
    stacks() + vcpu as u64 * STACK_SIZE
}

/// Entry address of a trap or callback stub.
pub fn stub(number: u16) -> u64 {
    &raw const pvtest_stubs as u64 + u64::from(number) * 16
}

/// Entry address of other vCPUs.
pub fn ap_entry() -> u64 {
    pvtest_ap_entry as *const () as u64
}

/// The registers that the kernel was started with.
pub fn entry_regs() -> EntryRegs {
    // SAFETY: written once by `_start`, before any Rust code ran.
    unsafe { (&raw const pvtest_entry_regs).read_volatile() }
}
