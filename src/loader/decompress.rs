//! Unpacks a kernel payload no further than asked: a vmlinux ends in
//! relocations and section tables that a loader does not need.
//!
//! Formats are those of Linux's `lib/decompress*.c`, LZO excepted. Output is
//! bounded by [`MAX_IMAGE`] and by the packed size; buffers grow with what was
//! really unpacked, never with what a header claims alone.

use std::fmt;
use std::io::{self, Read};

use super::error::Cause;
use super::hugepage;
use super::lz4::Legacy;
use super::xz;
use super::zstd;

/// Neither a file nor what it unpacks to may be larger (bytes).
pub(super) const MAX_IMAGE: usize = 1 << 30;
/// Room offered to a decoder at once: fits a second-level cache, so that what
/// runs over the output after the decoder finds it there.
const STEP: usize = 256 << 10;
/// First buffer, at most so many times the packed size. Kernels pack 4 to 9
/// times smaller.
const LIKELY_RATIO: usize = 16;
/// An image unpacks to so many times the packed size at most, beyond
/// [`FREE_SIZE`]: a small file must not keep the loader busy for long.
const MAX_RATIO: usize = 64;
const FREE_SIZE: usize = 64 << 20;
/// How far past the wanted bytes unpacking goes on to reach a checksum at the
/// stream's end. Linux's relocations are about 1 MiB.
const CHECKED_TAIL: usize = 4 << 20;

/// A compression that kernels are packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// `.lzma`, the format before xz.
    Lzma,
    /// `.xz`, with or without an executable filter.
    Xz,
    /// LZ4's legacy frame, which the kernel's build uses.
    Lz4Legacy,
    /// LZ4's current frame, which the `lz4` program writes.
    Lz4Frame,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Gzip => "gzip",
            Codec::Bzip2 => "bzip2",
            Codec::Lzma => "lzma",
            Codec::Xz => "xz",
            Codec::Lz4Legacy => "lz4 legacy",
            Codec::Lz4Frame => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

const MAGICS: [(&[u8], Codec); 7] = [
    (&[0x1f, 0x8b], Codec::Gzip),
    (b"BZh", Codec::Bzip2),
    (&[0x5d, 0x00], Codec::Lzma),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], Codec::Xz),
    (&[0x02, 0x21, 0x4c, 0x18], Codec::Lz4Legacy),
    (&[0x04, 0x22, 0x4d, 0x18], Codec::Lz4Frame),
    (&[0x28, 0xb5, 0x2f, 0xfd], Codec::Zstd),
];
const LZOP_MAGIC: &[u8] = &[0x89, b'L', b'Z'];

impl Codec {
    /// The compression that `packed` begins with, if any.
    pub(super) fn detect(packed: &[u8]) -> Result<Option<Codec>, Cause> {
        if packed.starts_with(LZOP_MAGIC) {
            return Err(Cause::Lzo);
        }
        let found = MAGICS.iter().find(|(magic, _)| packed.starts_with(magic));
        Ok(found.map(|&(_, codec)| codec))
    }

    /// Whether a bzImage carries a size field behind the stream. Gzip has its
    /// own (RFC 1952, ISIZE), at the same place.
    fn has_trailer(self) -> bool {
        self != Codec::Gzip
    }

    /// Bytes to unpack beyond those wanted. xz needs none: its chunks end in a
    /// known decoder state, so damage shows at once. A zstd frame is decoded
    /// to the end anyway where the window is larger than the image.
    pub(super) fn tail(self) -> usize {
        match self {
            Codec::Gzip | Codec::Zstd => CHECKED_TAIL,
            _ => 0,
        }
    }

    fn decoder(self, packed: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Codec::Gzip => Box::new(flate2::bufread::GzDecoder::new(packed)),
            Codec::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
            Codec::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(
                packed,
                u32::MAX,
                None,
            )?),
            Codec::Xz => xz::decoder(packed),
            Codec::Lz4Legacy => Box::new(Legacy::new(packed)),
            Codec::Lz4Frame => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
            Codec::Zstd => Box::new(zstd::Frame::new(packed)?),
        })
    }
}

