# What the other files use: the exception table, saving and restoring of registers, constants.

    .macro EX from, to
    .pushsection .extable, "a"
    .quad \from, \to
    .popsection
    .endm

    # Enters the context on the stack; one that is none is told by its place, \name.
    .macro IRETQ name
\name: iretq
    EX \name, iret_fault
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
    # Those that a call of Rust keeps.
    .macro SAVE_KEPT
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    .endm
    .macro RESTORE_KEPT
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    .endm
    .macro SAVE_REST
    push r11
    SAVE_KEPT
    .endm
    .macro SAVE_ALL
    SAVE_ARGUMENTS
    SAVE_REST
    .endm
    .macro RESTORE_ALL
    RESTORE_KEPT
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

    # SYSCALL pushes no frame: this is the one that an exception would, with this code segment.
    .macro PUSH_SYSCALL_FRAME cs
    push 0xe02b
    push qword ptr [rsp + 8 + {SCRATCH_RSP}]
    push r11
    push \cs
    push rcx
    .endm

    # From guest user mode to guest kernel mode, with the vcpu record \record bytes above the stack
    # pointer. rax: the frame's place on the guest kernel's stack.
    .macro ENTER_KERNEL record
    mov rax, [rsp + \record + {KERNEL_CR3}]
    mov cr3, rax
    swapgs
    mov byte ptr [rsp + \record + {MODE}], 1
    mov rax, [rsp + \record + {KERNEL_FRAME}]
    .endm

    # The next word of the CPU's frame goes to that of the guest kernel.
    .macro POP_TO offset
98: pop qword ptr [rax + \offset]
    EX 98b, bad_stack
    .endm

    .pushsection .rodata.entry, "a"
    .p2align 3
hole_end:
    .quad {HOLE_END}
l1_forbidden:
    .quad {L1_FORBIDDEN}
    .popsection
