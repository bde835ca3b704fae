//! The emulator's linked image: only instructions that KVM's instruction emulator knows, only
//! addresses and rights that the domain builder can give it.
//!
//! Some hosts interpret the guest's ring 0 (those whose KVM runs without hardware
//! virtualization). An instruction that KVM's emulator lacks stops the vcpu there with
//! `KVM_EXIT_INTERNAL_ERROR`, and where everything runs natively nobody notices: hence this list.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind, elf};
use xenner_emu_abi::layout::{IMAGE_MAX, IMAGE_VA, PAGE_SIZE};

static IMAGE: &[u8] = include_bytes!(env!("XENNER_EMU_IMAGE"));

/// The emulator is to stay small: it is copied into every domain.
const SIZE_LIMIT: u64 = 1 << 20;

/// What ring 0 may consist of, and why.
const ALLOWED: &[(&str, &[Mnemonic])] = {
    use Mnemonic::*;
    &[
        (
            "moves between registers, memory, segment, control and debug registers",
            &[Mov, Movzx, Movsx, Movsxd, Lea, Xchg, Bswap],
        ),
        (
            "arithmetic and logic on general registers and memory",
            &[
                Add, Adc, Sub, Sbb, Cmp, And, Or, Xor, Test, Neg, Not, Inc, Dec, Mul, Imul, Div,
                Idiv,
            ],
        ),
        (
            "sign extensions of the accumulator",
            &[Cbw, Cwde, Cdqe, Cwd, Cdq, Cqo],
        ),
        (
            "shifts, and the rotations without carry",
            &[Shl, Shr, Sar, Shld, Shrd, Rol, Ror],
        ),
        ("bit tests, atomic with LOCK", &[Bt, Bts, Btr, Btc]),
        (
            "bit scans; the forms of BMI decode as these where the CPU lacks it",
            &[Bsf, Bsr, Tzcnt, Lzcnt],
        ),
        (
            "atomics; CMPXCHG16B is unknown to the emulator",
            &[Cmpxchg, Cmpxchg8b, Xadd],
        ),
        (
            "conditional moves",
            &[
                Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno,
                Cmovnp, Cmovns, Cmovo, Cmovp, Cmovs,
            ],
        ),
        (
            "conditions as bytes",
            &[
                Seta, Setae, Setb, Setbe, Sete, Setg, Setge, Setl, Setle, Setne, Setno, Setnp,
                Setns, Seto, Setp, Sets,
            ],
        ),
        (
            "near control flow (far forms are refused below)",
            &[
                Call, Ret, Jmp, Ja, Jae, Jb, Jbe, Je, Jg, Jge, Jl, Jle, Jne, Jno, Jnp, Jns, Jo, Jp,
                Js, Jrcxz,
            ],
        ),
        (
            "the stack and the flags",
            &[Push, Pop, Pushfq, Popfq, Leave, Cld],
        ),
        (
            "string instructions: copies, fills, and the search for an entry that is in use",
            &[
                Movsb, Movsw, Movsd, Movsq, Stosb, Stosw, Stosd, Stosq, Cmpsb, Cmpsq, Scasb, Scasq,
            ],
        ),
        (
            "padding inside functions, and the spin hint",
            &[Nop, Pause, Endbr64],
        ),
        (
            "leaving ring 0: SYSRET goes wrong without a word, IRETQ is right",
            &[Iretq, Swapgs],
        ),
        (
            "descriptor tables and task state",
            &[Lgdt, Lidt, Lldt, Ltr, Sgdt, Sidt, Sldt, Str],
        ),
        (
            "control registers, TLB and caches",
            &[Clts, Invlpg, Wbinvd, Clflush, Prefetchw, Prefetcht0],
        ),
        ("interrupts and sleep", &[Cli, Sti, Hlt]),
        (
            "machine registers, processor identification, time, bases",
            &[Rdmsr, Wrmsr, Cpuid, Rdtsc, Rdfsbase, Wrfsbase],
        ),
        ("port I/O, the mailbox's doorbell", &[In, Out]),
        ("fences", &[Lfence, Mfence]),
        ("the guest's vector state, by address only", &[Fxsave]),
        (
            "the end of paths that cannot be: its fault is the report",
            &[Ud2],
        ),
    ]
};

fn file() -> ElfFile64<'static, LittleEndian> {
    ElfFile64::parse(IMAGE).expect("the build made an ELF file")
}

/// Why an instruction must not be in the image.
fn refusal(i: &Instruction) -> Option<&'static str> {
    if i.is_invalid() {
        return Some("no instruction");
    }
    if !ALLOWED.iter().any(|(_, list)| list.contains(&i.mnemonic())) {
        return Some("not on the list");
    }
    let far =
        i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect();
    if far {
        return Some("far control flow");
    }
    let vector = (0..i.op_count()).any(|op| {
        let r = i.op_register(op);
        i.op_kind(op) == OpKind::Register
            && (r.is_vector_register() || r.is_mm() || r.is_st() || r.is_k())
    });
    vector.then_some("a vector register")
}

