//! What a character device is to be: plain typed data, as a command line or a monitor command
//! describes it.
//!
//! The words are QEMU's (`-chardev`, `-serial`). This module opens nothing and parses no text: an
//! option parser fills these types in, and the rest of the crate turns them into a working end.
//! Files, sockets and descriptors are checked when they are opened, not here.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// The smallest and largest sizes of a ring buffer, in bytes.
pub const RINGBUF_SIZES: std::ops::RangeInclusive<usize> = 2..=(1 << 30);

/// The size of a ring buffer when `size=` is not given, in bytes (QEMU's default).
pub const RINGBUF_DEFAULT_SIZE: usize = 64 << 10;

/// One character device: where a console's bytes go and come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChardevConfig {
    /// `id=`: the label in messages and in `query-chardev`. `-serial` gives `serial0`, `serial1`
    /// and so on.
    pub id: String,
    /// The kind of end and its own options.
    pub backend: ChardevBackend,
    /// `mux=on`, or the `mon:` prefix of `-serial`: the end understands the escape keys (Ctrl-a h
    /// for help).
    pub mux: bool,
    /// `logfile=`: a file that also gets everything the guest prints. `/dev/fdset/N` names a passed
    /// descriptor.
    pub logfile: Option<PathBuf>,
    /// `logappend=`: add to the log file rather than empty it first (default off, as in QEMU).
    pub logappend: bool,
}

impl ChardevConfig {
    /// A character device with this label and end, without escape keys and without a log.
    pub fn new(id: impl Into<String>, backend: ChardevBackend) -> Self {
        Self {
            id: id.into(),
            backend,
            mux: false,
            logfile: None,
            logappend: false,
        }
    }
}

/// The kinds of ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChardevBackend {
    /// `stdio`: this process's standard input and output, the terminal in raw mode if it is one.
    Stdio {
        /// `signal=`: on, Ctrl-C and the other signal keys act on this process; off, the guest gets
        /// them. The defaults are QEMU's: on, except under `-nographic` and `-serial mon:stdio`.
        signal: bool,
    },
    /// `pty`: a new pseudo-terminal, its name printed at start.
    Pty {
        /// `path=`: a symbolic link to make to the pseudo-terminal, removed at the end.
        path: Option<PathBuf>,
    },
    /// `socket` (and `unix:`, `tcp:` of `-serial`): a stream socket.
    Socket {
        /// Where.
        address: SocketAddress,
        /// Which side of the connection.
        role: SocketRole,
        /// `nodelay=on`, TCP only: small packets are sent at once.
        nodelay: bool,
    },
    /// `file`: output goes to a file; there is no input.
    File {
        /// `path=`. `/dev/fdset/N` names a passed descriptor.
        path: PathBuf,
        /// `append=`: add to the file rather than empty it first (default off).
        append: bool,
    },
    /// `pipe`: the FIFOs `PATH.in` (to the guest) and `PATH.out`, or the one FIFO or device `PATH`
    /// for both.
    Pipe {
        /// `path=`, without `.in` and `.out`.
        path: PathBuf,
    },
    /// `ringbuf` (and `memory`): the last bytes of output are kept in memory for the monitor to
    /// read.
    Ringbuf {
        /// `size=` in bytes: a power of two within [`RINGBUF_SIZES`]; [`RINGBUF_DEFAULT_SIZE`] if
        /// not given.
        size: usize,
    },
    /// `null` (and `-serial none`): output is discarded; there is no input.
    Null,
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// `path=`: a unix socket in the file system.
    Unix(PathBuf),
    /// `host=`, `port=`: TCP. An empty host is every address for a server and the local host for a
    /// client.
    Tcp {
        /// A name or a numeric address, IPv6 without brackets.
        host: String,
        /// The port; 0 lets the host's kernel choose (server only).
        port: u16,
    },
    /// `fd=N`: a descriptor that the parent process left open: a listening socket for a server, a
    /// connected one for a client. It is taken over, and may be named once.
    Fd(RawFd),
}

/// The side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketRole {
    /// `server=on`: listen, serve one peer at a time, and take the next when one goes away.
    Server {
        /// `wait=on` (QEMU's default): the domain does not start before the first peer is there.
        wait: bool,
    },
    /// `server=off`: connect.
    Client {
        /// `reconnect=` (seconds) or `reconnect-ms=`: try again after this long when the connection
        /// fails or ends.
        reconnect: Option<Duration>,
    },
}
