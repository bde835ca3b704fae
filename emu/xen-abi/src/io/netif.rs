//! `io/netif.h`: packets on the transmit ring (from the domain) and the receive
//! ring (to it), what else belongs to a packet, and the control ring.

use core::mem::offset_of;

/// Slots of a packet that every end must take.
pub const XEN_NETIF_NR_SLOTS_MIN: usize = 18;
/// Bytes of the longest packet on the transmit ring.
pub const XEN_NETIF_MAX_TX_SIZE: usize = 0xffff;

/// Transmit flags: the checksum field is to be filled in.
pub const NETTXF_CSUM_BLANK: u16 = 1;
/// The data has been found right by its checksum.
pub const NETTXF_DATA_VALIDATED: u16 = 2;
/// The packet goes on in the next request.
pub const NETTXF_MORE_DATA: u16 = 4;
/// [`NetifExtraInfo`] follows.
pub const NETTXF_EXTRA_INFO: u16 = 8;

/// Receive flags: the data has been found right by its checksum.
pub const NETRXF_DATA_VALIDATED: u16 = 1;
/// The checksum field is to be filled in.
pub const NETRXF_CSUM_BLANK: u16 = 2;
/// The packet goes on in the next response.
pub const NETRXF_MORE_DATA: u16 = 4;
/// [`NetifExtraInfo`] follows.
pub const NETRXF_EXTRA_INFO: u16 = 8;
/// The slot is a prefix that tells of segmentation; out of use.
pub const NETRXF_GSO_PREFIX: u16 = 16;

/// Dropped.
pub const NETIF_RSP_DROPPED: i16 = -2;
/// Failed.
pub const NETIF_RSP_ERROR: i16 = -1;
/// Sent.
pub const NETIF_RSP_OKAY: i16 = 0;
/// Answers a slot that is no request: extra information.
pub const NETIF_RSP_NULL: i16 = 1;

/// Never valid.
pub const XEN_NETIF_EXTRA_TYPE_NONE: u8 = 0;
/// [`NetifExtraGso`].
pub const XEN_NETIF_EXTRA_TYPE_GSO: u8 = 1;
/// [`NetifExtraMcast`] to receive (`feature-dynamic-multicast-control`).
pub const XEN_NETIF_EXTRA_TYPE_MCAST_ADD: u8 = 2;
/// [`NetifExtraMcast`] not to receive any more.
pub const XEN_NETIF_EXTRA_TYPE_MCAST_DEL: u8 = 3;
/// [`NetifExtraHash`].
pub const XEN_NETIF_EXTRA_TYPE_HASH: u8 = 4;
/// [`NetifExtraXdp`].
pub const XEN_NETIF_EXTRA_TYPE_XDP: u8 = 5;
/// First number that is no type.
pub const XEN_NETIF_EXTRA_TYPE_MAX: u8 = 6;

/// Another extra slot follows.
pub const XEN_NETIF_EXTRA_FLAG_MORE: u8 = 1;

/// No segmentation.
pub const XEN_NETIF_GSO_TYPE_NONE: u8 = 0;
/// TCP over IPv4 (`feature-gso-tcpv4`).
pub const XEN_NETIF_GSO_TYPE_TCPV4: u8 = 1;
/// TCP over IPv6 (`feature-gso-tcpv6`).
pub const XEN_NETIF_GSO_TYPE_TCPV6: u8 = 2;

/// Number of the hash over IPv4 addresses, as [`NetifExtraHash`] has it.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_NR: u8 = 0;
/// Number of the hash over IPv4 addresses and TCP ports.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP_NR: u8 = 1;
/// Number of the hash over IPv6 addresses.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_NR: u8 = 2;
/// Number of the hash over IPv6 addresses and TCP ports.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP_NR: u8 = 3;
/// Flag of the hash over IPv4 addresses, as the control ring has it.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4: u32 = 1;
/// Flag of the hash over IPv4 addresses and TCP ports.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP: u32 = 2;
/// Flag of the hash over IPv6 addresses.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6: u32 = 4;
/// Flag of the hash over IPv6 addresses and TCP ports.
pub const XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP: u32 = 8;
/// No hash.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_NONE: u32 = 0;
/// Toeplitz hash.
pub const XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ: u32 = 1;

/// Never valid.
pub const XEN_NETIF_CTRL_TYPE_INVALID: u16 = 0;
/// Which hashes the backend can compute.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: u16 = 1;
/// Which it is to compute: `data[0]`.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: u16 = 2;
/// The key: a grant in `data[0]`, its bytes in `data[1]`.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: u16 = 3;
/// How large a mapping of hashes to queues may be.
pub const XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: u16 = 4;
/// How large it is: `data[0]` entries.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: u16 = 5;
/// Part of it: a grant in `data[0]`, entries in `data[1]`, first in `data[2]`.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: u16 = 6;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_*` in `data[0]`.
pub const XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: u16 = 7;
/// How many grants may be kept mapped.
pub const XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE: u16 = 8;
/// Keep grants mapped: a grant of [`XenNetifGref`]s in `data[1]`, entries in
/// `data[2]`, for the queue in `data[0]`.
pub const XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING: u16 = 9;
/// Do not.
pub const XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING: u16 = 10;

/// Done.
pub const XEN_NETIF_CTRL_STATUS_SUCCESS: u32 = 0;
/// Not a control of this backend.
pub const XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED: u32 = 1;
/// Senseless.
pub const XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER: u32 = 2;
/// Too much.
pub const XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW: u32 = 3;

/// Flag of a [`XenNetifGref`]: read only.
pub const XEN_NETIF_CTRLF_GREF_READONLY: u16 = 1;

