# #GP: hypercalls and system calls where SYSCALL stays in ring 3, and frequent privileged instructions.

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
    IRETQ gp_cli_iretq
65: mov rcx, [rsp]                      # of a segment base, as at every switch of processes
    cmp ecx, 0xc0000100
    jb gp_general
    cmp ecx, 0xc0000102
    ja gp_general
    rdmsr
    pop rcx
    add qword ptr [rsp + 8], 2
    add rsp, 8
    IRETQ gp_rdmsr_iretq
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
    jmp user_system_call
