//! One zstd frame (RFC 8878), its content checksum compared at the end.

use std::io::{self, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Linux packs with `--ultra -22`, a window of 128 MiB, and its own decoder
/// allows no more (`lib/decompress_unzstd.c`).
const MAX_WINDOW: u64 = 128 << 20;

/// Decodes the first frame and ignores what follows it.
pub(super) struct Frame<'a> {
    stream: StreamingDecoder<&'a [u8], FrameDecoder>,
    checked: bool,
}

impl<'a> Frame<'a> {
    /// Reads the frame's header.
    pub(super) fn new(packed: &'a [u8]) -> io::Result<Self> {
        let stream = StreamingDecoder::new_with_max_window_size(packed, MAX_WINDOW)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
        Ok(Self {
            stream,
            checked: false,
        })
    }

    fn check(&mut self) -> io::Result<()> {
        self.checked = true;
        let decoder = &self.stream.decoder;
        match (
            decoder.get_checksum_from_data(),
            decoder.get_calculated_checksum(),
        ) {
            (Some(stored), Some(found)) if stored != found => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the content checksum does not match",
            )),
            _ => Ok(()),
        }
    }
}

impl Read for Frame<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(out)?;
        if got == 0 && !out.is_empty() && !self.checked {
            self.check()?;
        }
        Ok(got)
    }
}
