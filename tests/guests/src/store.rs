//! xenstore messages (`io/xs_wire.h`): building requests, splitting answers.

use crate::text::Text;
use xenner_xen_abi::io::xs_wire::{XENSTORE_PAYLOAD_MAX, XsdSockmsg};

/// Bytes of a message header.
pub const HEADER: usize = size_of::<XsdSockmsg>();

/// A whole request.
pub type Message = Text<{ 1024 + HEADER }>;

/// The request `kind` with the parts of its body; `None` if it is too long.
#[must_use]
pub fn request(kind: u32, req_id: u32, tx_id: u32, parts: &[&[u8]]) -> Option<Message> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mut m = Message::new();
    let mut fits = true;
    for word in [kind, req_id, tx_id, u32::try_from(len).ok()?] {
        fits &= m.push(&word.to_le_bytes());
    }
    for p in parts {
        fits &= m.push(p);
    }
    fits.then_some(m)
}

/// The header at the start of a message; `None` if its length is not allowed.
#[must_use]
pub fn header(bytes: &[u8; HEADER]) -> Option<XsdSockmsg> {
    let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    let h = XsdSockmsg {
        kind: word(0),
        req_id: word(4),
        tx_id: word(8),
        len: word(12),
    };
    (h.len as usize <= XENSTORE_PAYLOAD_MAX).then_some(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_header_and_its_parts() {
        let m = request(2, 7, 0, &[b"name", b"\0"]).expect("fits");
        assert_eq!(m.as_bytes().len(), HEADER + 5);
        let h = header(m.as_bytes()[..HEADER].try_into().expect("16 bytes")).expect("valid");
        assert_eq!((h.kind, h.req_id, h.tx_id, h.len), (2, 7, 0, 5));
        assert!(request(2, 7, 0, &[&[0; 1025]]).is_none());
    }

    #[test]
    fn a_length_above_the_maximum_is_refused() {
        let mut b = [0; HEADER];
        b[12..16].copy_from_slice(&4097u32.to_le_bytes());
        assert!(header(&b).is_none());
    }
}
