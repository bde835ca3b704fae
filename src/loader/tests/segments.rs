//! Rules about segments and addresses.

use xenner_xen_abi::elfnote::*;

use super::super::load;
use super::image::{TestElf, TestLoad, basic_notes, linux_notes, long, note};
use super::{accepted, refusal};

fn kernel(more: &[Vec<u8>]) -> TestElf {
    TestElf::new([basic_notes(), more.concat()].concat())
}

#[test]
fn segments_by_p_paddr() {
    let image = accepted(kernel(&[]).build());
    assert_eq!((image.pstart, image.pend), (0x10_0000, 0x10_c000));
    let [code, data] = &image.segments[..] else {
        panic!("{:?}", image.segments);
    };
    assert_eq!(
        (code.paddr, code.filesz, code.memsz),
        (0x10_0000, 0x2345, 0x3000)
    );
    assert_eq!(image.segment_data(code), super::image::code(0x2345));
    assert_eq!((data.paddr, data.memsz), (0x10_4000, 0x8000));
    assert_eq!(image.segment_data(data), [0xa5; 0x100]);
}

#[test]
fn segments_without_access_are_left_out() {
    let mut elf = kernel(&[]);
    elf.loads.push(TestLoad::new(0x1_0000_0000, vec![1; 8], 8));
    elf.loads[2].flags = 0;
    assert_eq!(accepted(elf.build()).segments.len(), 2);
    elf.loads.truncate(0);
    assert!(refusal(elf.build()).contains("nothing to load"));
}

#[test]
fn zeros_at_the_end_are_not_copied() {
    let mut elf = kernel(&[]);
    let mut data = vec![7; 5000];
    data.resize(100_000, 0);
    elf.loads[1] = TestLoad::new(0x10_4000, data, 100_000);
    elf.loads
        .push(TestLoad::new(0x12_0000, vec![0; 9000], 9000));
    let image = accepted(elf.build());
    let used = image.segment_data(&image.segments[1]);
    assert!((5000..5000 + 4096).contains(&used.len()));
    assert!(used[..5000].iter().all(|&b| b == 7) && used[5000..].iter().all(|&b| b == 0));
    assert_eq!(image.segments[1].memsz, 100_000);
    assert!(image.segment_data(&image.segments[2]).is_empty());
    assert_eq!(image.pend, 0x12_0000 + 9000);
}

#[test]
fn sizes_that_lie() {
    let refused = |load: TestLoad, expected: &str| {
        let mut elf = kernel(&[]);
        elf.loads.push(load);
        let line = refusal(elf.build());
        assert!(line.contains(expected), "{line}");
    };
    let at = |paddr, memsz| TestLoad::new(paddr, vec![1; 16], memsz);
    refused(at(0x20_0000, 8), "has 16 bytes for 8 of memory");
    refused(at(u64::MAX - 4, 16), "ends beyond 2^64");
    refused(at(0x20_0000, u64::MAX), "ends beyond 2^64");
    refused(at(0x20_0000, 1 << 40), "the kernel in memory is");
    refused(at(1 << 40, 16), "the kernel in memory is");
}

#[test]
fn overlapping_segments_are_bounded() {
    let mut elf = kernel(&[]);
    elf.loads.push(TestLoad::new(0x10_0000, vec![9; 4], 0x3000));
    accepted(elf.build());
    for _ in 0..40 {
        elf.loads.push(TestLoad::new(0x10_0000, vec![9; 4], 0x3000));
    }
    assert!(refusal(elf.build()).contains("overlap"));
}

#[test]
fn entry_and_pages_lie_within_the_kernel() {
    let refused = |notes: &[Vec<u8>], expected: &str| {
        let line = refusal(kernel(notes).build());
        assert!(line.contains(expected), "{line}");
    };
    refused(
        &[long(XEN_ELFNOTE_ENTRY, 0xf_ffff)],
        "entry 0xfffff is outside",
    );
    refused(
        &[long(XEN_ELFNOTE_ENTRY, 0x10_c000)],
        "is outside the kernel",
    );
    let page = |at| long(XEN_ELFNOTE_HYPERCALL_PAGE, at);
    accepted(kernel(&[page(0x10_b000)]).build());
    refused(&[page(0x10_c000)], "is outside the kernel");
    refused(&[page(0x10_0008)], "is not a page of it");
    refused(&[page(u64::MAX)], "is outside the kernel");
    refused(
        &[long(XEN_ELFNOTE_INIT_P2M, 0x10_1000)],
        "lies within the kernel",
    );
}

#[test]
fn addresses_do_not_wrap() {
    let based = |base: u64, offset: u64| {
        kernel(&[
            long(XEN_ELFNOTE_VIRT_BASE, base),
            long(XEN_ELFNOTE_PADDR_OFFSET, offset),
            long(XEN_ELFNOTE_ENTRY, base.wrapping_add(0x10_0000)),
        ])
        .build()
    };
    accepted(based(u64::MAX - 0x20_0000, 0));
    assert!(refusal(based(u64::MAX - 0x1000, 0)).contains("beyond its address space"));
    assert!(refusal(based(u64::MAX - 0x10_2000, 0)).contains("beyond its address space"));
    assert!(refusal(based(0x1000, 0x20_0000)).contains("below PADDR_OFFSET"));
}

#[test]
fn a_32_bit_kernel_ends_below_4_gib() {
    let mut elf = TestElf::new32(
        [
            basic_notes(),
            note(XEN_ELFNOTE_PAE_MODE, b"yes"),
            long(XEN_ELFNOTE_VIRT_BASE, 0xfff0_0000),
            long(XEN_ELFNOTE_ENTRY, 0xfff0_0000),
        ]
        .concat(),
    );
    let line = refusal(elf.build());
    assert!(line.contains("ends beyond its address space"), "{line}");
    for load in &mut elf.loads {
        load.paddr -= 0x10_0000;
    }
    accepted(elf.build());
}

#[test]
fn machines() {
    let mut elf = kernel(&[]);
    elf.machine = 183;
    assert!(refusal(elf.build()).contains("machine 183: needs x86-64 or i386 (PAE)"));
    let mut mixed = TestElf::new32(basic_notes());
    mixed.machine = 62;
    assert!(refusal(mixed.build()).contains("machine 62"));
    let mut big_endian = kernel(&[]).build();
    big_endian[5] = 2;
    assert!(refusal(big_endian).contains("big-endian"));
}

#[test]
fn files() {
    let dir = tempfile::tempdir().unwrap();
    let line = |path: &std::path::Path| load(path).unwrap_err().to_string();
    assert!(line(dir.path()).contains("is not a regular file"));
    let path = dir.path().join("vmlinux");
    assert!(line(&path).contains("vmlinux': No such file"));
    std::fs::write(&path, b"").unwrap();
    assert!(line(&path).contains("is empty"));
    std::fs::write(&path, TestElf::new(linux_notes()).build()).unwrap();
    assert_eq!(load(&path).unwrap().notes.guest_os, "linux");
    // Sparse: beyond the limit without taking disk space.
    let huge = std::fs::File::create(&path).unwrap();
    huge.set_len((1 << 30) + 1).unwrap();
    assert!(line(&path).contains("the file is 1073741825 bytes, more than the limit"));
}
