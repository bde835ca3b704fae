# What the other files use: the exception table, saving and restoring of registers, constants.

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