/// A run of code and what it is called.
#[derive(Debug)]
struct Span<'a> {
    name: &'a str,
    start: u64,
    end: u64,
}

/// The executable section: address and bytes.
fn text<'a>(file: &ElfFile64<'a, LittleEndian>) -> (u64, &'a [u8]) {
    let mut sections = file.sections().filter(|s| s.kind() == SectionKind::Text);
    let only = sections.next().expect("an executable section");
    assert!(sections.next().is_none(), "one executable section");
    (only.address(), only.data().expect("it has bytes"))
}

/// Functions by their symbols, and in front of them the assembly, whose labels have no size.
/// Data between functions is in none of them.
fn spans<'a>(file: &ElfFile64<'a, LittleEndian>) -> Vec<Span<'a>> {
    let (start, bytes) = text(file);
    let end = start + bytes.len() as u64;
    let mut functions = BTreeMap::new();
    let mut labels = Vec::new();
    for symbol in file
        .symbols()
        .filter(|s| (start..end).contains(&s.address()))
    {
        let name = symbol.name().expect("symbols have names");
        match (symbol.kind(), symbol.size()) {
            (SymbolKind::Text, size) if size != 0 => {
                functions.insert(symbol.address(), (name, size));
            }
            _ => labels.push((symbol.address(), name)),
        }
    }
    let first = *functions.keys().next().expect("the image has functions");
    for (at, name) in labels {
        assert!(
            at < first,
            "{name} at {at:#x} is neither a function nor in the assembly"
        );
    }
    let mut list = vec![Span {
        name: "assembly",
        start,
        end: first,
    }];
    list.extend(functions.into_iter().map(|(start, (name, size))| Span {
        name,
        start,
        end: start + size,
    }));
    list
}

fn decode(bytes: &[u8], at: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, bytes, at, DecoderOptions::NONE)
        .into_iter()
        .collect()
}

/// Whether execution goes on behind this instruction.
fn falls_through(i: &Instruction) -> bool {
    !matches!(
        i.flow_control(),
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
    ) && i.mnemonic() != Mnemonic::Ud2
}

/// What is wrong with a run of instructions.
fn faults(name: &str, code: &[Instruction]) -> Vec<String> {
    let mut found = Vec::new();
    let mut reached = true;
    for i in code {
        let padding = i.code() == Code::Int3 && !reached;
        if !padding {
            if let Some(why) = refusal(i) {
                found.push(format!("{:#x} in {name}: {i}: {why}", i.ip()));
            }
            reached = falls_through(i);
        }
    }
    found
}

