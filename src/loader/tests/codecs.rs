//! Every wrapping gives the same kernel.

use std::io::{Read, Write};
use std::num::NonZeroU64;

use lzma_rust2::{CheckType, FilterType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use super::image::{TestElf, TestLoad, bzimage, code, linux_notes, with_size};
use super::{accepted, refusal};

/// Large enough for several of the unpacker's steps.
fn kernel() -> Vec<u8> {
    let mut elf = TestElf::new(linux_notes());
    elf.loads
        .push(TestLoad::new(0x20_0000, code(400_000), 0x8_0000));
    let mut bytes = elf.build();
    bytes.extend_from_slice(&code(70_000)); // as Linux's relocations
    bytes
}

#[track_caller]
fn check(file: Vec<u8>, kernel: &[u8]) {
    let got = accepted(file);
    let plain = accepted(kernel.to_vec());
    assert_eq!(got.notes, plain.notes);
    assert_eq!(got.segments.len(), plain.segments.len());
    for (a, b) in got.segments.iter().zip(&plain.segments) {
        assert_eq!((a.paddr, a.filesz, a.memsz), (b.paddr, b.filesz, b.memsz));
        assert_eq!(got.segment_data(a), plain.segment_data(b));
    }
}

/// As a file, as a file with Linux's size behind it, and in a bzImage. A
/// damaged byte in the middle must not pass where `checked`.
#[track_caller]
fn check_codec(packed: &[u8], kernel: &[u8], checked: bool) {
    check(packed.to_vec(), kernel);
    check(with_size(packed.to_vec(), kernel.len()), kernel);
    check(bzimage(&with_size(packed.to_vec(), kernel.len())), kernel);
    if checked {
        for at in [packed.len() / 3, packed.len() / 2] {
            let mut damaged = packed.to_vec();
            damaged[at] ^= 0x10;
            let line = refusal(bzimage(&with_size(damaged, kernel.len())));
            assert!(line.contains("cannot decompress"), "{line}");
        }
    }
    let cut = refusal(packed[..packed.len() / 2].to_vec());
    assert!(cut.contains("decompress") || cut.contains("ends"), "{cut}");
}

#[test]
fn elf_at_an_odd_place_in_a_bzimage() {
    let kernel = kernel();
    check(bzimage(&kernel), &kernel);
}

#[test]
fn gzip() {
    let kernel = kernel();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&kernel).unwrap();
    let packed = packer.finish().unwrap();
    check_codec(&packed, &kernel, false);
    // Gzip has its own size field: Linux appends none.
    check(bzimage(&packed), &kernel);
    // The checksum is behind the relocations and still looked at.
    let mut damaged = packed;
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    assert!(refusal(bzimage(&damaged)).contains("cannot decompress (gzip)"));
}

#[test]
fn bzip2() {
    let kernel = kernel();
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packer.write_all(&kernel).unwrap();
    check_codec(&packer.finish().unwrap(), &kernel, true);
}

#[test]
fn lzma_alone() {
    let kernel = kernel();
    for known_size in [None, Some(kernel.len() as u64)] {
        let options = LzmaOptions::with_preset(1);
        let mut packer = LzmaWriter::new_use_header(Vec::new(), &options, known_size).unwrap();
        packer.write_all(&kernel).unwrap();
        check_codec(&packer.finish().unwrap(), &kernel, false);
    }
}

fn xz(
    kernel: &[u8],
    check: CheckType,
    filters: &[(FilterType, u32)],
    block: Option<u64>,
) -> Vec<u8> {
    let mut options = XzOptions::with_preset(1);
    options.set_check_sum_type(check);
    // The writer makes no block smaller than the dictionary.
    options.lzma_options.dict_size = 1 << 16;
    options.set_block_size(block.and_then(NonZeroU64::new));
    for &(filter, property) in filters {
        options.prepend_pre_filter(filter, property);
    }
    let mut packer = XzWriter::new(Vec::new(), options).unwrap();
    packer.write_all(kernel).unwrap();
    packer.finish().unwrap()
}

#[test]
fn xz_with_and_without_filter() {
    let kernel = kernel();
    let x86 = [(FilterType::BcjX86, 0)];
    for filters in [&x86[..], &[]] {
        for check in [CheckType::None, CheckType::Crc32] {
            let packed = xz(&kernel, check, filters, None);
            check_codec(&packed, &kernel, true);
            let packed = xz(&kernel, check, filters, Some(100_000));
            check_codec(&packed, &kernel, true);
        }
    }
}

