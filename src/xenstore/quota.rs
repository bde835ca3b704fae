//! Limits of the store, in one place. They hold for unprivileged domains;
//! domid 0 is bound only by what the wire format allows.
//!
//! The values are the defaults of Xen's daemon, so a kernel meets the limits
//! that it meets under Xen. Going over one is answered with ENOSPC.

/// Nodes that one domain may own.
pub const NODES_PER_DOMAIN: usize = 1000;
/// Watches that one connection may hold.
pub const WATCHES_PER_DOMAIN: usize = 128;
/// Transactions that one connection may have open.
pub const TRANSACTIONS_PER_DOMAIN: usize = 10;
/// Nodes that one transaction may look at or change.
pub const NODES_PER_TRANSACTION: usize = 1024;
/// Bytes of one node's value.
pub const NODE_SIZE: usize = 2048;
/// Entries of one node's permission list.
pub const PERMS_PER_NODE: usize = 5;
/// Bytes of names, values and permissions that one domain may own, and, apart
/// from that, the bytes it may have written in its open transactions.
pub const MEMORY_PER_DOMAIN: usize = 2_500_000;

/// Answers that may wait for the reader before further requests are left
/// unread. This bounds memory, it is not an error.
pub const OUTSTANDING_REPLIES: usize = 20;
/// Bytes that may wait for the reader, any kind of message, before further
/// requests are left unread.
pub const OUTSTANDING_BYTES: usize = 64 * 1024;
/// Watch events that may wait for one reader one by one. Beyond it each watch
/// is reported at most once more, by its own path: no change is lost, only
/// the exact place of it.
pub const OUTSTANDING_EVENTS: usize = 1024;
/// Entries that a privileged connection may put into one permission list; a
/// payload holds no more.
pub const PERMS_PER_NODE_PRIVILEGED: usize = 1024;
/// Clients of the unix socket at one time.
pub const SOCKET_CLIENTS: usize = 64;
