//! `ringbuf`: the newest output, kept in memory for the monitor.

use std::collections::VecDeque;

use super::{Endpoint, Want, Watches};
use crate::config::RINGBUF_SIZES;
use crate::error::ChardevError;

/// Holds the newest `size` bytes; older ones are overwritten.
#[derive(Debug)]
pub(crate) struct RingbufEnd {
    size: usize,
    bytes: VecDeque<u8>,
}

impl RingbufEnd {
    pub(crate) fn new(id: &str, size: usize) -> Result<Self, ChardevError> {
        if !size.is_power_of_two() || !RINGBUF_SIZES.contains(&size) {
            return Err(ChardevError::RingbufSize {
                id: id.to_owned(),
                size,
            });
        }
        Ok(Self {
            size,
            bytes: VecDeque::new(),
        })
    }

    /// Takes the oldest bytes out, `max` at most.
    pub(crate) fn take(&mut self, max: usize) -> Vec<u8> {
        let count = max.min(self.bytes.len());
        self.bytes.drain(..count).collect()
    }
}

impl Endpoint for RingbufEnd {
    fn filename(&self) -> String {
        "ringbuf".to_owned()
    }

    fn read(&mut self, _buf: &mut [u8]) -> usize {
        0
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let newest = &data[data.len().saturating_sub(self.size)..];
        let surplus = (self.bytes.len() + newest.len()).saturating_sub(self.size);
        self.bytes.drain(..surplus);
        self.bytes.extend(newest);
        data.len()
    }

    fn watches(&self, _want: Want) -> Watches<'_> {
        [None; 3]
    }

    fn ringbuf(&mut self) -> Option<&mut RingbufEnd> {
        Some(self)
    }
}