#[test]
fn xz_of_unusual_forms_by_the_library() {
    let kernel = kernel();
    let check = |check, filters: &[_]| {
        check_codec(&xz(&kernel, check, filters, None), &kernel, false);
    };
    check(CheckType::Crc64, &[(FilterType::BcjX86, 0)]);
    check(CheckType::Sha256, &[]);
    check(CheckType::Crc32, &[(FilterType::Delta, 4)]);
    check(
        CheckType::Crc32,
        &[(FilterType::BcjX86, 0), (FilterType::Delta, 1)],
    );
}

#[test]
fn xz_check_of_a_finished_block() {
    let kernel = kernel();
    let read_all = |packed: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut decoder = super::super::xz::decoder(packed);
        let (mut all, mut part) = (Vec::new(), vec![0; 10_000]);
        loop {
            match decoder.read(&mut part)? {
                0 => return Ok(all),
                got => all.extend_from_slice(&part[..got]),
            }
        }
    };
    let mut packed = xz(&kernel, CheckType::Crc32, &[(FilterType::BcjX86, 0)], None);
    assert!(read_all(&packed).unwrap() == kernel);
    // The footer's last fields: the index's size in words less one, flags, magic.
    let footer = packed.len() - 12;
    let words = u32::from_le_bytes(packed[footer + 4..footer + 8].try_into().unwrap());
    let block_end = footer - (words as usize + 1) * 4;
    packed[block_end - 1] ^= 1;
    let error = read_all(&packed).unwrap_err().to_string();
    assert!(error.contains("CRC32"), "{error}");
}

fn lz4_legacy(kernel: &[u8], block: usize) -> Vec<u8> {
    let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
    for part in kernel.chunks(block) {
        let part = lz4_flex::block::compress(part);
        packed.extend_from_slice(&(part.len() as u32).to_le_bytes());
        packed.extend_from_slice(&part);
    }
    packed
}

#[test]
fn lz4_legacy_frames() {
    let kernel = kernel();
    check_codec(&lz4_legacy(&kernel, 8 << 20), &kernel, false);
    check_codec(&lz4_legacy(&kernel, 100_000), &kernel, false);
    // A frame behind a frame.
    let (a, b) = kernel.split_at(kernel.len() / 2);
    let two = [lz4_legacy(a, 1 << 20), lz4_legacy(b, 1 << 20)].concat();
    check_codec(&two, &kernel, false);
}

#[test]
fn lz4_block_larger_than_the_format_allows() {
    let mut elf = TestElf::new(linux_notes());
    elf.loads
        .push(TestLoad::new(0x20_0000, vec![1; 9 << 20], 9 << 20));
    let line = refusal(lz4_legacy(&elf.build(), 16 << 20));
    assert!(line.contains("cannot decompress (lz4 legacy)"), "{line}");
}

#[test]
fn lz4_frame() {
    let kernel = kernel();
    let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
    packer.write_all(&kernel).unwrap();
    let packed = packer.finish().unwrap();
    check(packed, &kernel);
}

#[test]
fn zstd() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let kernel = kernel();
    let packed = compress_to_vec(&kernel[..], CompressionLevel::Fastest);
    check_codec(&packed, &kernel, true);
    // The last four bytes are the checksum.
    let mut damaged = packed;
    let at = damaged.len() - 2;
    damaged[at] ^= 1;
    let line = refusal(bzimage(&with_size(damaged, kernel.len())));
    assert!(line.contains("checksum"), "{line}");
}

#[test]
fn lzo_is_refused() {
    let line = refusal(bzimage(b"\x89LZO\0\r\n\x1a\n and more"));
    assert_eq!(
        line,
        "Cannot load kernel 'k': is compressed with LZO, which is not supported: \
         give the uncompressed vmlinux"
    );
}

#[test]
fn compressed_but_no_elf() {
    let packed = lz4_legacy(b"MZ this is no kernel at all", 1 << 20);
    assert!(refusal(packed).contains("lz4 legacy data unpacks to is not an ELF image"));
}

#[test]
fn unpacking_stops_behind_the_last_segment() {
    let kernel = kernel();
    // The last block holds nothing but relocations.
    let mut packed = lz4_legacy(&kernel, kernel.len() - 50_000);
    packed.truncate(packed.len() - 10);
    check(packed, &kernel);
}
