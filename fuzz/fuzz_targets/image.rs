//! Kernel images: no file may make the loader panic, and what it accepts must
//! be consistent. The first byte picks a wrapping, so that the fuzzer gets past
//! the outer layers: most inputs are valid except for one part.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenner::loader::{self, KernelImage};

const MAGICS: [&[u8]; 7] = [
    &[0x1f, 0x8b, 8, 0],
    b"BZh9",
    &[0x5d, 0, 0, 0, 1, 0],
    &[
        0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0, 0xff, 0x12, 0xd9, 0x41,
    ],
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x04, 0x22, 0x4d, 0x18],
    &[0x28, 0xb5, 0x2f, 0xfd, 0x04],
];

fuzz_target!(|data: &[u8]| {
    let Some((&how, rest)) = data.split_first() else {
        return;
    };
    let file = match how % 6 {
        0 => rest.to_vec(),
        1 => bzimage(rest),
        2 => bzimage(&[MAGICS[usize::from(how / 6) % 7], rest].concat()),
        3 => [MAGICS[usize::from(how / 6) % 7], rest].concat(),
        4 => elf64(rest),
        _ => lz4(&elf64(rest)),
    };
    if let Ok(image) = loader::parse(file, "fuzz") {
        check(&image);
    }
});

/// What the domain builder relies on.
fn check(image: &KernelImage) {
    assert!(image.virt_kstart() <= image.entry && image.entry < image.virt_kend());
    assert!(image.notes.virt_base <= image.virt_kstart());
    assert!(image.pstart < image.pend && image.pend - image.pstart <= 1 << 30);
    for segment in &image.segments {
        assert_eq!(image.segment_data(segment).len() as u64, segment.filesz);
        assert!(segment.filesz <= segment.memsz);
        assert!(segment.paddr >= image.pstart && segment.paddr + segment.memsz <= image.pend);
        assert_eq!(
            image.pseudo_phys(segment) + image.notes.virt_base,
            segment.paddr.wrapping_add(image.virt_offset())
        );
    }
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// One stored block, as LZ4 knows it: a run of literals.
fn lz4(image: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let Some(mut left) = image.len().checked_sub(15) else {
        return Vec::new();
    };
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(left as u8);
    block.extend_from_slice(image);
    let mut file = vec![0x02, 0x21, 0x4c, 0x18];
    file.extend_from_slice(&(block.len() as u32).to_le_bytes());
    file.extend_from_slice(&block);
    file
}

/// A 64-bit image of one segment, whose notes begin valid and go on with
/// `notes`. The header's own bytes may be altered by the first bytes of it.
fn elf64(notes: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64 + 2 * 56];
    let (changes, notes) = notes.split_at(notes.len().min(4));
    file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    let mut put = |at: usize, value: u64, size: usize| {
        file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    put(16, 2, 2);
    put(18, 62, 2);
    put(24, 0x100000, 8);
    put(32, 64, 8);
    put(54, 56, 2);
    put(56, 2, 2);
    let basic: Vec<u8> = [(5u32, &b"xen-3.0\0"[..]), (8, b"generic\0")]
        .iter()
        .flat_map(|(kind, text)| {
            let words = [4, text.len() as u32, *kind].map(u32::to_le_bytes).concat();
            [&words[..], b"Xen\0", text].concat()
        })
        .collect();
    for (at, kind) in [(64, 1u64), (120, 4)] {
        put(at, kind | 7 << 32, 8);
        put(at + 8, 176, 8);
        put(at + 24, 0x100000, 8);
        put(at + 32, (basic.len() + notes.len()) as u64, 8);
        put(at + 40, 0x2000, 8);
    }
    if let [place, value, place2, value2] = *changes {
        file[4 + usize::from(place) % 172] ^= value;
        file[4 + usize::from(place2) % 172] ^= value2;
    }
    file.extend_from_slice(&basic);
    file.extend_from_slice(notes);
    file
}
