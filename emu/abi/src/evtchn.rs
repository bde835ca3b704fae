//! The event channel table: one `u32` a port, written by the VMM, read by the
//! emulator when the guest sends on or unmasks a port.

/// Ports of a domain (2-level ABI, 64-bit guest).
pub const PORTS: usize = 4096;

/// What a port is bound to.
pub const KIND_MASK: u32 = 0xff;
/// Not bound at all.
pub const CLOSED: u32 = 0;
/// Allocated, waiting for its peer: a send is accepted and has no effect.
pub const UNBOUND: u32 = 1;
/// Bound to a backend in the VMM: a send is an `out` to [`crate::mailbox::PORT_EVTCHN`].
pub const BACKEND: u32 = 2;
/// An inter-vcpu interrupt: a send makes the port itself pending.
pub const IPI: u32 = 3;
/// A virtual interrupt.
pub const VIRQ: u32 = 4;
/// Bound to another port of the same domain, named by the peer bits.
pub const LOOP: u32 = 5;

/// Shift of the number of the vcpu that is notified (8 bits).
pub const VCPU_SHIFT: u32 = 8;
/// Shift of the peer's port number for [`LOOP`] (16 bits).
pub const PEER_SHIFT: u32 = 16;

/// Composes an entry.
pub const fn entry(kind: u32, vcpu: u32, peer: u32) -> u32 {
    kind | (vcpu & 0xff) << VCPU_SHIFT | peer << PEER_SHIFT
}
/// The notified vcpu of an entry.
pub const fn vcpu(entry: u32) -> u32 {
    (entry >> VCPU_SHIFT) & 0xff
}
/// The peer port of an entry.
pub const fn peer(entry: u32) -> u32 {
    entry >> PEER_SHIFT
}
