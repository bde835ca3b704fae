//! Ways into ring 0 and out of it.
//!
//! Three short ways take the bulk of all transitions without saving what they do
//! not touch: hypercalls, system calls of guest user mode, page faults of guest user
//! mode. All else goes through `common_entry`, which saves a whole
//! [`Regs`](xenner_emu_abi::mailbox::Regs) and calls Rust.
//!
//! Rules that hold throughout:
//! - Ring 0 runs with interrupts off, except at the one `hlt` of `idle_wait`. An interrupt that
//!   arrives elsewhere is a mistake of the host's, and ring 0 goes on as if it had not.
//! - On entry from ring 3 the stack pointer is the vcpu record's address less what
//!   the CPU pushed, so fields are addressed from the stack pointer.
//! - Only `iretq` to ring 3 leaves; nothing returns from ring 0 to ring 0 by `iretq`,
//!   because interpreted ring 0 does not know that.
//! - Every access to guest-virtual memory stands in the exception table.
//! - The direction flag is the guest's until `cld`, which comes before any call of Rust.

use core::arch::global_asm;
use core::mem::offset_of;

use xenner_emu_abi::area::{AREA_CONTEXT, AREA_MAILBOX, AREA_VCPU};
use xenner_emu_abi::frame::{BUSY, FULL, NOT_OWNED, TYPE_L1, TYPE_L4, TYPE_MASK};
use xenner_emu_abi::layout::{
    DIRECT_VA, FRAME_TABLE_VA, HOLE_END, HOLE_SHIFT, HOLE_TAG, TRAMPOLINE_VA,
};
use xenner_emu_abi::mailbox::{Mailbox, VECTOR_EVENT, VECTOR_TIMER};
use xenner_emu_abi::pte::L1_FORBIDDEN;
use xenner_xen_abi::callback::CALLBACKTYPE_EVENT;
use xenner_xen_abi::xen::VIRQ_TIMER;

use crate::percpu::{Handler, Vcpu};
use crate::trap::{TIMER_ACKNOWLEDGED, TIMER_RAISED};
use crate::{event, time};

/// Where the mailbox has the port of VIRQ_TIMER, from the vcpu record.
const TIMER_PORT: i64 = AREA_MAILBOX as i64 - AREA_VCPU as i64
    + offset_of!(Mailbox, virq_port) as i64
    + VIRQ_TIMER as i64 * 4;

/// The frame that `iretq` takes into the guest kernel, from the vcpu record: all but the two
/// addresses stands there for good.
const KERNEL_CONTEXT: i64 = AREA_CONTEXT as i64 - AREA_VCPU as i64;

