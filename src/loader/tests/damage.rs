//! Damaged files end in one clear error, whatever the damage.

use proptest::prelude::*;

use super::super::parse;
use super::image::{TestElf, TestLoad, basic_notes, bzimage, linux_notes, with_size};
use super::refusal;

fn lz4(kernel: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(kernel);
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
    packed.extend_from_slice(&block);
    packed
}

fn small() -> TestElf {
    let mut elf = TestElf::new(linux_notes());
    elf.loads.truncate(1);
    elf.loads[0].data.truncate(100);
    elf
}

#[test]
fn truncated_anywhere() {
    let kernel = small().build();
    let payload = with_size(lz4(&kernel), kernel.len());
    let boxed = bzimage(&payload);
    // "checksum" at the end belongs to no one.
    let files = [kernel, boxed[..boxed.len() - 8].to_vec()];
    for file in files {
        parse(file.clone(), "k").unwrap();
        for len in 0..file.len() {
            let line = refusal(file[..len].to_vec());
            assert!(line.starts_with("Cannot load kernel 'k': "), "{line}");
            assert!(!line.contains('\n'));
        }
    }
}

#[test]
fn sizes_that_claim_the_world() {
    let kernel = small().build();
    let mut packed = with_size(lz4(&kernel), u32::MAX as usize);
    assert!(refusal(bzimage(&packed)).contains("unpacked kernel is 4294967295 bytes"));
    let at = packed.len() - 4;
    packed[at..].copy_from_slice(&(64u32 << 20).to_le_bytes());
    parse(bzimage(&packed), "k").unwrap();
    packed[at..].copy_from_slice(&((64u32 << 20) + 1).to_le_bytes());
    assert!(refusal(bzimage(&packed)).contains("limit of 67108864"));
    // Smaller than the kernel is.
    packed[at..].copy_from_slice(&300u32.to_le_bytes());
    assert!(refusal(bzimage(&packed)).contains("the image has 300"));
    packed[at..].copy_from_slice(&0u32.to_le_bytes());
    assert!(refusal(bzimage(&packed)).contains("the image has 0"));

    let mut elf = small();
    elf.loads.push(TestLoad::new(0x11_0000, vec![1; 8], 8));
    let mut kernel = elf.build();
    let filesz = 64 + 2 * 56 + 32;
    for size in [1u64 << 29, 1 << 40, u64::MAX] {
        kernel[filesz..filesz + 8].copy_from_slice(&size.to_le_bytes());
        for file in [kernel.clone(), lz4(&kernel)] {
            let line = refusal(file);
            assert!(
                ["bytes for 8 of memory", "limit of"]
                    .iter()
                    .any(|what| line.contains(what)),
                "{line}"
            );
        }
    }
}

#[test]
fn a_small_file_does_not_unpack_without_end() {
    let mut elf = small();
    let size = 100 << 20;
    elf.loads
        .push(TestLoad::new(0x20_0000, vec![0; size], size as u64));
    let line = refusal(lz4(&elf.build()[..4 << 20]));
    assert!(line.contains("more than the limit of 67108864"), "{line}");
}

#[test]
fn headers_that_lie() {
    let boxed = bzimage(&small().build());
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = boxed.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    parse(boxed.clone(), "k").unwrap();
    let old = refusal(patched(0x206, &[0x07, 0x02]));
    assert!(old.contains("boot protocol 2.07"), "{old}");
    for file in [
        patched(0x248, &[0xff; 4]),
        patched(0x24c, &[0xff; 4]),
        patched(0x24c, &[0; 4]),
    ] {
        assert!(refusal(file).contains("bzImage is damaged"));
    }
    // setup_sects 0 means 4: the payload moves.
    assert!(refusal(patched(0x1f1, &[0])).contains("bzImage is damaged"));
    assert!(refusal(b"#!/bin/sh\n".to_vec()).contains("neither an ELF image"));
    let elf = small().build();
    let damaged = |at: usize, value: u8| {
        let mut file = elf.clone();
        file[at] = value;
        refusal(file)
    };
    assert!(damaged(4, 3).contains("unknown class"));
    assert!(damaged(16, 1).contains("neither an executable"));
    assert!(damaged(54, 1).contains("ELF image is damaged"));
    assert!(damaged(39, 0xff).contains("ELF image is damaged"));
}

#[test]
fn too_many_program_headers() {
    let mut file = small().build();
    file[56..58].copy_from_slice(&[0xff; 2]);
    assert!(refusal(file).contains("too many program headers"));
}

proptest! {
    #[test]
    fn random_bytes(file in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = parse(file, "k");
    }

    #[test]
    fn random_payload(
        magic in prop::sample::select(vec![
            &b"\x1f\x8b\x08\0"[..], b"BZh9", b"\x5d\0\0\0\x80\0", b"\xfd7zXZ\0",
            b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        prop_assert!(parse(bzimage(&[magic, &rest].concat()), "k").is_err());
    }

    #[test]
    fn random_changes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        how in 0..3,
    ) {
        let kernel = small().build();
        let mut file = match how {
            0 => kernel,
            1 => lz4(&kernel),
            _ => bzimage(&with_size(lz4(&kernel), kernel.len())),
        };
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] ^= value;
        }
        let _ = parse(file, "k");
    }

    #[test]
    fn random_notes(notes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(TestElf::new([basic_notes(), notes].concat()).build(), "k");
    }
}
