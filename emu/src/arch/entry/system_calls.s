# System calls of guest user mode.

user_system_call:                       # rsp: vcpu record; user rsp in SCRATCH_RSP
    mov [rsp + {SCRATCH_A}], rax
    mov [rsp + {SCRATCH_B}], rdx
    mov rax, [rsp + {INFO}]
    cmp byte ptr [rax + 1], 0
    jne 26f
    cmp qword ptr [rsp + {FAST_SYSCALL}], 0
    je 26f
    mov byte ptr [rax + 1], 1
    ENTER_KERNEL 0
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
    IRETQ user_syscall_iretq
26:                                     # the general way: pseudo vector 256
    mov rax, [rsp + {SCRATCH_A}]
    mov rdx, [rsp + {SCRATCH_B}]
    PUSH_SYSCALL_FRAME 0xe033
    push 0
    mov dword ptr [rsp + 4], 256
    jmp common_entry

    # SYSCALL of compatibility mode (pseudo vector 257) and SYSENTER (258).
    .globl syscall32_entry
syscall32_entry:
    PUSH_SYSCALL_FRAME 0xe023
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