global_asm!(
    r#"
    .macro EX from, to
    .pushsection .extable, "a"
    .quad \from, \to
    .popsection
    .endm

    # The registers of a frame below the error code (`Regs`), saved and restored.
    .macro SAVE_ARGUMENTS
    push rdi
    push rsi
    push rdx
    push rcx
    push rax
    push r8
    push r9
    push r10
    .endm
    .macro SAVE_REST
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm
    .macro SAVE_ALL
    SAVE_ARGUMENTS
    SAVE_REST
    .endm
    .macro RESTORE_ALL
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    pop r11
    pop r10
    pop r9
    pop r8
    pop rax
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    .endm

    .pushsection .rodata.entry, "a"
    .p2align 3
hole_end:
    .quad {HOLE_END}
l1_forbidden:
    .quad {L1_FORBIDDEN}
    .popsection

    # ---- start ---------------------------------------------------------------
    .section .text.entry, "ax"
    .globl emu_start
emu_start:                              # rdi: vcpu number
    xor ebp, ebp
    call {start}
    ud2

    # ---- hypercalls ----------------------------------------------------------
    # SYSCALL on hosts where it reaches ring 0; the vcpu's stub saved rsp and loaded ours.
    .globl syscall_entry
    .p2align 6
syscall_entry:                          # rsp: vcpu record
    cmp byte ptr [rsp + {MODE}], 0
    je 20f
    cmp eax, 23
    je 30f
    push 0xe02b
    push qword ptr [rsp + 8 + {SCRATCH_RSP}]
    push r11
    push 0xe033
    push rcx
    sub rsp, 8
hypercall:                              # rsp: vcpu record - 48: error, rip, cs, rflags, rsp, ss
    cmp eax, 1
    je mmu_update_one
    cmp eax, 24
    je vcpu_op_one
    cmp eax, 26
    je switch_address_space
hypercall_general:
    SAVE_ARGUMENTS
    cld                                 # a trap leaves the guest's direction
    cmp rax, 64
    jae 12f
    shl qword ptr [rsp + 112 + {TRACE}], 8
    mov byte ptr [rsp + 112 + {TRACE}], al
    inc qword ptr [rsp + rax*8 + 112 + {HYPERCALLS}]
    mov rcx, r10
    lea r11, [rip + {table}]
    call [r11 + rax*8]
15:
    mov rcx, [rsp + 112 + {INFO}]
    cmp word ptr [rcx], 1
    je 13f
    pop r10
    pop r9
    pop r8
    add rsp, 16
    pop rdx
    pop rsi
    pop rdi
    add rsp, 8
hypercall_iretq:
    iretq
    EX hypercall_iretq, iret_fault
12:
    mov rax, -38                        # ENOSYS
    jmp 15b
13:                                     # an event is to be delivered: the whole frame
    cld
    mov [rsp + 24], rax
    SAVE_REST
    mov rdi, rsp
    sub rsp, 8
    call {upcall}
    add rsp, 8
    jmp return_to_guest

    # mmu_update of one L1 entry, two thirds of all hypercalls of a boot: `mmu::mmu_update` in
    # few instructions. Whatever is out of the ordinary goes there instead, before anything
    # has changed.
    .p2align 6
mmu_update_one:
    cmp rsi, 1
    jne hypercall_general
    test rdx, rdx                       # nobody asks for the number done
    jne hypercall_general
    cmp r10, 0x7ff0                     # DOMID_SELF
    jne hypercall_general
    cmp rdi, [rip + hole_end]           # kernels are above
    jb hypercall_general
51: mov rcx, [rdi]
    EX 51b, hypercall_general
52: mov r11, [rdi + 8]
    EX 52b, hypercall_general
    test cl, 7                          # MMU_NORMAL_PT_UPDATE alone
    jne hypercall_general
    mov r10, rcx                        # rdx, rsi and r10 are free: their values are known
    shr r10, 12
    cmp r10, [rsp + 48 + {NR_FRAMES}]
    jae 59f
    movabs rdx, {FRAME_TABLE}
    mov eax, [rdx + r10*4]
    test eax, {NO_FREE_L1}
    jne 59f
    test al, 1                          # TYPE_L1
    jz 59f
    cmp byte ptr [rsp + 48 + {SMP}], 0
    jne 62f
63: test r11b, 1
    jz 55f
    test r11, [rip + l1_forbidden]
    jne 58f
    mov rsi, r11
    shl rsi, 12
    shr rsi, 24                         # the frame it names
    cmp rsi, [rsp + 48 + {NR_FRAMES}]
    jae 58f
    mov eax, [rdx + rsi*4]
    test r11b, 2
    jz 53f
    test eax, {NOT_WRITABLE}
    jne 58f
    lea r10d, [rax + 0x100]             # one writable mapping more
    lock cmpxchg [rdx + rsi*4], r10d
    jne 58f
54: or r11, 4
55: movabs rsi, {DIRECT}
    xchg [rsi + rcx], r11               # r11: the old entry
    mov eax, r11d
    and eax, 3
    cmp eax, 3
    jne 56f
    shl r11, 12
    shr r11, 24
    cmp r11, [rsp + 48 + {NR_FRAMES}]
    jae 56f
    mov byte ptr [rip + {writable_dropped}], 1
    lock sub dword ptr [rdx + r11*4], 0x100
56: cmp byte ptr [rsp + 48 + {SMP}], 0
    jne 64f
65: shl qword ptr [rsp + 48 + {TRACE}], 8
    mov byte ptr [rsp + 48 + {TRACE}], 1
    inc qword ptr [rsp + 48 + 8 + {HYPERCALLS}]
    xor eax, eax
    xor edx, edx
    mov esi, 1
    mov r10d, 0x7ff0
    mov rcx, [rsp + 48 + {INFO}]
    cmp word ptr [rcx], 1
    je 66f
    add rsp, 8
mmu_iretq:
    iretq
    EX mmu_iretq, iret_fault
53: test al, {NOT_OWNED}
    jz 54b
58: cmp byte ptr [rsp + 48 + {SMP}], 0
    je 59f
    shr rcx, 12
    lock sub dword ptr [rdx + rcx*4], 0x100     # if it was the last, the general way finds that
59: mov esi, 1
    xor edx, edx
    mov r10d, 0x7ff0
    mov eax, 1
    jmp hypercall_general
62: lea esi, [rax + 0x100]              # others may drop the table: it is held meanwhile
    lock cmpxchg [rdx + r10*4], esi
    je 63b
    jmp 59b
64: shr rcx, 12
    mov eax, -0x100
    lock xadd [rdx + rcx*4], eax
    cmp eax, 0x200
    jae 65b
    push rdi                            # that was the last reference
    push r8
    push r9
    sub rsp, 8
    mov rdi, rcx
    cld
    call {l1_released}
    add rsp, 8
    pop r9
    pop r8
    pop rdi
    jmp 65b
66:                                     # an event is to be delivered
    SAVE_ARGUMENTS
    jmp 13b

    # mmuext_op of a kernel that goes to another process: a new base pointer and a new user base
    # pointer, both of tables that are L4 already. What `mmuext::new_baseptr` and `new_user_baseptr`
    # do; all else is left to them, before anything has changed.
    .macro RELEASE mfn
    push rdi
    push r8
    push r9
    push r11
    mov rdi, \mfn
    cld
    call {release}
    pop r11
    pop r9
    pop r8
    pop rdi
    movabs rdx, {FRAME_TABLE}
    .endm
    .p2align 6
switch_address_space:
    cmp rsi, 2
    jne hypercall_general
    test rdx, rdx                       # nobody asks for the number done
    jne hypercall_general
    cmp r10, 0x7ff0                     # DOMID_SELF
    jne hypercall_general
    cmp rdi, [rip + hole_end]
    jb hypercall_general
51: cmp dword ptr [rdi], 5              # MMUEXT_NEW_BASEPTR
    EX 51b, hypercall_general
    jne hypercall_general
52: cmp dword ptr [rdi + 24], 15        # MMUEXT_NEW_USER_BASEPTR
    EX 52b, hypercall_general
    jne hypercall_general
53: mov rcx, [rdi + 8]
    EX 53b, hypercall_general
54: mov r11, [rdi + 32]
    EX 54b, hypercall_general
    movabs rdx, {FRAME_TABLE}           # rdx, rsi and r10 are free: their values are known
    cmp rcx, [rsp + 48 + {NR_FRAMES}]
    jae 59f
    mov eax, [rdx + rcx*4]
    mov esi, eax
    and esi, {HELD_MASK}
    cmp esi, {TYPE_L4}
    jne 59f
    lea esi, [rax + 0x100]
    lock cmpxchg [rdx + rcx*4], esi
    jne 59f
    test r11, r11                       # 0: no user base pointer
    jz 55f
    cmp r11, [rsp + 48 + {NR_FRAMES}]
    jae 58f
    mov eax, [rdx + r11*4]
    mov esi, eax
    and esi, {HELD_MASK}
    cmp esi, {TYPE_L4}
    jne 58f
    lea esi, [rax + 0x100]
    lock cmpxchg [rdx + r11*4], esi
    jne 58f
55: shl rcx, 12
    shl r11, 12
    mov rsi, [rsp + 48 + {KERNEL_CR3}]
    mov [rsp + 48 + {KERNEL_CR3}], rcx
    mov cr3, rcx
    shr rsi, 12
    mov eax, [rdx + rsi*4]
    cmp eax, 0x200
    jb 61f
    lea ecx, [rax - 0x100]
    lock cmpxchg [rdx + rsi*4], ecx
    jne 61f
56: mov rsi, [rsp + 48 + {USER_CR3}]
    mov [rsp + 48 + {USER_CR3}], r11
    shr rsi, 12
    jz 57f
    mov eax, [rdx + rsi*4]
    cmp eax, 0x200
    jb 62f
    lea ecx, [rax - 0x100]
    lock cmpxchg [rdx + rsi*4], ecx
    jne 62f
57: shl qword ptr [rsp + 48 + {TRACE}], 8
    mov byte ptr [rsp + 48 + {TRACE}], 26
    inc qword ptr [rsp + 26*8 + 48 + {HYPERCALLS}]
    xor eax, eax
    xor edx, edx
    mov esi, 2
    mov r10d, 0x7ff0
    mov rcx, [rsp + 48 + {INFO}]
    cmp word ptr [rcx], 1
    je 63f
    add rsp, 8
switch_iretq:
    iretq
    EX switch_iretq, iret_fault
58: RELEASE rcx
59: mov esi, 2
    xor edx, edx
    mov r10d, 0x7ff0
    mov eax, 26
    jmp hypercall_general
61: RELEASE rsi
    jmp 56b
62: RELEASE rsi
    jmp 57b
63:                                     # an event is to be delivered
    SAVE_ARGUMENTS
    jmp 13b

    # Hypercalls that want the guest's whole frame: called from the table.
    .globl hypercall_with_regs
hypercall_with_regs:
    add rsp, 8                          # back to the light frame
    SAVE_REST
    mov rdi, rsp
    sub rsp, 8
    call {hypercall_full}
    add rsp, 8
    jmp return_to_guest

    # vcpu_op of a kernel that sets its own one-shot timer, as it does at every tick: what
    # `time::arm` does, with the clock that it remembered if there is no other timer. All else is
    # left to Rust, which sets the timer whatever it was.
    .p2align 6
vcpu_op_one:
    cmp edi, 8                          # VCPUOP_set_singleshot_timer
    jne hypercall_general
    cmp esi, [rsp + 48 + {ID}]
    jne hypercall_general
    cmp rdx, [rip + hole_end]           # kernels are above
    jb hypercall_general
    mov rcx, [rsp + 48 + {INFO}]
    mov ecx, [rcx + {TIME}]             # the record's version
    cmp ecx, [rsp + 48 + {CLOCK_VERSION}]
    jne hypercall_general
81: mov rax, [rdx]                      # the time
    EX 81b, vcpu_op_general
    mov [rsp + 48 + {ONESHOT}], rax
    mov r11, rdx
    sub rax, [rsp + 48 + {CLOCK_SYSTEM}]
    jbe 82f
    mul qword ptr [rsp + 48 + {CLOCK_TICKS}]
    shrd rax, rdx, 32
    shr rdx, 32
    jne 82f
    add rax, [rsp + 48 + {CLOCK_TSC}]
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0x6e0                      # the TSC deadline
    wrmsr
    inc qword ptr [rsp + 24*8 + 48 + {HYPERCALLS}]
    xor eax, eax
    mov rdx, r11
    add rsp, 8
    mov rcx, [rsp + 40 + {INFO}]
    cmp word ptr [rcx], 1
    je 83f
vcpu_op_iretq:
    iretq
    EX vcpu_op_iretq, iret_fault
82: mov rdx, r11
vcpu_op_general:
    mov eax, 24
    jmp hypercall_general
83:                                     # an event is to be delivered
    sub rsp, 8
    SAVE_ARGUMENTS
    jmp 13b

    # The iret hypercall. Guest stack: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss.
30:
    mov rcx, [rsp + {SCRATCH_RSP}]
iret_hypercall:                         # rsp: vcpu record; rcx: guest rsp
    inc qword ptr [rsp + 23*8 + {HYPERCALLS}]
    cmp rcx, [rip + hole_end]
    jb 29f
28: mov rax, [rsp + {INFO}]
34: movzx r11d, word ptr [rcx + 64]
    EX 34b, bad_iret_frame
    or r11d, 3
    push r11
33: push qword ptr [rcx + 56]
    EX 33b, bad_iret_frame
31: mov r11, [rcx + 48]
    EX 31b, bad_iret_frame
    and r11d, 0x00244fd7                # ID AC RF NT OF DF IF TF SF ZF AF PF CF (and bit 1)
    bt r11d, 9
    setnc byte ptr [rax + 1]
    or r11d, 0x202
    push r11
35: cmp word ptr [rcx + 40], 0x33       # Linux' code segment of 64-bit processes
    EX 35b, bad_iret_frame
    jne 40f
    push 0x33
32: push qword ptr [rcx + 32]
    EX 32b, bad_iret_frame
    cmp byte ptr [rsp + 40 + {NMI_BLOCKED}], 0
    jne 44f
41: cmp word ptr [rax], 1
    je 43f
36: test byte ptr [rcx + 25], 1         # VGCF_in_syscall
    EX 36b, bad_iret_frame
    jne 43f
24:                                     # to guest user mode
    mov r11, [rsp + 40 + {USER_CR3}]
    test r11, r11
    jz no_user_base
37: push qword ptr [rcx + 8]
    EX 37b, bad_iret_frame
38: mov rax, [rcx]
    EX 38b, bad_iret_frame
39: mov rcx, [rcx + 16]
    EX 39b, bad_iret_frame
    mov byte ptr [rsp + 48 + {MODE}], 0
    swapgs
    mov cr3, r11
    pop r11
iret_iretq:
    iretq
    EX iret_iretq, iret_fault
40:                                     # another code segment: the same once more
    movzx r11d, word ptr [rcx + 40]
    EX 40b, bad_iret_frame
    push r11
25: push qword ptr [rcx + 32]
    EX 25b, bad_iret_frame
    cmp byte ptr [rsp + 40 + {NMI_BLOCKED}], 0
    jne 27f
26: cmp word ptr [rax], 1
    je 43f
42: test byte ptr [rcx + 25], 1
    EX 42b, bad_iret_frame
    jne 43f
    or dword ptr [rsp + 8], 3
    test r11d, 3
    jne 24b
    # to guest kernel mode
45: mov rax, [rcx]
    EX 45b, bad_iret_frame
46: mov r11, [rcx + 8]
    EX 46b, bad_iret_frame
47: mov rcx, [rcx + 16]
    EX 47b, bad_iret_frame
iret_kernel_iretq:
    iretq
    EX iret_kernel_iretq, iret_fault
29: mov rax, rcx                        # below the kernel: in the hole?
    shr rax, {HOLE_SHIFT}
    cmp eax, {HOLE_TAG}
    je bad_iret_frame
    jmp 28b
44: mov byte ptr [rsp + 40 + {NMI_BLOCKED}], 0
    jmp 41b
27: mov byte ptr [rsp + 40 + {NMI_BLOCKED}], 0
    jmp 26b
43:                                     # an event is pending, or sysret semantics: Rust does it
    push 0
48: mov rax, [rcx + 24]
    EX 48b, bad_iret_frame
    mov [rsp], eax                      # the frame's flags travel in the error slot
49: mov rax, [rcx]
    EX 49b, bad_iret_frame
50: mov r11, [rcx + 8]
    EX 50b, bad_iret_frame
51: mov rcx, [rcx + 16]
    EX 51b, bad_iret_frame
    SAVE_ALL
    cld
    mov rdi, rsp
    sub rsp, 8
    call {iret_slow}
    add rsp, 8
    jmp return_to_guest

    # ---- system calls of guest user mode ------------------------------------
20:                                     # rsp: vcpu record; user rsp in SCRATCH_RSP
    mov [rsp + {SCRATCH_A}], rax
    mov [rsp + {SCRATCH_B}], rdx
    mov rax, [rsp + {INFO}]
    cmp byte ptr [rax + 1], 0
    jne 26f
    cmp qword ptr [rsp + {FAST_SYSCALL}], 0
    je 26f
    mov byte ptr [rax + 1], 1
    mov rax, [rsp + {KERNEL_CR3}]
    mov cr3, rax
    swapgs
    mov byte ptr [rsp + {MODE}], 1
    mov rax, [rsp + {KERNEL_FRAME}]
    mov rdx, [rsp + {SCRATCH_RSP}]
21: mov qword ptr [rax + 48], 0xe02b
    EX 21b, bad_stack
22: mov qword ptr [rax], rcx
    EX 22b, bad_stack
23: mov [rax + 40], rdx
    EX 23b, bad_stack
    mov [rax + 32], r11
    mov qword ptr [rax + 24], 0xe033
    mov [rax + 16], rcx
    mov [rax + 8], r11
    mov rdx, [rsp + {SCRATCH_B}]
    mov [rsp + {KERNEL_CONTEXT} + 24], rax
    mov rax, [rsp + {FAST_SYSCALL}]
    mov [rsp + {KERNEL_CONTEXT}], rax
    mov rax, [rsp + {SCRATCH_A}]
    lea rsp, [rsp + {KERNEL_CONTEXT}]
user_syscall_iretq:
    iretq
    EX user_syscall_iretq, iret_fault
26:                                     # the general way: pseudo vector 256
    mov rax, [rsp + {SCRATCH_A}]
    mov rdx, [rsp + {SCRATCH_B}]
    push 0xe02b
    push qword ptr [rsp + 8 + {SCRATCH_RSP}]
    push r11
    push 0xe033
    push rcx
    push 0
    mov dword ptr [rsp + 4], 256
    jmp common_entry

    # SYSCALL of compatibility mode (pseudo vector 257) and SYSENTER (258).
    .globl syscall32_entry
syscall32_entry:
    push 0xe02b
    push qword ptr [rsp + 8 + {SCRATCH_RSP}]
    push r11
    push 0xe023
    push rcx
    push 0
    mov dword ptr [rsp + 4], 257
    jmp common_entry
    .globl sysenter_entry
sysenter_entry:                         # rsp: vcpu record (SYSENTER_ESP)
    push 0xe02b
    push 0
    pushfq
    or qword ptr [rsp], 0x200
    push 3
    push 0
    push 0
    mov dword ptr [rsp + 4], 258
    jmp common_entry

    # ---- general protection -------------------------------------------------
    .globl gp_entry
    .p2align 6
gp_entry:                               # error, rip, cs, rflags, rsp, ss
    # From ring 0 the mode read here means nothing; no instruction of ring 0 looks like one
    # of those below, so the frame comes to `common_entry`, which tells the rings apart.
    cmp byte ptr [rsp + 48 + {MODE}], 0
    je 64f
    push rcx                            # free in a hypercall, as SYSCALL has it
    mov rcx, [rsp + 16]
61: cmp word ptr [rcx], 0x05f4          # a patched hypercall site: hlt, 05
    EX 61b, gp_general
    jne 62f
    cmp eax, 23
    je 63f
    pop rcx
    add qword ptr [rsp + 8], 2
    jmp hypercall
63: mov rcx, [rsp + 40]
    add rsp, 56
    jmp iret_hypercall
62: cmp word ptr [rcx], 0x320f          # rdmsr
    EX 62b, gp_general
    je 65f
66: cmp byte ptr [rcx], 0xfa            # cli: no effect
    EX 66b, gp_general
    jne gp_general
    cmp byte ptr [rsp + 56 + {IOPL}], 0
    je gp_general
    pop rcx
    inc qword ptr [rsp + 8]
    add rsp, 8
gp_cli_iretq:
    iretq
    EX gp_cli_iretq, iret_fault
65: mov rcx, [rsp]                      # of a segment base, as at every switch of processes
    cmp ecx, 0xc0000100
    jb gp_general
    cmp ecx, 0xc0000102
    ja gp_general
    rdmsr
    pop rcx
    add qword ptr [rsp + 8], 2
    add rsp, 8
gp_rdmsr_iretq:
    iretq
    EX gp_rdmsr_iretq, iret_fault
gp_general:
    pop rcx
69: mov dword ptr [rsp + 4], 13
    jmp common_entry
64:                                     # guest user mode
    cmp dword ptr [rsp + 8], {TRAMP_LO}
    jne 69b
    cmp dword ptr [rsp + 12], {TRAMP_HI}
    jne 69b
    # SYSCALL that stayed in ring 3: rcx and r11 are as SYSCALL leaves them
    push qword ptr [rsp + 32]
    pop qword ptr [rsp + 48 + {SCRATCH_RSP}]
    add rsp, 48
    jmp 20b

    # ---- timer and events -----------------------------------------------------
    # The tick of a guest that computes: the VIRQ is raised and the guest's event callback
    # entered. What is out of the ordinary goes to Rust, behind the acknowledgement (87) or behind
    # the VIRQ as well (86, 80).
    #
    # The interrupt is not held against the deadline: one that was under way when the guest set a
    # new deadline raises the VIRQ for the old one, and the new one still comes.
    .globl timer_entry
    .p2align 6
timer_entry:                            # rip, cs, rflags, rsp, ss
    test byte ptr [rsp + 8], 3
    jz 88f
    mov [rsp + 40 + {SCRATCH_A}], rax
    mov [rsp + 40 + {SCRATCH_B}], rdx
    mov [rsp + 40 + {SCRATCH_RSP}], rcx
    mov ecx, 0x80b                      # acknowledge
    xor eax, eax
    xor edx, edx
    wrmsr
    cmp byte ptr [rsp + 40 + {ALONE}], 0
    je 87f
    mov eax, [rsp + 40 + {TIMER_PORT}]  # bound to this vcpu's VIRQ, or 0
    test eax, eax
    je 87f
    mov rdx, [rsp + 40 + {SHARED_INFO}]
    lock bts qword ptr [rdx + {PENDING}], rax
    jc 84f
    bt qword ptr [rdx + {MASK}], rax
    jc 84f
    shr eax, 6
    mov rdx, [rsp + 40 + {INFO}]
    lock bts qword ptr [rdx + 8], rax
    mov byte ptr [rdx], 1
    cmp dword ptr [rip + {pollers}], 0
    jne 80f
    cmp byte ptr [rdx + 1], 0
    jne 89f
85:                                     # an event is to be delivered; rdx: vcpu_info
    mov rcx, [rsp + 40 + {EVENT_CALLBACK}]
    test rcx, rcx
    jz 89f
    cmp byte ptr [rsp + 40 + {MODE}], 0
    jne 80f
    mov byte ptr [rdx + 1], 1
    mov rax, [rsp + 40 + {KERNEL_CR3}]
    mov cr3, rax
    swapgs
    mov byte ptr [rsp + 40 + {MODE}], 1
    mov rax, [rsp + 40 + {KERNEL_FRAME}]
21: pop qword ptr [rax + 16]            # rip
    EX 21b, bad_stack
22: pop qword ptr [rax + 24]
    EX 22b, bad_stack
23: pop qword ptr [rax + 32]
    EX 23b, bad_stack
24: pop qword ptr [rax + 40]
    EX 24b, bad_stack
25: pop qword ptr [rax + 48]
    EX 25b, bad_stack
27: mov [rax + 8], r11
    EX 27b, bad_stack
    mov rdx, [rsp + {SCRATCH_RSP}]
28: mov [rax], rdx
    EX 28b, bad_stack
    mov [rsp + {KERNEL_CONTEXT} + 24], rax
    mov [rsp + {KERNEL_CONTEXT}], rcx   # the callback finds rcx and r11 on its stack
    mov rax, [rsp + {SCRATCH_A}]
    mov rdx, [rsp + {SCRATCH_B}]
    lea rsp, [rsp + {KERNEL_CONTEXT}]
event_iretq:
    iretq
    EX event_iretq, iret_fault
84:                                     # it is pending or masked already
    cmp dword ptr [rip + {pollers}], 0
    jne 80f
    mov rdx, [rsp + 40 + {INFO}]
    cmp word ptr [rdx], 1
    je 85b
89:                                     # back to where the guest was
    mov rax, [rsp + 40 + {SCRATCH_A}]
    mov rdx, [rsp + 40 + {SCRATCH_B}]
    mov rcx, [rsp + 40 + {SCRATCH_RSP}]
no_event_iretq:
    iretq
    EX no_event_iretq, iret_fault
80:                                     # `trap::finish` does the rest; others may poll
    mov rax, [rsp + 40 + {SCRATCH_A}]
    mov rdx, [rsp + 40 + {SCRATCH_B}]
    mov rcx, [rsp + 40 + {SCRATCH_RSP}]
    push 0
    mov dword ptr [rsp + 4], {TIMER_RAISED}
    jmp common_entry
87: mov rax, [rsp + 40 + {SCRATCH_A}]
    mov rdx, [rsp + 40 + {SCRATCH_B}]
    mov rcx, [rsp + 40 + {SCRATCH_RSP}]
    push 0
    mov dword ptr [rsp + 4], {TIMER_ACKNOWLEDGED}
    jmp common_entry
88: push 0
    mov dword ptr [rsp + 4], {VECTOR_TIMER}
    jmp common_entry

    .globl event_entry
    .p2align 6
event_entry:
    test byte ptr [rsp + 8], 3
    jz 88f
    mov [rsp + 40 + {SCRATCH_A}], rax
    mov [rsp + 40 + {SCRATCH_B}], rdx
    mov [rsp + 40 + {SCRATCH_RSP}], rcx
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    mov rdx, [rsp + 40 + {INFO}]
    cmp word ptr [rdx], 1
    je 85b
    jmp 89b
88: push 0
    mov dword ptr [rsp + 4], {VECTOR_EVENT}
    jmp common_entry

    # ---- page faults --------------------------------------------------------
    .globl pf_entry
    .p2align 6
pf_entry:
    test byte ptr [rsp + 16], 3
    jz 79f
    cmp byte ptr [rsp + 48 + {MODE}], 0
    jne 79f
    mov [rsp + 48 + {SCRATCH_A}], rax
    mov [rsp + 48 + {SCRATCH_B}], rdx
    mov rax, [rsp + 48 + {INFO}]
    cmp byte ptr [rax + 1], 0
    jne 78f
    cmp qword ptr [rsp + 48 + {FAST_PF}], 0
    je 78f
    mov rdx, cr2
    mov [rax + 16], rdx
    mov byte ptr [rax + 1], 1
    mov rax, [rsp + 48 + {KERNEL_CR3}]
    mov cr3, rax
    swapgs
    mov byte ptr [rsp + 48 + {MODE}], 1
    mov rax, [rsp + 48 + {KERNEL_FRAME}]
    and qword ptr [rsp], 0x7ffffff7     # reserved bits are the host's affair
71: pop qword ptr [rax + 8]             # the error code
    EX 71b, bad_stack
72: pop qword ptr [rax + 16]            # rip
    EX 72b, bad_stack
73: pop qword ptr [rax + 24]
    EX 73b, bad_stack
74: pop qword ptr [rax + 32]
    EX 74b, bad_stack
75: pop qword ptr [rax + 40]
    EX 75b, bad_stack
76: pop qword ptr [rax + 48]
    EX 76b, bad_stack
77: mov [rax], r11
    EX 77b, bad_stack
70: mov [rax - 8], rcx
    EX 70b, bad_stack
    sub rax, 8
    mov [rsp + {KERNEL_CONTEXT} + 24], rax
    mov rax, [rsp + {FAST_PF}]
    mov [rsp + {KERNEL_CONTEXT}], rax
    mov rax, [rsp + {SCRATCH_A}]
    mov rdx, [rsp + {SCRATCH_B}]
    lea rsp, [rsp + {KERNEL_CONTEXT}]
pf_iretq:
    iretq
    EX pf_iretq, iret_fault
78: mov rax, [rsp + 48 + {SCRATCH_A}]
    mov rdx, [rsp + 48 + {SCRATCH_B}]
79: mov dword ptr [rsp + 4], 14
    # fall through

    # ---- everything else ----------------------------------------------------
    .globl common_entry
common_entry:                           # error and vector, rip, cs, rflags, rsp, ss
    SAVE_ALL
    cld
    mov rdi, rsp
    sub rsp, 8
    test byte ptr [rsp + 144], 3
    jz 91f
    call {trap}
    add rsp, 8
    .globl return_to_guest
return_to_guest:
    RESTORE_ALL
    add rsp, 8
common_iretq:
    iretq
    EX common_iretq, iret_fault
91:                                     # from ring 0
    call {trap_ring0}
    add rsp, 8
    test rax, rax
    jz 92f
    mov rsp, rax
    test al, 1
    jz idle_resume
    dec rsp
    jmp return_to_guest
92:                                     # go on where the old stack says, with the old flags
    RESTORE_ALL
    add rsp, 24
    popfq
    mov rsp, [rsp]
    ret

    # Fix-ups that Rust knows by address and that are never jumped to after a fault.
    .globl bad_stack
    .globl iret_fault
bad_stack:
iret_fault:
    ud2
    # These two are jumped to as well.
    .globl bad_iret_frame
bad_iret_frame:
    mov edi, 3
    jmp {fatal}
    .globl no_user_base
no_user_base:
    mov edi, 4
    jmp {fatal}

    # Sleep until an interrupt. rdi: where to save the stack pointer.
    .globl idle_wait
idle_wait:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    sti
    .globl idle_open
idle_open:                              # from here to idle_resume interrupts arrive
    hlt
    cli
    .globl idle_resume
idle_resume:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    # ---- one stub a vector --------------------------------------------------
    .globl vector_stubs
    .p2align 4
vector_stubs:
    .set vec, 0
    .rept 256
    .p2align 4
    .if vec == 8 || vec == 10 || vec == 11 || vec == 12 || vec == 17 || vec == 21 || vec == 29 || vec == 30
    mov dword ptr [rsp + 4], vec
    jmp common_entry
    .else
    push 0
    mov dword ptr [rsp + 4], vec
    jmp common_entry
    .endif
    .set vec, vec + 1
    .endr
    "#,
    start = sym crate::boot::start,
    table = sym crate::hypercall::TABLE,
    writable_dropped = sym crate::mmu::rules::WRITABLE_DROPPED,
    upcall = sym crate::trap::upcall_after_hypercall,
    hypercall_full = sym crate::hypercall::with_regs,
    iret_slow = sym crate::trap::iret_slow,
    trap = sym crate::trap::from_guest,
    trap_ring0 = sym crate::trap::from_ring0,
    fatal = sym crate::trap::fatal,
    MODE = const offset_of!(Vcpu, kernel_mode),
    SCRATCH_RSP = const offset_of!(Vcpu, scratch_rsp),
    SCRATCH_A = const offset_of!(Vcpu, scratch_a),
    SCRATCH_B = const offset_of!(Vcpu, scratch_b),
    KERNEL_CR3 = const offset_of!(Vcpu, kernel_cr3),
    USER_CR3 = const offset_of!(Vcpu, user_cr3),
    KERNEL_FRAME = const offset_of!(Vcpu, kernel_frame),
    KERNEL_CONTEXT = const KERNEL_CONTEXT,
    INFO = const offset_of!(Vcpu, info),
    FAST_SYSCALL = const offset_of!(Vcpu, fast_syscall),
    FAST_PF = const offset_of!(Vcpu, fast_pf),
    TRACE = const offset_of!(Vcpu, trace),
    HYPERCALLS = const offset_of!(Vcpu, hypercalls),
    IOPL = const offset_of!(Vcpu, iopl),
    ID = const offset_of!(Vcpu, id),
    SHARED_INFO = const offset_of!(Vcpu, shared_info),
    ONESHOT = const offset_of!(Vcpu, oneshot),
    ALONE = const offset_of!(Vcpu, oneshot_alone),
    CLOCK_VERSION = const offset_of!(Vcpu, clock_version),
    CLOCK_TSC = const offset_of!(Vcpu, clock_tsc),
    CLOCK_SYSTEM = const offset_of!(Vcpu, clock_system),
    CLOCK_TICKS = const offset_of!(Vcpu, clock_ticks),
    EVENT_CALLBACK = const offset_of!(Vcpu, callbacks)
        + CALLBACKTYPE_EVENT as usize * size_of::<Handler>() + offset_of!(Handler, rip),
    TIMER_PORT = const TIMER_PORT,
    PENDING = const event::PENDING,
    MASK = const event::MASK,
    TIME = const time::TIME,
    VECTOR_TIMER = const VECTOR_TIMER,
    TIMER_RAISED = const TIMER_RAISED,
    TIMER_ACKNOWLEDGED = const TIMER_ACKNOWLEDGED,
    VECTOR_EVENT = const VECTOR_EVENT,
    pollers = sym event::POLLERS,
    NR_FRAMES = const offset_of!(Vcpu, nr_frames),
    FRAME_TABLE = const FRAME_TABLE_VA as i64,
    DIRECT = const DIRECT_VA as i64,
    L1_FORBIDDEN = const L1_FORBIDDEN as i64,
    NO_FREE_L1 = const (TYPE_MASK & !TYPE_L1 | NOT_OWNED | BUSY | FULL) as i32,
    NOT_WRITABLE = const (TYPE_MASK | NOT_OWNED | FULL) as i32,
    SMP = const offset_of!(Vcpu, smp),
    l1_released = sym crate::mmu::types::l1_released,
    release = sym crate::mmu::types::release_l4,
    TYPE_L4 = const TYPE_L4,
    HELD_MASK = const (TYPE_MASK | BUSY | FULL) as i32,
    NOT_OWNED = const NOT_OWNED,
    NMI_BLOCKED = const offset_of!(Vcpu, nmi_blocked),
    HOLE_SHIFT = const HOLE_SHIFT,
    HOLE_END = const HOLE_END as i64,
    HOLE_TAG = const HOLE_TAG,
    TRAMP_LO = const TRAMPOLINE_VA as u32 as i32,
    TRAMP_HI = const (TRAMPOLINE_VA >> 32) as u32 as i32,
);
