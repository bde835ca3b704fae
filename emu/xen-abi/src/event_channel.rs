//! `event_channel.h`: `event_channel_op` commands and their arguments, and the
//! FIFO interface's numbers.

use core::mem::offset_of;

/// Bind to a port of another domain.
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// Bind a virtual interrupt.
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// Bind a physical interrupt.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// Close a port.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// Signal a port.
pub const EVTCHNOP_SEND: u32 = 4;
/// Status of a port.
pub const EVTCHNOP_STATUS: u32 = 5;
/// Make a port for another domain to bind to.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// Make a port between vCPUs.
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// Choose the vCPU to notify.
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// Unmask a port.
pub const EVTCHNOP_UNMASK: u32 = 9;
/// Close all ports.
pub const EVTCHNOP_RESET: u32 = 10;
/// FIFO: register a control block.
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// FIFO: add an array page.
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// FIFO: priority of a port.
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;

/// Not in use.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// Waiting for the other domain.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// Connected.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// Physical interrupt.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// Virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// Between vCPUs.
pub const EVTCHNSTAT_IPI: u32 = 5;

/// Highest priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// Default priority.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// Lowest priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Number of queues.
pub const EVTCHN_FIFO_MAX_QUEUES: u32 = 16;
/// Bit number in an event word: pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// Bit number: masked.
pub const EVTCHN_FIFO_MASKED: u32 = 30;
/// Bit number: on a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// Bit number: being changed.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// Bits of the link field.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// Ports of the FIFO interface.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;

/// Argument of `EVTCHNOP_BIND_INTERDOMAIN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnBindInterdomain {
    /// Other domain.
    pub remote_dom: u16,
    /// Padding.
    pub pad: u16,
    /// Its port.
    pub remote_port: u32,
    /// Out: our port.
    pub local_port: u32,
}

const _: () = assert!(size_of::<EvtchnBindInterdomain>() == 12);
const _: () = assert!(offset_of!(EvtchnBindInterdomain, remote_dom) == 0);
const _: () = assert!(offset_of!(EvtchnBindInterdomain, pad) == 2);
const _: () = assert!(offset_of!(EvtchnBindInterdomain, remote_port) == 4);
const _: () = assert!(offset_of!(EvtchnBindInterdomain, local_port) == 8);

/// Argument of `EVTCHNOP_BIND_VIRQ`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnBindVirq {
    /// `VIRQ_*`.
    pub virq: u32,
    /// vCPU.
    pub vcpu: u32,
    /// Out: port.
    pub port: u32,
}

const _: () = assert!(size_of::<EvtchnBindVirq>() == 12);
const _: () = assert!(offset_of!(EvtchnBindVirq, virq) == 0);
const _: () = assert!(offset_of!(EvtchnBindVirq, vcpu) == 4);
const _: () = assert!(offset_of!(EvtchnBindVirq, port) == 8);

/// Argument of `EVTCHNOP_BIND_PIRQ`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnBindPirq {
    /// Interrupt.
    pub pirq: u32,
    /// Flags.
    pub flags: u32,
    /// Out: port.
    pub port: u32,
}

const _: () = assert!(size_of::<EvtchnBindPirq>() == 12);
const _: () = assert!(offset_of!(EvtchnBindPirq, pirq) == 0);
const _: () = assert!(offset_of!(EvtchnBindPirq, flags) == 4);
const _: () = assert!(offset_of!(EvtchnBindPirq, port) == 8);

/// Argument of close, send and unmask: a port alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnPort {
    /// Port.
    pub port: u32,
}

const _: () = assert!(size_of::<EvtchnPort>() == 4);
const _: () = assert!(offset_of!(EvtchnPort, port) == 0);

/// Argument of `EVTCHNOP_STATUS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnStatus {
    /// Domain.
    pub dom: u16,
    /// Padding.
    pub pad0: u16,
    /// Port.
    pub port: u32,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: vCPU to notify.
    pub vcpu: u32,
    /// Out: unbound: domid in the low half of word 0; interdomain: domid there and port in word 1; virq or pirq: its number in word 0.
    pub u: [u32; 2],
}

