//! The xz container as kernels use it: LZMA2, perhaps behind the x86 filter,
//! with a CRC32 or no check ("The .xz File Format", version 1.2.1).
//!
//! LZMA2 and the filter are the library's. The container is read here because
//! the library's own reader computes its checks a byte at a time, a quarter of
//! a kernel's unpacking time. Anything unusual is left to that reader.

use std::io::{self, Read};

use flate2::Crc;
use lzma_rust2::filter::StreamFilter;
use lzma_rust2::{FilterConfig, Lzma2Reader, XzReader};

use super::bytes::le_u32;

const STREAM_HEADER: usize = 12;
const FILTER_X86: u8 = 0x04;
const FILTER_LZMA2: u8 = 0x21;
/// The x86 filter keeps back less than one instruction with its operand.
const HELD: usize = 8;

/// The fastest reader for the stream in `packed`. Bytes behind the stream are
/// ignored.
pub(super) fn decoder(packed: &[u8]) -> Box<dyn Read + '_> {
    match Blocks::new(packed) {
        Some(blocks) => Box::new(blocks),
        None => Box::new(XzReader::new(packed, false)),
    }
}

/// The blocks of one stream.
struct Blocks<'a> {
    has_crc: bool,
    /// `None` after the last block.
    block: Option<Block<'a>>,
}

struct Block<'a> {
    lzma: Lzma2Reader<&'a [u8]>,
    /// Packed bytes from the block's data on, to find the padding.
    packed: usize,
    x86: Option<StreamFilter>,
    /// Bytes that the filter cannot settle before it sees the next ones.
    held: [u8; HELD],
    held_len: usize,
    crc: Crc,
}

impl<'a> Blocks<'a> {
    /// `None` if the stream has something for the library's reader.
    fn new(packed: &'a [u8]) -> Option<Self> {
        let header = packed.get(..STREAM_HEADER)?;
        let mut crc = Crc::new();
        crc.update(&header[6..8]);
        let has_crc = match header[6..8] {
            [0, 0] => false,
            [0, 1] => true,
            _ => return None,
        };
        if le_u32(header, 8)? != crc.sum() {
            return None;
        }
        let block = Block::new(&packed[STREAM_HEADER..])?;
        Some(Self {
            has_crc,
            block: Some(block),
        })
    }

    /// Checks the block that has ended and begins the next one.
    fn next_block(&mut self) -> io::Result<()> {
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        let mut rest = *block.lzma.inner();
        let padding = (block.packed - rest.len()).wrapping_neg() % 4;
        rest = rest.get(padding..).ok_or(io::ErrorKind::UnexpectedEof)?;
        if self.has_crc {
            let stored = le_u32(rest, 0).ok_or(io::ErrorKind::UnexpectedEof)?;
            if stored != block.crc.sum() {
                return Err(invalid("the block's CRC32 does not match"));
            }
            rest = &rest[4..];
        }
        // A zero size is the index: the end.
        if *rest.first().ok_or(io::ErrorKind::UnexpectedEof)? != 0 {
            let next = Block::new(rest).ok_or_else(|| invalid("unexpected block header"))?;
            self.block = Some(next);
        }
        Ok(())
    }
}

impl<'a> Block<'a> {
    /// Reads a block header, `None` if it is damaged or not of a kernel's form.
    fn new(rest: &'a [u8]) -> Option<Self> {
        let size = (usize::from(*rest.first()?) + 1) * 4;
        let (header, data) = rest.split_at_checked(size)?;
        let (fields, _) = header.split_last_chunk::<4>()?;
        let mut crc = Crc::new();
        crc.update(fields);
        if le_u32(header, fields.len())? != crc.sum() {
            return None;
        }
        let (dict_size, x86) = filters(fields)?;
        Some(Self {
            lzma: Lzma2Reader::new(data, dict_size, None),
            packed: data.len(),
            x86,
            held: [0; HELD],
            held_len: 0,
            crc: Crc::new(),
        })
    }

    /// Fills `out` from its start; 0 means the block's end, with `held` empty.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let held = self.held_len;
            out[..held].copy_from_slice(&self.held[..held]);
            self.held_len = 0;
            let got = self.lzma.read(&mut out[held..])?;
            let there = &mut out[..held + got];
            let settled = match &mut self.x86 {
                Some(x86) if got > 0 => x86.decode(there),
                _ => there.len(),
            };
            let (settled, left) = there.split_at(settled);
            self.held
                .get_mut(..left.len())
                .ok_or_else(|| invalid("the x86 filter stalled"))?
                .copy_from_slice(left);
            self.held_len = left.len();
            self.crc.update(settled);
            if got == 0 || !settled.is_empty() {
                return Ok(settled.len());
            }
        }
    }
}

impl Read for Blocks<'_> {
    /// Needs room for more than the filter keeps back.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.len() <= HELD {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        while let Some(block) = &mut self.block {
            let got = block.read(out)?;
            if got > 0 {
                return Ok(got);
            }
            self.next_block()?;
        }
        Ok(0)
    }
}

/// The dictionary size and the x86 filter, from a block header without its
/// CRC. `None` for every other chain.
fn filters(header: &[u8]) -> Option<(u32, Option<StreamFilter>)> {
    let flags = *header.get(1)?;
    if flags & 0x3c != 0 {
        return None;
    }
    let mut rest = header.get(2..)?;
    for present in [0x40, 0x80] {
        if flags & present != 0 {
            rest = skip_number(rest)?;
        }
    }
    let mut x86 = None;
    if flags & 3 == 1 {
        let (start, next) = match *rest {
            [FILTER_X86, 0, ref next @ ..] => (0, next),
            [FILTER_X86, 4, a, b, c, d, ref next @ ..] => (u32::from_le_bytes([a, b, c, d]), next),
            _ => return None,
        };
        x86 = Some(StreamFilter::new(&FilterConfig::new_bcj_x86(start)).ok()?);
        rest = next;
    } else if flags & 3 != 0 {
        return None;
    }
    match *rest {
        [FILTER_LZMA2, 1, code, ref padding @ ..] if padding.iter().all(|&b| b == 0) => {
            Some((dictionary(code)?, x86))
        }
        _ => None,
    }
}

/// A multibyte integer: seven bits a byte, at most nine bytes.
fn skip_number(data: &[u8]) -> Option<&[u8]> {
    let last = data.iter().take(9).position(|b| b & 0x80 == 0)?;
    data.get(last + 1..)
}

/// LZMA2's dictionary code (section 5.3.1 of the format) in bytes.
fn dictionary(code: u8) -> Option<u32> {
    match code {
        0..40 => Some((2 | u32::from(code & 1)) << (code / 2 + 11)),
        40 => Some(u32::MAX),
        _ => None,
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
