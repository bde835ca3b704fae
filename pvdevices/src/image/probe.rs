//! Which format the first bytes of an image tell of.
//!
//! Used where nobody named a format, and to keep a guest whose image was taken for raw from making
//! it look like something else: at the next start its bytes would be read as a header, which may
//! name any file of the host.

/// Bytes that are looked at (`BLOCK_PROBE_BUF_SIZE` of QEMU's `block-common.h`).
pub(super) const PROBED_BYTES: usize = 512;

/// A mark of a format: where it is, what it is.
struct Mark {
    at: usize,
    bytes: &'static [u8],
    format: &'static str,
}

const fn mark(at: usize, bytes: &'static [u8], format: &'static str) -> Mark {
    Mark { at, bytes, format }
}

/// Every format that QEMU tells by its beginning. Version 1 of qcow2's mark is the older qcow.
const MARKS: [Mark; 14] = [
    mark(0, b"QFI\xfb\0\0\0\x01", "qcow"),
    mark(0, b"QFI\xfb", "qcow2"),
    mark(0, b"KDMV", "vmdk"),
    mark(0, b"COWD", "vmdk"),
    mark(0, b"# Disk DescriptorFile", "vmdk"),
    mark(0, b"QED\0", "qed"),
    mark(0x40, b"\x7f\x10\xda\xbe", "vdi"),
    mark(0, b"conectix", "vpc"),
    mark(0, b"vhdxfile", "vhdx"),
    mark(0, b"WithoutFreeSpace", "parallels"),
    mark(0, b"WithouFreSpacExt", "parallels"),
    mark(0, b"Bochs Virtual HD Image", "bochs"),
    mark(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", "cloop"),
    mark(0, b"LUKS\xba\xbe", "luks"),
];

/// The format of an image that begins like this, by QEMU's name.
pub(super) fn format(head: &[u8]) -> &'static str {
    let found = MARKS.iter().find(|mark| {
        head.get(mark.at..)
            .is_some_and(|rest| rest.starts_with(mark.bytes))
    });
    found.map_or("raw", |mark| mark.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        assert_eq!(format(b"QFI\xfb\0\0\0\x03"), "qcow2");
        assert_eq!(format(b"QFI\xfb\0\0\0\x01"), "qcow");
        assert_eq!(format(b"# Disk DescriptorFile\nversion=1"), "vmdk");
        let mut vdi = [0; 512];
        vdi[0x40..0x44].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        assert_eq!(format(&vdi), "vdi");
        for raw in [&b""[..], &[0; 512], b"QFI", &[0x55; 0x41]] {
            assert_eq!(format(raw), "raw");
        }
    }
}
