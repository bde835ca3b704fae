//! Why a host end cannot be opened.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a host end cannot be opened; the message names the way out.
#[derive(Debug, Error)]
pub enum NetEndError {
    /// The host has no tap driver, or its device may not be used.
    #[error("Cannot open /dev/net/tun; load the module tun, or run as a user who may use it")]
    NoTun(#[source] io::Error),
    /// The interface cannot be made or used.
    #[error(
        "Cannot attach to the tap interface '{name}'; make it beforehand for this user \
         ('ip tuntap add mode tap user NAME'), with multi_queue if queues= is more than 1"
    )]
    Attach {
        /// The interface, empty if the host was to choose.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A name that no interface can have.
    #[error("'{0}' is no name of an interface; it has 1 to 15 bytes, without '/' and blanks")]
    BadName(String),
    /// A descriptor that is not there or is no tap.
    #[error("Descriptor {fd} is {what}; pass an open descriptor of that kind")]
    BadFd {
        /// Its number.
        fd: i32,
        /// What it is or is not.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses packet headers that the user demands.
    #[error("The tap interface has no virtio headers; leave vnet_hdr=on out")]
    NoVnetHeader,
    /// A script or helper cannot be run.
    #[error("Cannot run '{}'; check that it is there and executable", .path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A script or helper failed.
    #[error("'{}' failed with {status}; it says why above", .path.display())]
    Failed {
        /// The program.
        path: PathBuf,
        /// Its exit status, as text.
        status: String,
    },
    /// No bridge helper.
    #[error(
        "qemu-bridge-helper is not installed; install the package qemu-system-common \
         (qemu-bridge-helper elsewhere) or name it with helper=PATH"
    )]
    NoBridgeHelper,
    /// The helper ended without sending a descriptor.
    #[error(
        "'{}' sent no interface; allow the bridge in /etc/qemu/bridge.conf \
         ('allow {bridge}') and give the helper its set-user-id bit", .path.display()
    )]
    NoInterface {
        /// The helper.
        path: PathBuf,
        /// The bridge.
        bridge: String,
    },
    /// passt is not installed.
    #[error(
        "passt is not installed, which '-netdev user' needs; install the package passt, \
         or use tap, bridge or stream"
    )]
    NoPasst(#[source] io::Error),
    /// passt ended at once.
    #[error("passt cannot start: {0}")]
    PasstEnded(String),
    /// Something that passt cannot do.
    #[error("passt cannot {0}")]
    PasstCannot(&'static str),
    /// A socket cannot be made, bound or connected.
    #[error("Cannot {action} {address}; check the address and who else uses it")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The address.
        address: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A host name that nobody knows.
    #[error("No address is known for '{0}'; write another name or a numeric address")]
    NoAddress(String),
    /// A combination of addresses that makes no end.
    #[error("{0}")]
    Addresses(&'static str),
    /// The host is out of something.
    #[error("Cannot {action}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl NetEndError {
    /// A fault of the host while it was asked to do `action`.
    pub(super) fn host<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Host {
            action,
            source: source.into(),
        }
    }
}