const _: () = assert!(size_of::<EvtchnStatus>() == 24);
const _: () = assert!(offset_of!(EvtchnStatus, dom) == 0);
const _: () = assert!(offset_of!(EvtchnStatus, pad0) == 2);
const _: () = assert!(offset_of!(EvtchnStatus, port) == 4);
const _: () = assert!(offset_of!(EvtchnStatus, status) == 8);
const _: () = assert!(offset_of!(EvtchnStatus, vcpu) == 12);
const _: () = assert!(offset_of!(EvtchnStatus, u) == 16);

/// Argument of `EVTCHNOP_ALLOC_UNBOUND`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnAllocUnbound {
    /// Owner of the port.
    pub dom: u16,
    /// Who may bind.
    pub remote_dom: u16,
    /// Out: port.
    pub port: u32,
}

const _: () = assert!(size_of::<EvtchnAllocUnbound>() == 8);
const _: () = assert!(offset_of!(EvtchnAllocUnbound, dom) == 0);
const _: () = assert!(offset_of!(EvtchnAllocUnbound, remote_dom) == 2);
const _: () = assert!(offset_of!(EvtchnAllocUnbound, port) == 4);

/// Argument of `EVTCHNOP_BIND_IPI`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnBindIpi {
    /// vCPU to notify.
    pub vcpu: u32,
    /// Out: port.
    pub port: u32,
}

const _: () = assert!(size_of::<EvtchnBindIpi>() == 8);
const _: () = assert!(offset_of!(EvtchnBindIpi, vcpu) == 0);
const _: () = assert!(offset_of!(EvtchnBindIpi, port) == 4);

/// Argument of `EVTCHNOP_BIND_VCPU`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnBindVcpu {
    /// Port.
    pub port: u32,
    /// vCPU to notify.
    pub vcpu: u32,
}

const _: () = assert!(size_of::<EvtchnBindVcpu>() == 8);
const _: () = assert!(offset_of!(EvtchnBindVcpu, port) == 0);
const _: () = assert!(offset_of!(EvtchnBindVcpu, vcpu) == 4);

/// Argument of `EVTCHNOP_RESET`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnReset {
    /// Domain.
    pub dom: u16,
}

const _: () = assert!(size_of::<EvtchnReset>() == 2);
const _: () = assert!(offset_of!(EvtchnReset, dom) == 0);

/// Argument of `EVTCHNOP_INIT_CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnInitControl {
    /// Frame of the control block.
    pub control_gfn: u64,
    /// Offset in it.
    pub offset: u32,
    /// vCPU.
    pub vcpu: u32,
    /// Out: bits of a link.
    pub link_bits: u8,
    /// Padding.
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<EvtchnInitControl>() == 24);
const _: () = assert!(offset_of!(EvtchnInitControl, control_gfn) == 0);
const _: () = assert!(offset_of!(EvtchnInitControl, offset) == 8);
const _: () = assert!(offset_of!(EvtchnInitControl, vcpu) == 12);
const _: () = assert!(offset_of!(EvtchnInitControl, link_bits) == 16);
const _: () = assert!(offset_of!(EvtchnInitControl, pad) == 17);

/// Argument of `EVTCHNOP_EXPAND_ARRAY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnExpandArray {
    /// Frame.
    pub array_gfn: u64,
}

const _: () = assert!(size_of::<EvtchnExpandArray>() == 8);
const _: () = assert!(offset_of!(EvtchnExpandArray, array_gfn) == 0);

/// Argument of `EVTCHNOP_SET_PRIORITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnSetPriority {
    /// Port.
    pub port: u32,
    /// Priority.
    pub priority: u32,
}

const _: () = assert!(size_of::<EvtchnSetPriority>() == 8);
const _: () = assert!(offset_of!(EvtchnSetPriority, port) == 0);
const _: () = assert!(offset_of!(EvtchnSetPriority, priority) == 4);

/// Control block of a vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EvtchnFifoControlBlock {
    /// Queues with events.
    pub ready: u32,
    /// Reserved.
    pub rsvd: u32,
    /// Heads of the queues.
    pub head: [u32; 16],
}

const _: () = assert!(size_of::<EvtchnFifoControlBlock>() == 72);
const _: () = assert!(offset_of!(EvtchnFifoControlBlock, ready) == 0);
const _: () = assert!(offset_of!(EvtchnFifoControlBlock, rsvd) == 4);
const _: () = assert!(offset_of!(EvtchnFifoControlBlock, head) == 8);
