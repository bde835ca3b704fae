# The frequent hypercalls in few instructions: one page-table entry, a switch of address space, the
# one-shot timer.

    # The end of a hypercall on a list of \count requests, all done: it is counted, and the guest goes
    # on behind it, or at \event if one is to be delivered.
    .macro REQUESTS_DONE number, count, event, name
    shl qword ptr [rsp + 48 + {TRACE}], 8
    mov byte ptr [rsp + 48 + {TRACE}], \number
    inc qword ptr [rsp + \number*8 + 48 + {HYPERCALLS}]
    xor eax, eax
    xor edx, edx
    mov esi, \count
    mov r10d, 0x7ff0
    mov rcx, [rsp + 48 + {INFO}]
    cmp word ptr [rcx], 1
    je \event
    add rsp, 8
    IRETQ \name
    .endm
    # Such a hypercall goes to Rust after all, its arguments as they came.
    .macro REQUESTS_GENERAL number, count
    mov esi, \count
    xor edx, edx
    mov r10d, 0x7ff0
    mov eax, \number
    jmp hypercall_general
    .endm

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
65: REQUESTS_DONE 1, 1, 66f, mmu_iretq
53: test al, {NOT_OWNED}
    jz 54b
58: cmp byte ptr [rsp + 48 + {SMP}], 0
    je 59f
    shr rcx, 12
    lock sub dword ptr [rdx + rcx*4], 0x100     # if it was the last, the general way finds that
59: REQUESTS_GENERAL 1, 1
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
    jmp hypercall_event

    # mmuext_op of a kernel that goes to another process: a new base pointer and a new user base
    # pointer, both of tables that are L4 already. What `mmuext::new_baseptr` and `new_user_baseptr`
    # do; all else is left to them, before anything has changed.
    # A reference to a frame that is an L4 already; rdx: the frame table.
    .macro HOLD_L4 mfn, other
    cmp \mfn, [rsp + 48 + {NR_FRAMES}]
    jae \other
    mov eax, [rdx + \mfn*4]
    mov esi, eax
    and esi, {HELD_MASK}
    cmp esi, {TYPE_L4}
    jne \other
    lea esi, [rax + 0x100]
    lock cmpxchg [rdx + \mfn*4], esi
    jne \other
    .endm
    # Drops a reference to frame rsi, if it is not the last.
    .macro DROP_HELD last
    mov eax, [rdx + rsi*4]
    cmp eax, 0x200
    jb \last
    lea ecx, [rax - 0x100]
    lock cmpxchg [rdx + rsi*4], ecx
    jne \last
    .endm
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
    HOLD_L4 rcx, 59f
    test r11, r11                       # 0: no user base pointer
    jz 55f
    HOLD_L4 r11, 58f
55: shl rcx, 12
    shl r11, 12
    mov rsi, [rsp + 48 + {KERNEL_CR3}]
    mov [rsp + 48 + {KERNEL_CR3}], rcx
    mov cr3, rcx
    shr rsi, 12
    DROP_HELD 61f
56: mov rsi, [rsp + 48 + {USER_CR3}]
    mov [rsp + 48 + {USER_CR3}], r11
    shr rsi, 12
    jz 57f
    DROP_HELD 62f
57: REQUESTS_DONE 26, 2, 63f, switch_iretq
58: RELEASE rcx
59: REQUESTS_GENERAL 26, 2
61: RELEASE rsi
    jmp 56b
62: RELEASE rsi
    jmp 57b
63:                                     # an event is to be delivered
    SAVE_ARGUMENTS
    jmp hypercall_event

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
    IRETQ vcpu_op_iretq
82: mov rdx, r11
vcpu_op_general:
    mov eax, 24
    jmp hypercall_general
83:                                     # an event is to be delivered
    sub rsp, 8
    SAVE_ARGUMENTS
    jmp hypercall_event
