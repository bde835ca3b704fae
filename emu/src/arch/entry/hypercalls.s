# The start, and hypercalls on their way to Rust.

    .section .text.entry, "ax"
    .globl emu_start
emu_start:                              # rdi: vcpu number
    xor ebp, ebp
    call {start}
    ud2

    # SYSCALL on hosts where it reaches ring 0; the vcpu's stub saved rsp and loaded ours.
    .globl syscall_entry
    .p2align 6
syscall_entry:                          # rsp: vcpu record
    cmp byte ptr [rsp + {MODE}], 0
    je user_system_call
    cmp eax, 23
    je syscall_iret
    PUSH_SYSCALL_FRAME 0xe033
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
    je hypercall_event
    pop r10
    pop r9
    pop r8
    add rsp, 16
    pop rdx
    pop rsi
    pop rdi
    add rsp, 8
    IRETQ hypercall_iretq
12:
    mov rax, -38                        # ENOSYS
    jmp 15b
hypercall_event:                        # an event is to be delivered: the whole frame
    cld
    mov [rsp + 24], rax
    SAVE_REST
    mov rdi, rsp
    sub rsp, 8
    call {upcall}
    add rsp, 8
    jmp return_to_guest
