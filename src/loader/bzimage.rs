//! Finds the compressed kernel inside an x86 bzImage (Linux
//! `Documentation/arch/x86/boot.rst`). Looks at the header only: what the
//! payload is, is `decompress`'s business.

use std::ops::Range;

use super::bytes::{le_u16, le_u32};
use super::error::Cause;

const SETUP_SECTS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: u64 = 512;
/// Boot protocol 2.08 brought the payload fields.
const PAYLOAD_FIELDS_SINCE: u16 = 0x208;
/// `setup_sects` 0 means this many, for images older than the field.
const DEFAULT_SETUP_SECTS: u64 = 4;

/// The payload's place in the file, its trailer included, or `None` where the
/// file is no bzImage.
pub(super) fn payload(file: &[u8]) -> Result<Option<Range<usize>>, Cause> {
    if file.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Ok(None);
    }
    let bad = |what: &str| Cause::BadBzImage(what.to_owned());
    let header_cut = || bad("the file ends within the setup header");
    let version = le_u16(file, VERSION).ok_or_else(header_cut)?;
    if version < PAYLOAD_FIELDS_SINCE {
        let [minor, major] = version.to_le_bytes();
        return Err(Cause::OldBootProtocol { major, minor });
    }
    let sects = u64::from(*file.get(SETUP_SECTS).ok_or_else(header_cut)?);
    let sects = if sects == 0 {
        DEFAULT_SETUP_SECTS
    } else {
        sects
    };
    let offset = u64::from(le_u32(file, PAYLOAD_OFFSET).ok_or_else(header_cut)?);
    let length = u64::from(le_u32(file, PAYLOAD_LENGTH).ok_or_else(header_cut)?);

    // Cannot overflow: three 32-bit values at most.
    let start = (sects + 1) * SECTOR + offset;
    let end = start + length;
    if length == 0 {
        return Err(bad("no payload"));
    }
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match range {
        Some((start, end)) if end <= file.len() => Ok(Some(start..end)),
        _ => Err(Cause::BadBzImage(format!(
            "the payload ends at byte {end}, the file has {}",
            file.len()
        ))),
    }
}
