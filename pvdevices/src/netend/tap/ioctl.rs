//! The tap driver's ioctls (Linux, `include/uapi/linux/if_tun.h`).

// UNSAFETY: rustix cannot know which argument an ioctl number takes.
#![expect(unsafe_code)]

use bitflags::bitflags;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::ioctl::{self, IntegerSetter, Opcode, Setter, Updater, opcode};

use crate::netend::Offloads;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETQUEUE: Opcode = opcode::write::<i32>(b'T', 217);

/// `TUN_F_*`: what a frame that is read may leave to the reader.
const TUN_F_CSUM: usize = 1;
const TUN_F_TSO4: usize = 2;
const TUN_F_TSO6: usize = 4;

bitflags! {
    /// `IFF_*` of `if_tun.h`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Flags: u16 {
        /// Frames, not IP packets.
        const TAP = 0x0002;
        /// Several queues.
        const MULTI_QUEUE = 0x0100;
        /// The queue is taken into use.
        const ATTACH_QUEUE = 0x0200;
        /// The queue is taken out of use.
        const DETACH_QUEUE = 0x0400;
        /// No protocol number in front of frames.
        const NO_PI = 0x1000;
        /// A virtio header in front of frames.
        const VNET_HDR = 0x4000;
        const _ = !0;
    }
}

/// `struct ifreq` (netdevice(7)): a name and, of its union, the flags.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == 40);

impl Request {
    /// A request for the interface of this name, of at most 15 bytes.
    pub(super) fn new(name: &str, flags: Flags) -> Self {
        let mut field = [0; 16];
        let length = name.len().min(15);
        field[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self {
            name: field,
            flags: flags.bits(),
            rest: [0; 22],
        }
    }

    pub(super) fn name(&self) -> String {
        let length = self.name.iter().position(|&byte| byte == 0).unwrap_or(16);
        String::from_utf8_lossy(&self.name[..length]).into_owned()
    }

    pub(super) fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.flags)
    }
}

/// Attaches to an interface; the request comes back with its name.
pub(super) fn set_interface(fd: impl AsFd, request: &mut Request) -> Result<(), Errno> {
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, whatever size its number says.
    unsafe { ioctl::ioctl(fd, Updater::<TUNSETIFF, Request>::new(request)) }
}

/// The name and flags of the interface that is attached to.
pub(super) fn get_interface(fd: impl AsFd, request: &mut Request) -> Result<(), Errno> {
    // SAFETY: TUNGETIFF writes a struct ifreq, whatever size its number says.
    unsafe { ioctl::ioctl(fd, Updater::<TUNGETIFF, Request>::new(request)) }
}

/// Sets the length of the header in front of frames, in bytes.
pub(super) fn set_header_len(fd: impl AsFd, length: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    unsafe { ioctl::ioctl(fd, Setter::<TUNSETVNETHDRSZ, i32>::new(length)) }
}

/// Says what frames that are read may leave to the reader. Without both checksums there is no
/// segmentation either.
pub(super) fn set_offload(fd: impl AsFd, offloads: Offloads) -> Result<(), Errno> {
    let mut flags = 0;
    if offloads.intersects(Offloads::CSUM_V4 | Offloads::CSUM_V6) {
        flags |= TUN_F_CSUM;
        if offloads.contains(Offloads::TSO_V4) {
            flags |= TUN_F_TSO4;
        }
        if offloads.contains(Offloads::TSO_V6) {
            flags |= TUN_F_TSO6;
        }
    }
    // SAFETY: TUNSETOFFLOAD takes the flags themselves, not a pointer to them.
    unsafe { ioctl::ioctl(fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }
}

/// Takes a queue into use or out of it.
pub(super) fn set_queue(fd: impl AsFd, enabled: bool) -> Result<(), Errno> {
    let flags = if enabled {
        Flags::ATTACH_QUEUE
    } else {
        Flags::DETACH_QUEUE
    };
    let mut request = Request::new("", flags);
    // SAFETY: TUNSETQUEUE reads a struct ifreq, whatever size its number says.
    unsafe { ioctl::ioctl(fd, Updater::<TUNSETQUEUE, Request>::new(&mut request)) }
}
