//! `-netdev bridge`: a tap in a bridge, made by QEMU's set-user-id helper, which sends its
//! descriptor over a unix socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::net::{self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::config::BridgeConfig;
use super::{NetEndError, TapEnd};

/// Where distributions put the helper.
const HELPERS: [&str; 4] = [
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
    "/usr/local/libexec/qemu-bridge-helper",
    "/usr/lib/qemu-bridge-helper",
];

/// Makes a tap in a bridge.
pub(super) fn open(config: &BridgeConfig) -> Result<TapEnd, NetEndError> {
    let found = || HELPERS.iter().map(PathBuf::from).find(|path| path.exists());
    let helper = match &config.helper {
        Some(path) => path.clone(),
        None => found().ok_or(NetEndError::NoBridgeHelper)?,
    };
    TapEnd::from_fd(ask(&helper, &config.bridge)?)
}

/// Runs the helper, with one end of a socket as its standard input, and receives a descriptor.
fn ask(helper: &Path, bridge: &str) -> Result<OwnedFd, NetEndError> {
    let (ours, theirs) =
        UnixStream::pair().map_err(NetEndError::host("make a socket for the bridge helper"))?;
    let mut child = Command::new(helper)
        .arg("--use-vnet")
        .arg("--fd=0")
        .arg(format!("--br={bridge}"))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(|source| NetEndError::Run {
            path: helper.to_owned(),
            source,
        })?;
    // The helper's end closes when it ends, so this does not wait for ever.
    let received = receive(&ours);
    let status = child
        .wait()
        .map_err(NetEndError::host("wait for the bridge helper"))?;
    match received {
        Some(fd) if status.success() => Ok(fd),
        _ if !status.success() => Err(NetEndError::Failed {
            path: helper.to_owned(),
            status: status.to_string(),
        }),
        _ => Err(NetEndError::NoInterface {
            path: helper.to_owned(),
            bridge: bridge.to_owned(),
        }),
    }
}

fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}