/// Transmit request.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifTxRequest {
    /// The page.
    pub gref: u32,
    /// Where in it.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// Echoed in the response.
    pub id: u16,
    /// Bytes: of the whole packet in its first request, of the part in others.
    pub size: u16,
}

const _: () = assert!(size_of::<NetifTxRequest>() == 12);
const _: () = assert!(offset_of!(NetifTxRequest, offset) == 4);
const _: () = assert!(offset_of!(NetifTxRequest, flags) == 6);
const _: () = assert!(offset_of!(NetifTxRequest, id) == 8);
const _: () = assert!(offset_of!(NetifTxRequest, size) == 10);

/// Transmit response, in the slot of a request.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifTxResponse {
    /// The request's.
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

const _: () = assert!(size_of::<NetifTxResponse>() == 4);
const _: () = assert!(offset_of!(NetifTxResponse, status) == 2);

/// Receive request: a page to fill.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifRxRequest {
    /// Echoed in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// The page.
    pub gref: u32,
}

const _: () = assert!(size_of::<NetifRxRequest>() == 8);
const _: () = assert!(offset_of!(NetifRxRequest, gref) == 4);

/// Receive response, in the slot of its request.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifRxResponse {
    /// The request's.
    pub id: u16,
    /// Where in the page the data begins.
    pub offset: u16,
    /// `NETRXF_*`.
    pub flags: u16,
    /// Bytes in this page, or `NETIF_RSP_*` below 0.
    pub status: i16,
}

const _: () = assert!(size_of::<NetifRxResponse>() == 8);
const _: () = assert!(offset_of!(NetifRxResponse, offset) == 2);
const _: () = assert!(offset_of!(NetifRxResponse, flags) == 4);
const _: () = assert!(offset_of!(NetifRxResponse, status) == 6);

/// More about a packet, in a slot of its own on either ring.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifExtraInfo {
    /// `XEN_NETIF_EXTRA_TYPE_*`.
    pub kind: u8,
    /// `XEN_NETIF_EXTRA_FLAG_*`.
    pub flags: u8,
    /// One of the structures below, by kind.
    pub u: [u8; 6],
}

const _: () = assert!(size_of::<NetifExtraInfo>() == 8);
const _: () = assert!(offset_of!(NetifExtraInfo, flags) == 1);
const _: () = assert!(offset_of!(NetifExtraInfo, u) == 2);

/// The packet is to be cut into segments.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifExtraGso {
    /// Payload of a segment at most.
    pub size: u16,
    /// `XEN_NETIF_GSO_TYPE_*`.
    pub kind: u8,
    /// Padding.
    pub pad: u8,
    /// None is defined.
    pub features: u16,
}

const _: () = assert!(size_of::<NetifExtraGso>() == 6);
const _: () = assert!(offset_of!(NetifExtraGso, kind) == 2);
const _: () = assert!(offset_of!(NetifExtraGso, features) == 4);

/// A multicast address.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifExtraMcast {
    /// Ethernet address.
    pub addr: [u8; 6],
}

const _: () = assert!(size_of::<NetifExtraMcast>() == 6);

/// The packet's hash.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifExtraHash {
    /// `XEN_NETIF_CTRL_HASH_TYPE_*_NR`.
    pub kind: u8,
    /// `XEN_NETIF_CTRL_HASH_ALGORITHM_*`.
    pub algorithm: u8,
    /// Least significant byte first.
    pub value: [u8; 4],
}

const _: () = assert!(size_of::<NetifExtraHash>() == 6);
const _: () = assert!(offset_of!(NetifExtraHash, algorithm) == 1);
const _: () = assert!(offset_of!(NetifExtraHash, value) == 2);

/// Room before the packet that the frontend's XDP program asked for.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetifExtraXdp {
    /// Bytes.
    pub headroom: u16,
    /// Padding.
    pub pad: [u16; 2],
}

const _: () = assert!(size_of::<NetifExtraXdp>() == 6);

/// Request on the control ring.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenNetifCtrlRequest {
    /// Echoed in the response.
    pub id: u16,
    /// `XEN_NETIF_CTRL_TYPE_*`.
    pub kind: u16,
    /// By kind.
    pub data: [u32; 3],
}

const _: () = assert!(size_of::<XenNetifCtrlRequest>() == 16);
const _: () = assert!(offset_of!(XenNetifCtrlRequest, kind) == 2);
const _: () = assert!(offset_of!(XenNetifCtrlRequest, data) == 4);

/// Response on the control ring.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenNetifCtrlResponse {
    /// The request's.
    pub id: u16,
    /// The request's.
    pub kind: u16,
    /// `XEN_NETIF_CTRL_STATUS_*`.
    pub status: u32,
    /// By kind.
    pub data: u32,
}

const _: () = assert!(size_of::<XenNetifCtrlResponse>() == 12);
const _: () = assert!(offset_of!(XenNetifCtrlResponse, kind) == 2);
const _: () = assert!(offset_of!(XenNetifCtrlResponse, status) == 4);
const _: () = assert!(offset_of!(XenNetifCtrlResponse, data) == 8);

/// A grant to keep mapped.
#[repr(C)]
#[cfg_attr(
    feature = "zerocopy",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenNetifGref {
    /// Grant reference.
    pub gref: u32,
    /// `XEN_NETIF_CTRLF_GREF_*`.
    pub flags: u16,
    /// `XEN_NETIF_CTRL_STATUS_*`, set by the backend.
    pub status: u16,
}

const _: () = assert!(size_of::<XenNetifGref>() == 8);
const _: () = assert!(offset_of!(XenNetifGref, flags) == 4);
const _: () = assert!(offset_of!(XenNetifGref, status) == 6);
