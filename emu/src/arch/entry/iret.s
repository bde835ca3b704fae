# The iret hypercall. Guest stack: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss.

    # The frame's last word, and what keeps Rust in charge. An NMI's end is noted at \nmi, which comes
    # back to \back.
    .macro IRET_TO_RIP nmi, back
97: push qword ptr [rcx + 32]
    EX 97b, bad_iret_frame
    cmp byte ptr [rsp + 40 + {NMI_BLOCKED}], 0
    jne \nmi
\back: cmp word ptr [rax], 1
    je 43f
98: test byte ptr [rcx + 25], 1         # VGCF_in_syscall
    EX 98b, bad_iret_frame
    jne 43f
    .endm

    # The registers of the frame that rcx points at.
    .macro TAKE_REGISTERS
45: mov rax, [rcx]
    EX 45b, bad_iret_frame
46: mov r11, [rcx + 8]
    EX 46b, bad_iret_frame
47: mov rcx, [rcx + 16]
    EX 47b, bad_iret_frame
    .endm

syscall_iret:
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
    IRET_TO_RIP 44f, 41
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
    IRETQ iret_iretq
40:                                     # another code segment: the same once more
    movzx r11d, word ptr [rcx + 40]
    EX 40b, bad_iret_frame
    push r11
    IRET_TO_RIP 27f, 26
    or dword ptr [rsp + 8], 3
    test r11d, 3
    jne 24b
    # to guest kernel mode
    TAKE_REGISTERS
    IRETQ iret_kernel_iretq
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
    TAKE_REGISTERS
    SAVE_ALL
    cld
    mov rdi, rsp
    sub rsp, 8
    call {iret_slow}
    add rsp, 8
    jmp return_to_guest
