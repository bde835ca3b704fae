//! The unix socket of the stock tools (`xenstore-ls` and the like, with
//! `XENSTORED_PATH` naming it): making it, refusing to take another's, and
//! removing it. Who can open it has the rights of domid 0, so it is open to
//! its owner alone.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why the socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process serves it.
    #[error(
        "Xenstore socket '{}' is in use by a running process; \
         stop that one or choose another path", path.display()
    )]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something is there that is not a socket.
    #[error("'{}' exists and is not a socket; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address (107 bytes).
    #[error("Xenstore socket path '{}' is too long; choose a shorter one", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("Cannot create xenstore socket '{}'", path.display())]
    System {
        /// The socket's path.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub struct SocketListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, to remove no other's.
    identity: (u64, u64),
}

impl SocketListener {
    /// Listens at `path`, with mode 0600. The socket file of a dead process is
    /// replaced.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let address = SocketAddrUnix::new(path).map_err(|_| SocketError::PathTooLong {
            path: path.to_owned(),
        })?;
        clear_stale(path, &address)?;
        let system = |source: io::Error| SocketError::System {
            path: path.to_owned(),
            source,
        };
        let socket = unix_socket().map_err(|errno| system(errno.into()))?;
        // The file takes its mode from the unbound socket: there is no moment
        // in which others could open it.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|e| system(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|errno| match errno {
            Errno::ADDRINUSE => SocketError::InUse {
                path: path.to_owned(),
            },
            other => system(other.into()),
        })?;
        let metadata = std::fs::symlink_metadata(path).map_err(system)?;
        let identity = (metadata.dev(), metadata.ino());
        let listener = Self {
            listener: socket.into(),
            path: path.to_owned(),
            identity,
        };
        rustix::net::listen(&listener.listener, 16).map_err(|errno| system(errno.into()))?;
        Ok(listener)
    }

    /// The next client that waits, as a non-blocking stream.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; else the system's.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRawFd for SocketListener {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for SocketListener {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!(
                target: "xenstore",
                "Cannot remove xenstore socket '{}': {error}", self.path.display(),
            );
        }
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes the socket file of a process that is gone.
fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let system = |source: io::Error| SocketError::System {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let probe = unix_socket().map_err(|errno| system(errno.into()))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system(error)),
            _ => Ok(()),
        },
        Err(Errno::NOENT) => Ok(()),
        // Connected, or would have to wait (EAGAIN): somebody listens. A
        // socket of another kind (EPROTOTYPE) is not ours to take either.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(system(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_file_is_private_and_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let listener = SocketListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let _client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let live = SocketListener::bind(&path).unwrap();
        let error = SocketListener::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }));
        assert!(error.to_string().contains("is in use"), "{error}");
        assert!(path.exists());
        drop(live);
        // A plain listener leaves its file behind, as a killed process does.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        SocketListener::bind(&path).unwrap();
    }

    #[test]
    fn other_peoples_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(
            SocketListener::bind(&path),
            Err(SocketError::NotASocket { .. })
        ));
        std::fs::remove_file(&path).unwrap();
        let ours = SocketListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        drop(ours);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn long_paths_and_missing_directories_are_named() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        let error = SocketListener::bind(&long).unwrap_err();
        assert!(matches!(error, SocketError::PathTooLong { .. }), "{error}");
        let error = SocketListener::bind(Path::new("/nonexistent/store")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/store"));
    }
}
