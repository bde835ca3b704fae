//! LZ4's legacy frame: blocks of a 32-bit packed size and its data, no end
//! mark, no checksum (lz4's `doc/lz4_Frame_format.md`, "Legacy frame").

use std::io::{self, Read};

use super::bytes::le_u32;

const MAGIC: u32 = 0x184c_2102;

/// Decodes block by block, straight into the caller's buffer.
pub(super) struct Legacy<'a> {
    rest: &'a [u8],
}

impl<'a> Legacy<'a> {
    /// A block never unpacks to more (bytes).
    pub(super) const BLOCK: usize = 8 << 20;

    /// `packed` begins with the magic number.
    pub(super) fn new(packed: &'a [u8]) -> Self {
        Self { rest: packed }
    }

    /// The next block's packed data. A frame may follow a frame. Four bytes
    /// with nothing behind them are the size that the kernel's build appends.
    fn next_block(&mut self) -> io::Result<Option<&'a [u8]>> {
        loop {
            let Some(size) = le_u32(self.rest, 0) else {
                return if self.rest.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            };
            let data = &self.rest[4..];
            if size == MAGIC {
                self.rest = data;
                continue;
            }
            if data.is_empty() {
                self.rest = data;
                return Ok(None);
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let (block, rest) = data
                .split_at_checked(size)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            self.rest = rest;
            return Ok(Some(block));
        }
    }
}

impl Read for Legacy<'_> {
    /// Needs room for a whole block, [`Legacy::BLOCK`].
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(block) = self.next_block()? {
            let got = lz4_flex::block::decompress_into(block, out)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if got > 0 {
                return Ok(got);
            }
        }
        Ok(0)
    }
}
