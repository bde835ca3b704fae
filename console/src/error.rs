//! What can go wrong when a character device is opened. Later trouble (a peer that goes away, a full
//! disk) is no error of the domain: it is logged, and the device goes on as its module says.

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Why a character device could not be opened. `id` is the device's label.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChardevError {
    /// A second device asked for standard input and output.
    #[error("Character device {id}: stdio is taken already; give one of the devices another end")]
    StdioTaken {
        /// The label.
        id: String,
    },
    /// The terminal refused raw mode, or a standard descriptor could not be used.
    #[error("Character device {id}: cannot use standard input and output; choose another end")]
    Stdio {
        /// The label.
        id: String,
        /// The cause.
        source: io::Error,
    },
    /// No pseudo-terminal could be made.
    #[error("Character device {id}: cannot make a pty; check that /dev/pts is mounted")]
    Pty {
        /// The label.
        id: String,
        /// The cause.
        source: io::Error,
    },
    /// `path=` of a pty could not be made a symbolic link.
    #[error("Character device {id}: cannot make the link {path}; remove what is there")]
    PtyLink {
        /// The label.
        id: String,
        /// The link.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file, FIFO or log file could not be opened.
    #[error("Character device {id}: cannot open {path}; check that it may be written here")]
    Open {
        /// The label.
        id: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path of a unix socket does not fit into a socket address.
    #[error("Character device {id}: socket path {path} is over 107 bytes; choose a shorter one")]
    SocketPathTooLong {
        /// The label.
        id: String,
        /// The path.
        path: PathBuf,
    },
    /// Another process listens on the socket.
    #[error("Character device {id}: {path} is in use; stop its owner or choose another path")]
    SocketInUse {
        /// The label.
        id: String,
        /// The path.
        path: PathBuf,
    },
    /// The socket's path holds something else.
    #[error("Character device {id}: {path} is not a socket; remove it or choose another path")]
    NotASocket {
        /// The label.
        id: String,
        /// The path.
        path: PathBuf,
    },
    /// The address could not be listened on.
    #[error("Character device {id}: cannot listen on {address}; choose an address that is free")]
    Listen {
        /// The label.
        id: String,
        /// The address, as `unix:PATH`, `tcp:HOST:PORT` or `fd:N`.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// The peer could not be reached.
    #[error(
        "Character device {id}: cannot connect to {address}; start its server first, \
         listen with server=on, or retry with reconnect="
    )]
    Connect {
        /// The label.
        id: String,
        /// The address, as `unix:PATH`, `tcp:HOST:PORT` or `fd:N`.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// A host name has no address.
    #[error("Character device {id}: cannot resolve host {host}; check the name in host=")]
    Resolve {
        /// The label.
        id: String,
        /// The name.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// `fd=N` or `/dev/fdset/N` names no usable descriptor.
    #[error("Character device {id}: descriptor {fd} is not usable; pass it open, and name it once")]
    Descriptor {
        /// The label.
        id: String,
        /// The descriptor, or the number of the set.
        fd: RawFd,
        /// The cause.
        source: io::Error,
    },
    /// `size=` of a ring buffer is unusable.
    #[error("Character device {id}: size={size} is no power of two from 2 to 1G; try size=65536")]
    RingbufSize {
        /// The label.
        id: String,
        /// The size in bytes.
        size: usize,
    },
    /// The host's kernel refused a descriptor for the event loop.
    #[error("Character device {id}: cannot make an event descriptor; raise the limit of ulimit -n")]
    Events {
        /// The label.
        id: String,
        /// The cause.
        source: io::Error,
    },
}
