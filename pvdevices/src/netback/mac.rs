//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An Ethernet address that a network device can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr([u8; 6]);

/// Why a text is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MacError {
    /// It is no address at all.
    #[error(
        "not an Ethernet address; write six pairs of hexadecimal digits, like 52:54:00:12:34:56"
    )]
    Form,
    /// It stands for many devices.
    #[error("a group address, which no device can have; clear the lowest bit of its first pair")]
    Group,
    /// It stands for none.
    #[error("all zero, which no device can have; choose another")]
    Zero,
}

impl MacAddr {
    /// The address of these bytes.
    ///
    /// # Errors
    /// [`MacError::Group`], [`MacError::Zero`].
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(MacError::Zero),
            [first, ..] if first & 1 != 0 => Err(MacError::Group),
            bytes => Ok(Self(bytes)),
        }
    }

    /// The address of the guest's network device number `index` when none is given:
    /// 52:54:00:12:34:56 and up, as in QEMU.
    #[must_use]
    pub fn nth(index: u8) -> Self {
        Self([0x52, 0x54, 0, 0x12, 0x34, 0x56u8.wrapping_add(index)])
    }

    /// Its bytes in the order of its text.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    /// Six pairs of hexadecimal digits with colons or dashes between them.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        let mut bytes = [0; 6];
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError::Form)?;
            let digits = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| digits)
                .ok_or(MacError::Form)?;
        }
        match parts.next() {
            None => Self::new(bytes),
            Some(_) => Err(MacError::Form),
        }
    }
}
