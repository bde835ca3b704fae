//! `io/protocols.h`: what a frontend's `protocol` node says of its layouts.

/// 32-bit x86.
pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
/// 64-bit x86; what a missing node means here too.
pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