#[test]
fn every_instruction_is_known_to_kvms_emulator() {
    let file = file();
    let (base, bytes) = text(&file);
    let mut found = Vec::new();
    let mut counted = 0;
    for span in spans(&file) {
        let code = &bytes[(span.start - base) as usize..(span.end - base) as usize];
        let code = decode(code, span.start);
        counted += code.len();
        found.extend(faults(span.name, &code));
    }
    assert!(
        counted > 5000,
        "only {counted} instructions: is this the image?"
    );
    assert!(
        found.is_empty(),
        "{} instructions must go:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn between_functions_is_padding() {
    let file = file();
    let (base, bytes) = text(&file);
    let spans = spans(&file);
    let ends = spans
        .iter()
        .skip(1)
        .map(|s| s.start)
        .chain([base + bytes.len() as u64]);
    for (span, next) in spans.iter().zip(ends) {
        assert!(span.end <= next, "{} overlaps what follows", span.name);
        let gap = &bytes[(span.end - base) as usize..(next - base) as usize];
        assert!(
            gap.len() < 64 && gap.iter().all(|b| *b == 0xcc),
            "{} bytes behind {} are no padding: {gap:02x?}",
            gap.len(),
            span.name
        );
    }
}

#[test]
fn the_list_refuses_what_ring_0_cannot_run() {
    let refused: &[(&str, &[u8])] = &[
        ("sysretq", &[0x48, 0x0f, 0x07]),
        ("syscall", &[0x0f, 0x05]),
        ("int 0x80", &[0xcd, 0x80]),
        ("int3", &[0xcc]),
        ("rdtscp", &[0x0f, 0x01, 0xf9]),
        ("xsave [rax]", &[0x0f, 0xae, 0x20]),
        ("xgetbv", &[0x0f, 0x01, 0xd0]),
        ("xsetbv", &[0x0f, 0x01, 0xd1]),
        ("cmpxchg16b [rdi]", &[0x48, 0x0f, 0xc7, 0x0f]),
        ("popcnt eax, ecx", &[0xf3, 0x0f, 0xb8, 0xc1]),
        ("andn eax, ecx, edx", &[0xc4, 0xe2, 0x70, 0xf2, 0xc2]),
        ("mulx", &[0xc4, 0xe2, 0xf3, 0xf6, 0xc2]),
        ("xorps xmm0, xmm0", &[0x0f, 0x57, 0xc0]),
        ("movups [rdi], xmm0", &[0x0f, 0x11, 0x07]),
        ("movq xmm0, rax", &[0x66, 0x48, 0x0f, 0x6e, 0xc0]),
        ("movq mm0, [rax]", &[0x0f, 0x6f, 0x00]),
        ("fld1", &[0xd9, 0xe8]),
        ("lar eax, ecx", &[0x0f, 0x02, 0xc1]),
        ("lsl eax, ecx", &[0x0f, 0x03, 0xc1]),
        ("verr ax", &[0x0f, 0x00, 0xe0]),
        ("invpcid", &[0x66, 0x0f, 0x38, 0x82, 0x07]),
        ("stac", &[0x0f, 0x01, 0xcb]),
        ("monitor", &[0x0f, 0x01, 0xc8]),
        ("vmcall", &[0x0f, 0x01, 0xc1]),
        ("vmmcall", &[0x0f, 0x01, 0xd9]),
        ("rdpid rax", &[0xf3, 0x0f, 0xc7, 0xf8]),
        ("movbe eax, [rdi]", &[0x0f, 0x38, 0xf0, 0x07]),
        ("retfq", &[0x48, 0xcb]),
        ("call far [rdi]", &[0xff, 0x1f]),
        ("iretd", &[0xcf]),
        ("nothing at all", &[0x06]),
    ];
    for (name, bytes) in refused {
        let code = decode(bytes, 0);
        assert_eq!(code.len(), 1, "{name}");
        assert_eq!(faults("test", &code).len(), 1, "{name} passes");
    }
    // int3 behind what never returns is padding; behind anything else it is a fault
    assert!(faults("test", &decode(&[0xc3, 0xcc, 0xcc], 0)).is_empty());
    assert_eq!(faults("test", &decode(&[0x90, 0xcc, 0xc3], 0)).len(), 1);
}

#[test]
fn the_link_leaves_nothing_to_be_done_at_run_time() {
    let file = file();
    let header = file.elf_header();
    assert_eq!(header.e_type(LittleEndian), elf::ET_EXEC);
    assert_eq!(file.entry(), IMAGE_VA);
    let start = file.symbols().find(|s| s.name() == Ok("emu_start"));
    assert_eq!(start.map(|s| s.address()), Some(IMAGE_VA));
    assert!(
        file.dynamic_relocations()
            .is_none_or(|mut r| r.next().is_none())
    );
    for section in file.sections() {
        let name = section.name().unwrap_or("?");
        assert_eq!(section.relocations().count(), 0, "relocations in {name}");
        assert!(
            !matches!(
                name,
                ".dynamic" | ".rela.dyn" | ".rel.dyn" | ".interp" | ".eh_frame"
            ),
            "{name} is in the image"
        );
    }
    for symbol in file.symbols().skip(1) {
        assert!(
            !symbol.is_undefined() || symbol.kind() == SymbolKind::File,
            "{:?}",
            symbol.name()
        );
    }
}

#[test]
fn segments_are_small_and_none_is_writable_and_executable() {
    let file = file();
    let mut end = IMAGE_VA;
    let mut executable = 0;
    for segment in file.elf_program_headers() {
        let (kind, flags) = (
            segment.p_type(LittleEndian),
            segment.p_flags(LittleEndian).0,
        );
        let (va, len) = (segment.p_vaddr(LittleEndian), segment.p_memsz(LittleEndian));
        assert_eq!(kind, elf::PT_LOAD, "segment at {va:#x}");
        assert_ne!(
            flags & (elf::PF_W.0 | elf::PF_X.0),
            elf::PF_W.0 | elf::PF_X.0,
            "{va:#x} is both"
        );
        // rights are given by the page
        assert!(
            va >= end && va.is_multiple_of(PAGE_SIZE),
            "{va:#x} shares a page"
        );
        end = va + len;
        executable += u32::from(flags & elf::PF_X.0 != 0);
    }
    assert_eq!(executable, 1, "executable segments");
    let size = end - IMAGE_VA;
    assert!(size < SIZE_LIMIT.min(IMAGE_MAX), "{size} bytes");
}

#[test]
fn every_fixup_is_an_instruction_of_the_assembly_or_a_function() {
    let file = file();
    let (base, bytes) = text(&file);
    let address = |name| {
        let symbol = file.symbols().find(|s| s.name() == Ok(name));
        symbol
            .map(|s| s.address())
            .unwrap_or_else(|| panic!("{name} is missing"))
    };
    let (start, end) = (address("__extable_start"), address("__extable_end"));
    let mut sections = file.sections();
    let holder = sections.find(|s| (s.address()..s.address() + s.size()).contains(&start));
    let data = holder.and_then(|s| s.data_range(start, end - start).ok().flatten());
    let data = data.expect("the table lies in a section");
    assert!(!data.is_empty() && data.len().is_multiple_of(16));
    let starts: Vec<u64> = spans(&file)
        .iter()
        .flat_map(|s| {
            decode(
                &bytes[(s.start - base) as usize..(s.end - base) as usize],
                s.start,
            )
        })
        .map(|i| i.ip())
        .collect();
    for row in data.chunks(8) {
        let at = u64::from_le_bytes(row.try_into().expect("8 bytes"));
        assert!(
            starts.binary_search(&at).is_ok(),
            "{at:#x} is no instruction"
        );
    }
}
