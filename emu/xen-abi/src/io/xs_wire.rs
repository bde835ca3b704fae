//! `io/xs_wire.h`: the xenstore ring page and message header.

use core::mem::offset_of;

/// Administration.
pub const XS_CONTROL: u32 = 0;
/// Children of a node.
pub const XS_DIRECTORY: u32 = 1;
/// Value of a node.
pub const XS_READ: u32 = 2;
/// Permissions of a node.
pub const XS_GET_PERMS: u32 = 3;
/// Set a watch.
pub const XS_WATCH: u32 = 4;
/// Remove a watch.
pub const XS_UNWATCH: u32 = 5;
/// Begin a transaction.
pub const XS_TRANSACTION_START: u32 = 6;
/// End it.
pub const XS_TRANSACTION_END: u32 = 7;
/// A domain's ring is there.
pub const XS_INTRODUCE: u32 = 8;
/// A domain is gone.
pub const XS_RELEASE: u32 = 9;
/// A domain's directory.
pub const XS_GET_DOMAIN_PATH: u32 = 10;
/// Write a node.
pub const XS_WRITE: u32 = 11;
/// Make a node.
pub const XS_MKDIR: u32 = 12;
/// Remove a node.
pub const XS_RM: u32 = 13;
/// Set permissions.
pub const XS_SET_PERMS: u32 = 14;
/// A watch fired.
pub const XS_WATCH_EVENT: u32 = 15;
/// The answer is an error.
pub const XS_ERROR: u32 = 16;
/// Is a domain there?
pub const XS_IS_DOMAIN_INTRODUCED: u32 = 17;
/// A domain was resumed.
pub const XS_RESUME: u32 = 18;
/// A domain serves another.
pub const XS_SET_TARGET: u32 = 19;
/// Obsolete.
pub const XS_RESTRICT: u32 = 20;
/// Remove all watches.
pub const XS_RESET_WATCHES: u32 = 21;
/// Children of a node, in parts.
pub const XS_DIRECTORY_PART: u32 = 22;
/// Features of a connection.
pub const XS_GET_FEATURE: u32 = 23;
/// Features of a connection.
pub const XS_SET_FEATURE: u32 = 24;
/// Quotas.
pub const XS_GET_QUOTA: u32 = 25;
/// Quotas.
pub const XS_SET_QUOTA: u32 = 26;
/// Never a valid type.
pub const XS_INVALID: u32 = 0xffff;

/// The ring can be reset.
pub const XENSTORE_SERVER_FEATURE_RECONNECTION: u32 = 1;
/// The error word is used.
pub const XENSTORE_SERVER_FEATURE_ERROR: u32 = 2;
/// Watches may have a depth.
pub const XENSTORE_SERVER_FEATURE_WATCHDEPTH: u32 = 4;
/// Permissions may name any domain.
pub const XENSTORE_SERVER_FEATURE_DOMID_ANY: u32 = 8;
/// `connection`: steady.
pub const XENSTORE_CONNECTED: u32 = 0;
/// `connection`: reset wanted.
pub const XENSTORE_RECONNECT: u32 = 1;
/// No error.
pub const XENSTORE_ERROR_NONE: u32 = 0;
/// Communication problem.
pub const XENSTORE_ERROR_COMM: u32 = 1;
/// Invalid index.
pub const XENSTORE_ERROR_RINGIDX: u32 = 2;
/// Protocol violation.
pub const XENSTORE_ERROR_PROTO: u32 = 3;

/// Bytes of each ring.
pub const XENSTORE_RING_SIZE: usize = 1024;
/// Bytes of a message's body.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;
/// Bytes of an absolute path.
pub const XENSTORE_ABS_PATH_MAX: usize = 3072;
/// Bytes of a relative path.
pub const XENSTORE_REL_PATH_MAX: usize = 2048;

/// Message header.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct XsdSockmsg {
    /// `XS_*`.
    pub kind: u32,
    /// Chosen by the asker, echoed.
    pub req_id: u32,
    /// Transaction or 0.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

const _: () = assert!(size_of::<XsdSockmsg>() == 16);
const _: () = assert!(offset_of!(XsdSockmsg, kind) == 0);
const _: () = assert!(offset_of!(XsdSockmsg, req_id) == 4);
const _: () = assert!(offset_of!(XsdSockmsg, tx_id) == 8);
const _: () = assert!(offset_of!(XsdSockmsg, len) == 12);

/// The xenstore page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct XenstoreDomainInterface {
    /// Requests.
    pub req: [u8; XENSTORE_RING_SIZE],
    /// Replies and watch events.
    pub rsp: [u8; XENSTORE_RING_SIZE],
    /// Server's index.
    pub req_cons: u32,
    /// Domain's index.
    pub req_prod: u32,
    /// Domain's index.
    pub rsp_cons: u32,
    /// Server's index.
    pub rsp_prod: u32,
    /// `XENSTORE_SERVER_FEATURE_*`.
    pub server_features: u32,
    /// `XENSTORE_CONNECTED` or `XENSTORE_RECONNECT`.
    pub connection: u32,
    /// `XENSTORE_ERROR_*`.
    pub error: u32,
    /// Port, for domains started without a toolstack.
    pub evtchn_port: u32,
}

impl Default for XenstoreDomainInterface {
    fn default() -> Self {
        Self {
            req: [0; XENSTORE_RING_SIZE],
            rsp: [0; XENSTORE_RING_SIZE],
            req_cons: 0,
            req_prod: 0,
            rsp_cons: 0,
            rsp_prod: 0,
            server_features: 0,
            connection: 0,
            error: 0,
            evtchn_port: 0,
        }
    }
}

const _: () = assert!(size_of::<XenstoreDomainInterface>() == 2080);
const _: () = assert!(offset_of!(XenstoreDomainInterface, req) == 0);
const _: () = assert!(offset_of!(XenstoreDomainInterface, rsp) == 1024);
const _: () = assert!(offset_of!(XenstoreDomainInterface, req_cons) == 2048);
const _: () = assert!(offset_of!(XenstoreDomainInterface, req_prod) == 2052);
const _: () = assert!(offset_of!(XenstoreDomainInterface, rsp_cons) == 2056);
const _: () = assert!(offset_of!(XenstoreDomainInterface, rsp_prod) == 2060);
const _: () = assert!(offset_of!(XenstoreDomainInterface, server_features) == 2064);
const _: () = assert!(offset_of!(XenstoreDomainInterface, connection) == 2068);
const _: () = assert!(offset_of!(XenstoreDomainInterface, error) == 2072);
const _: () = assert!(offset_of!(XenstoreDomainInterface, evtchn_port) == 2076);
