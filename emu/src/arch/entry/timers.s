# The timer's interrupt and that of an event.

    # Frees rax, rcx and rdx, and ends the interrupt for the local APIC.
    .macro ACKNOWLEDGE
    mov [rsp + 40 + {SCRATCH_A}], rax
    mov [rsp + 40 + {SCRATCH_B}], rdx
    mov [rsp + 40 + {SCRATCH_RSP}], rcx
    mov ecx, 0x80b                      # EOI
    xor eax, eax
    xor edx, edx
    wrmsr
    .endm
    .macro TAKE_BACK
    mov rax, [rsp + 40 + {SCRATCH_A}]
    mov rdx, [rsp + 40 + {SCRATCH_B}]
    mov rcx, [rsp + 40 + {SCRATCH_RSP}]
    .endm

    # The tick of a guest that computes: the VIRQ is raised and the guest's event callback
    # entered. What is out of the ordinary goes to Rust, behind the acknowledgement (87) or behind
    # the VIRQ as well (80).
    #
    # The interrupt is not held against the deadline: one that was under way when the guest set a
    # new deadline raises the VIRQ for the old one, and the new one still comes.
    .globl timer_entry
    .p2align 6
timer_entry:                            # rip, cs, rflags, rsp, ss
    test byte ptr [rsp + 8], 3
    jz 88f
    ACKNOWLEDGE
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
    ENTER_KERNEL 40
    POP_TO 16                           # rip
    POP_TO 24
    POP_TO 32
    POP_TO 40
    POP_TO 48
21: mov [rax + 8], r11
    EX 21b, bad_stack
    mov rdx, [rsp + {SCRATCH_RSP}]
22: mov [rax], rdx
    EX 22b, bad_stack
    mov [rsp + {KERNEL_CONTEXT} + 24], rax
    mov [rsp + {KERNEL_CONTEXT}], rcx   # the callback finds rcx and r11 on its stack
    mov rax, [rsp + {SCRATCH_A}]
    mov rdx, [rsp + {SCRATCH_B}]
    lea rsp, [rsp + {KERNEL_CONTEXT}]
    IRETQ event_iretq
84:                                     # it is pending or masked already
    cmp dword ptr [rip + {pollers}], 0
    jne 80f
    mov rdx, [rsp + 40 + {INFO}]
    cmp word ptr [rdx], 1
    je 85b
89:                                     # back to where the guest was
    TAKE_BACK
    IRETQ no_event_iretq
80:                                     # `trap::finish` does the rest; others may poll
    TAKE_BACK
    push 0
    mov dword ptr [rsp + 4], {TIMER_RAISED}
    jmp common_entry
87: TAKE_BACK
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
    ACKNOWLEDGE
    mov rdx, [rsp + 40 + {INFO}]
    cmp word ptr [rdx], 1
    je 85b
    jmp 89b
88: push 0
    mov dword ptr [rsp + 4], {VECTOR_EVENT}
    jmp common_entry