/// A payload being unpacked into one buffer.
pub(super) struct Inflate<'a> {
    codec: Codec,
    decoder: Box<dyn Read + 'a>,
    /// Zeros from `filled` on.
    out: Vec<u8>,
    filled: usize,
    ended: bool,
    declared: Option<usize>,
    limit: usize,
}

impl<'a> Inflate<'a> {
    /// Prepares to unpack `payload`, which a bzImage ends with its unpacked
    /// size (`in_bzimage`). Nothing is unpacked yet.
    pub(super) fn new(codec: Codec, payload: &'a [u8], in_bzimage: bool) -> Result<Self, Cause> {
        let (packed, declared) = if in_bzimage {
            split_trailer(codec, payload)?
        } else {
            (payload, None)
        };
        let limit = packed.len().saturating_mul(MAX_RATIO);
        let limit = limit.clamp(FREE_SIZE, MAX_IMAGE);
        check_declared(declared, limit)?;
        let failed = |e: io::Error| Cause::Decompress {
            codec,
            reason: e.to_string(),
        };
        let likely = packed.len().saturating_mul(LIKELY_RATIO).min(MAX_IMAGE);
        let room = declared.unwrap_or(likely).min(likely);
        Ok(Self {
            codec,
            decoder: codec.decoder(packed).map_err(failed)?,
            out: hugepage::zeroed(room + Self::room(codec)),
            filled: 0,
            ended: false,
            declared,
            limit,
        })
    }

    /// The size that the bzImage says the image has (bytes).
    pub(super) fn declared(&self) -> Option<usize> {
        self.declared
    }

    /// Bytes that are unpacked at most.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The compression.
    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// Unpacks until `wanted` bytes are there, the stream ends or the limit is
    /// reached, and gives all that is there.
    pub(super) fn upto(&mut self, wanted: usize) -> Result<&[u8], Cause> {
        let wanted = wanted.min(self.limit);
        let room = Self::room(self.codec);
        while self.filled < wanted && !self.ended {
            self.make_room(self.filled + room);
            let free = &mut self.out[self.filled..];
            let offered = free.len().min(room);
            let got = self.decoder.read(&mut free[..offered]);
            match got.map_err(|e| self.failed(&e))? {
                0 => self.ended = true,
                got => self.filled += got,
            }
        }
        Ok(&self.out[..self.filled])
    }

    /// The unpacked bytes so far.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.out.truncate(self.filled);
        self.out
    }

    /// What the decoder is offered at least.
    fn room(codec: Codec) -> usize {
        match codec {
            Codec::Lz4Legacy => Legacy::BLOCK,
            _ => STEP,
        }
    }

    fn make_room(&mut self, len: usize) {
        if self.out.len() < len {
            self.out.resize(len.max(self.out.len() * 2), 0);
        }
    }

    fn failed(&self, e: &io::Error) -> Cause {
        let reason = match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the data ends early, after {} unpacked bytes", self.filled)
            }
            _ => e.to_string(),
        };
        Cause::Decompress {
            codec: self.codec,
            reason,
        }
    }
}

/// Takes the four bytes that the kernel's build appends to the stream
/// (`scripts/Makefile.lib`, `size_append`): the unpacked size, little endian.
fn split_trailer(codec: Codec, payload: &[u8]) -> Result<(&[u8], Option<usize>), Cause> {
    let Some((stream, size)) = payload.split_last_chunk::<4>() else {
        return Err(Cause::BadBzImage("the payload is too short".to_owned()));
    };
    let declared = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let stream = if codec.has_trailer() { stream } else { payload };
    Ok((stream, Some(declared)))
}

fn check_declared(declared: Option<usize>, limit: usize) -> Result<(), Cause> {
    match declared {
        Some(size) if size > limit => Err(Cause::TooLarge {
            what: "the unpacked kernel",
            size: size as u64,
            limit: limit as u64,
        }),
        _ => Ok(()),
    }
}
