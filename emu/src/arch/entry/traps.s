# Page faults, all other vectors, the ways back, and sleep.

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
    ENTER_KERNEL 48
    and qword ptr [rsp], 0x7ffffff7     # reserved bits are the host's affair
    POP_TO 8                            # the error code
    POP_TO 16                           # rip
    POP_TO 24
    POP_TO 32
    POP_TO 40
    POP_TO 48
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
    IRETQ pf_iretq
78: mov rax, [rsp + 48 + {SCRATCH_A}]
    mov rdx, [rsp + 48 + {SCRATCH_B}]
79: mov dword ptr [rsp + 4], 14
    # fall through

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
    IRETQ common_iretq
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
    SAVE_KEPT
    mov [rdi], rsp
    sti
    .globl idle_open
idle_open:                              # from here to idle_resume interrupts arrive
    hlt
    cli
    .globl idle_resume
idle_resume:
    RESTORE_KEPT
    ret

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
