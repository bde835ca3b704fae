//! The wire format: a 16-byte header and up to 4096 bytes of payload, the same
//! in both directions and on every transport (`struct xsd_sockmsg` of
//! `io/xs_wire.h`).
//!
//! What the requests mean is decided elsewhere.

use super::error::XsErrno;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a header.
pub const HEADER_LEN: usize = 16;
/// Longest payload in bytes (`XENSTORE_PAYLOAD_MAX`).
pub const PAYLOAD_MAX: usize = 4096;

/// The header of a message.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// The kind of message, a [`MessageType`].
    pub kind: U32,
    /// The sender's number for it, given back in the answer.
    pub req_id: U32,
    /// The transaction, 0 for none.
    pub tx_id: U32,
    /// Bytes of payload.
    pub len: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The kind of a message (`enum xsd_sockmsg_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageType(pub u32);

#[expect(
    missing_docs,
    reason = "the names of enum xsd_sockmsg_type, without XS_"
)]
impl MessageType {
    pub const CONTROL: Self = Self(0);
    pub const DIRECTORY: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const GET_PERMS: Self = Self(3);
    pub const WATCH: Self = Self(4);
    pub const UNWATCH: Self = Self(5);
    pub const TRANSACTION_START: Self = Self(6);
    pub const TRANSACTION_END: Self = Self(7);
    pub const INTRODUCE: Self = Self(8);
    pub const RELEASE: Self = Self(9);
    pub const GET_DOMAIN_PATH: Self = Self(10);
    pub const WRITE: Self = Self(11);
    pub const MKDIR: Self = Self(12);
    pub const RM: Self = Self(13);
    pub const SET_PERMS: Self = Self(14);
    pub const WATCH_EVENT: Self = Self(15);
    pub const ERROR: Self = Self(16);
    pub const IS_DOMAIN_INTRODUCED: Self = Self(17);
    pub const RESUME: Self = Self(18);
    pub const SET_TARGET: Self = Self(19);
    pub const RESET_WATCHES: Self = Self(21);
    pub const DIRECTORY_PART: Self = Self(22);
}

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub kind: MessageType,
    /// The sender's number, given back in the answer.
    pub req_id: u32,
    /// The transaction, 0 for none.
    pub tx_id: u32,
    /// The arguments, at most [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A sender that cannot be understood any more: the boundaries between its
/// messages are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The header announces more than a payload may hold.
    #[error("Message of type {kind} announces {len} bytes of payload, more than {PAYLOAD_MAX}")]
    PayloadTooLong {
        /// The message's type.
        kind: u32,
        /// The announced length.
        len: u32,
    },
}

/// Builds a message.
#[must_use]
pub fn encode(kind: MessageType, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    // No caller exceeds PAYLOAD_MAX.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = Header {
        kind: kind.0.into(),
        req_id: req_id.into(),
        tx_id: tx_id.into(),
        len: len.into(),
    };
    [header.as_bytes(), payload].concat()
}

/// Puts messages together from bytes that come in pieces of any size.
///
/// It asks for the bytes of one message at a time and so never holds more
/// than one.
#[derive(Debug, Default)]
pub struct Assembler {
    buffer: Vec<u8>,
}

impl Assembler {
    /// How many bytes may be given next: up to the end of the header, or up to
    /// the end of the message. Never 0.
    ///
    /// # Errors
    /// [`WireError`] if the header cannot be right.
    pub fn wanted(&self) -> Result<usize, WireError> {
        match self.header() {
            None => Ok(HEADER_LEN - self.buffer.len()),
            Some(header) => Ok(HEADER_LEN + payload_len(&header)? - self.buffer.len()),
        }
    }

    /// Takes bytes, at most [`Assembler::wanted`] of them, and returns the
    /// request that they complete.
    ///
    /// # Errors
    /// [`WireError`] if the header cannot be right; the sender is lost.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Request>, WireError> {
        self.buffer.extend_from_slice(bytes);
        let Some(header) = self.header() else {
            return Ok(None);
        };
        if self.buffer.len() < HEADER_LEN + payload_len(&header)? {
            return Ok(None);
        }
        let payload = self.buffer.split_off(HEADER_LEN);
        self.buffer.clear();
        Ok(Some(Request {
            kind: MessageType(header.kind.get()),
            req_id: header.req_id.get(),
            tx_id: header.tx_id.get(),
            payload,
        }))
    }

    /// The bytes of the message that is not complete yet.
    #[must_use]
    pub fn partial(&self) -> &[u8] {
        &self.buffer
    }

    /// An assembler that has taken `partial` (of [`Assembler::partial`]) so far;
    /// none if these bytes hold a complete message. A header that cannot be
    /// right stays one.
    #[must_use]
    pub fn resume(partial: &[u8]) -> Option<Self> {
        let assembler = Self {
            buffer: partial.to_vec(),
        };
        let open = match assembler.header().map(|header| payload_len(&header)) {
            None => true,
            Some(Ok(len)) => partial.len() < HEADER_LEN + len,
            Some(Err(_)) => partial.len() == HEADER_LEN,
        };
        open.then_some(assembler)
    }

    fn header(&self) -> Option<Header> {
        Header::read_from_prefix(&self.buffer)
            .ok()
            .map(|(header, _)| header)
    }
}

fn payload_len(header: &Header) -> Result<usize, WireError> {
    let len = header.len.get();
    if len as usize > PAYLOAD_MAX {
        return Err(WireError::PayloadTooLong {
            kind: header.kind.get(),
            len,
        });
    }
    Ok(len as usize)
}

/// Splits a payload of strings that each end with a NUL.
///
/// # Errors
/// EINVAL if the last one does not.
pub fn strings(payload: &[u8]) -> Result<Vec<&[u8]>, XsErrno> {
    match payload.split_last() {
        None => Ok(Vec::new()),
        Some((0, rest)) => Ok(rest.split(|&b| b == 0).collect()),
        Some(_) => Err(XsErrno::EINVAL),
    }
}

/// The only string of a payload.
///
/// # Errors
/// EINVAL unless it is exactly one.
pub fn one_string(payload: &[u8]) -> Result<&[u8], XsErrno> {
    match strings(payload)?.as_slice() {
        [only] => Ok(only),
        _ => Err(XsErrno::EINVAL),
    }
}

/// Splits off the first string; the rest may be anything.
///
/// # Errors
/// EINVAL if no NUL ends it.
pub fn first_string(payload: &[u8]) -> Result<(&[u8], &[u8]), XsErrno> {
    let end = payload
        .iter()
        .position(|&b| b == 0)
        .ok_or(XsErrno::EINVAL)?;
    let (first, rest) = payload.split_at(end);
    Ok((first, rest.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strings_must_be_terminated() {
        assert_eq!(strings(b"a\0bc\0").unwrap(), [&b"a"[..], b"bc"]);
        assert_eq!(strings(b"").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(strings(b"\0").unwrap(), [b""]);
        assert_eq!(strings(b"a\0b"), Err(XsErrno::EINVAL));
        assert_eq!(one_string(b"a\0").unwrap(), b"a");
        assert!(one_string(b"a\0b\0").is_err());
        assert!(one_string(b"").is_err());
        assert_eq!(
            first_string(b"p\0value").unwrap(),
            (&b"p"[..], &b"value"[..])
        );
        assert!(first_string(b"p").is_err());
    }

    #[test]
    fn too_long_a_payload_loses_the_sender() {
        let mut assembler = Assembler::default();
        let mut message = encode(MessageType::READ, 1, 0, b"x\0");
        message[12..16].copy_from_slice(&4097u32.to_le_bytes());
        let error = WireError::PayloadTooLong { kind: 2, len: 4097 };
        assert_eq!(assembler.push(&message[..16]), Err(error));
        assert_eq!(assembler.wanted(), Err(error));
        let resumed = Assembler::resume(assembler.partial()).unwrap();
        assert_eq!(resumed.wanted(), Err(error));
        assert!(Assembler::resume(&message).is_none());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_messages(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            chunks in prop::collection::vec(1usize..30, 1..20),
        ) {
            let stream: Vec<u8> = payloads
                .iter()
                .enumerate()
                .flat_map(|(i, p)| encode(MessageType::WRITE, i as u32, 7, p))
                .collect();
            let mut assembler = Assembler::default();
            let (mut rest, mut got) = (&stream[..], Vec::new());
            let mut chunks = chunks.iter().cycle();
            while !rest.is_empty() {
                let take = assembler.wanted().unwrap().min(*chunks.next().unwrap()).min(rest.len());
                got.extend(assembler.push(&rest[..take]).unwrap());
                rest = &rest[take..];
            }
            prop_assert_eq!(got.len(), payloads.len());
            for (i, (request, payload)) in got.iter().zip(&payloads).enumerate() {
                prop_assert_eq!(request.req_id, i as u32);
                prop_assert_eq!(request.tx_id, 7);
                prop_assert_eq!(&request.payload, payload);
            }
            prop_assert!(assembler.partial().is_empty());
        }
    }
}
