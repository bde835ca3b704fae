//! What only assembly can say: entry code, privileged instructions, descriptor tables.
// UNSAFETY: privileged instructions and the entry code have no safe form.
#![expect(unsafe_code)]

pub mod cpu;
pub mod descriptors;
pub mod entry;
