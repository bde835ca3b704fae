//! The host ends of network devices: where a guest's Ethernet frames go and come from.
//!
//! A [`NetEnd`] moves whole frames and never blocks. With each frame goes an [`Offload`]: what of
//! its checksum and segmentation is still to be done, in the terms of a virtio network header
//! (Virtual I/O Device specification 1.2, section 5.1.6). Nothing here knows rings or grants.

mod addr;
pub mod config;
mod dgram;
mod error;
mod helper;
#[cfg(test)]
mod host_tests;
mod passt;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod vnet;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use bitflags::bitflags;
use xenner_console::FdSource;

use config::{NetdevBackend, NetdevConfig};
pub use dgram::DgramEnd;
pub use error::NetEndError;
pub use stream::StreamEnd;
pub use tap::TapEnd;

/// The most bytes of a frame: a 64 KiB segmentation offload packet with its Ethernet header and two
/// VLAN tags.
pub const MAX_FRAME: usize = 65536 + 14 + 8;
/// Bytes of an Ethernet header, the least of a frame (IEEE 802.3, without the padding that wires need).
pub const MIN_FRAME: usize = 14;

bitflags! {
    /// What may be left to the receiver of a frame.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Offloads: u8 {
        /// The checksum of TCP or UDP over IPv4.
        const CSUM_V4 = 1 << 0;
        /// The checksum of TCP or UDP over IPv6.
        const CSUM_V6 = 1 << 1;
        /// Cutting TCP over IPv4 into segments.
        const TSO_V4 = 1 << 2;
        /// Cutting TCP over IPv6 into segments.
        const TSO_V6 = 1 << 3;
    }
}

/// A frame's transport checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame, right or wrong.
    #[default]
    InFrame,
    /// It is in the frame or was, and whoever sent the frame vouches for it.
    Verified,
    /// Its place holds the sum of the pseudo header alone (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Blank {
        /// Where the summed bytes start; they go on to the frame's end.
        start: u16,
        /// Where the checksum belongs, counted from `start`.
        offset: u16,
    },
}

/// Which headers segments get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// A frame that is to be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Its protocols.
    pub kind: GsoKind,
    /// TCP payload bytes of a segment (the maximum segment size), not 0.
    pub size: u16,
    /// Bytes of all headers, which every segment repeats.
    pub header_len: u16,
}

/// What is still to be done with a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Its checksum.
    pub checksum: Checksum,
    /// Its segmentation.
    pub gso: Option<Gso>,
}

/// What became of a frame given to [`NetEnd::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Done,
    /// The end takes none now: give the same frame again when its descriptor is writable.
    Busy,
    /// It is lost, because nobody is at the other side or the host refuses it.
    Dropped,
}

/// What a thread that serves an end waits for.
#[derive(Debug, Default)]
pub struct Wait<'a> {
    /// The descriptor to wait for, readable unless no frame can be taken.
    pub fd: Option<BorrowedFd<'a>>,
    /// Also wait until it is writable.
    pub writable: bool,
    /// Call [`NetEnd::advance`] at this time at the latest.
    pub deadline: Option<Instant>,
}

/// A host end, or one queue of it.
///
/// An end that fails is down ([`Self::is_up`]) from then on or until it comes back by itself, and
/// has logged why; the guest's frames are dropped meanwhile.
pub trait NetEnd: Send + Debug {
    /// What to wait for.
    fn wait(&self) -> Wait<'_>;

    /// Goes on with what waits for [`Self::wait`]: a connection, the rest of a frame.
    fn advance(&mut self);

    /// Whether frames can pass.
    fn is_up(&self) -> bool;

    /// What [`Self::send`] may leave to the end.
    fn send_offloads(&self) -> Offloads;

    /// Says what the guest takes over; frames that need more come finished where the host can.
    ///
    /// # Errors
    /// The host refuses.
    fn set_receive_offloads(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Sends a frame of [`MIN_FRAME`] to [`MAX_FRAME`] bytes.
    fn send(&mut self, offload: &Offload, frame: &[u8]) -> Sent;

    /// Ends a batch of [`Self::send`].
    fn flush(&mut self);

    /// Receives a frame into `buf` ([`MAX_FRAME`] bytes): its length and offload, or nothing for now.
    fn receive(&mut self, buf: &mut [u8]) -> Option<(usize, Offload)>;

    /// Takes the end's queue into use or out of it, where the host spreads frames over queues.
    ///
    /// # Errors
    /// The host refuses.
    fn set_enabled(&mut self, enabled: bool) -> io::Result<()>;
}

/// Opens a host end: one [`NetEnd`] a queue, at least one.
///
/// # Errors
/// Names what cannot be opened, and the way out.
pub fn open(
    netdev: &NetdevConfig,
    fds: &mut dyn FdSource,
) -> Result<Vec<Box<dyn NetEnd>>, NetEndError> {
    let one = |end: Box<dyn NetEnd>| vec![end];
    match &netdev.backend {
        NetdevBackend::Tap(tap) => Ok(tap::open(tap, fds)?
            .into_iter()
            .map(|end| Box::new(end) as Box<dyn NetEnd>)
            .collect()),
        NetdevBackend::Bridge(bridge) => Ok(one(Box::new(helper::open(bridge)?))),
        NetdevBackend::User(user) => Ok(one(Box::new(passt::start(&netdev.id, user)?))),
        NetdevBackend::Stream(stream) => {
            Ok(one(Box::new(StreamEnd::open(&netdev.id, stream, fds)?)))
        }
        NetdevBackend::Dgram(dgram) => Ok(one(Box::new(DgramEnd::open(&netdev.id, dgram, fds)?))),
    }
}
