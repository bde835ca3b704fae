//! From a domain's name, or a path, to an open console.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::OptionalActions;

use super::ClientError;
use crate::rundir;

/// Where a console is, and the domain's name and the console's number if it was found by them.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    name: Option<(String, u32)>,
}

/// What the user means by `given`: a path if there is a slash in it, otherwise a domain's name.
pub(super) fn find(given: &OsStr, number: Option<u32>) -> Result<Target, ClientError> {
    if given.as_encoded_bytes().contains(&b'/') {
        let path = given.into();
        return match number {
            None => Ok(Target { path, name: None }),
            Some(_) => Err(ClientError::NumberOfPath { path }),
        };
    }
    let number = number.unwrap_or(0);
    match given.to_str() {
        Some(name) if rundir::check_name(name) => Ok(Target {
            path: rundir::console_path(name, number),
            name: Some((name.to_owned(), number)),
        }),
        _ => Err(ClientError::BadName {
            name: given.to_owned(),
        }),
    }
}

/// Opens the console, non-blocking.
pub(super) fn open(target: &Target) -> Result<OwnedFd, ClientError> {
    let path = &target.path;
    let kind = match std::fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing(target)),
        Err(source) => {
            return Err(ClientError::Open {
                path: path.clone(),
                source,
            });
        }
    };
    if kind.is_socket() {
        connect(path)
    } else if kind.is_char_device() {
        open_terminal(path)
    } else {
        Err(ClientError::NotAConsole { path: path.clone() })
    }
}

fn missing(target: &Target) -> ClientError {
    let path = target.path.clone();
    match &target.name {
        // A link to the pty of a domain that was killed.
        Some(_) if path.is_symlink() => ClientError::Ended { path },
        Some((name, number)) if *number > 0 && rundir::run_dir(name).exists() => {
            ClientError::NoNumber {
                name: name.clone(),
                number: *number,
            }
        }
        Some((name, _)) => ClientError::NoDomain {
            name: name.clone(),
            path,
        },
        None => ClientError::NoConsole { path },
    }
}

fn connect(path: &Path) -> Result<OwnedFd, ClientError> {
    let failed = |errno: Errno| ClientError::Open {
        path: path.to_owned(),
        source: errno.into(),
    };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) => Ok(fd),
        Err(Errno::CONNREFUSED) => Err(ClientError::Ended {
            path: path.to_owned(),
        }),
        Err(errno) => Err(failed(errno)),
    }
}

/// Opens a pty, raw, and keeps out other clients: two readers would each get a part of the output.
fn open_terminal(path: &Path) -> Result<OwnedFd, ClientError> {
    let failed = |errno: Errno| match errno {
        // The master is closed but the name not gone yet.
        Errno::IO => ClientError::Ended {
            path: path.to_owned(),
        },
        errno => ClientError::Open {
            path: path.to_owned(),
            source: errno.into(),
        },
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let terminal = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?);
    if !rustix::termios::isatty(&terminal) {
        return Err(ClientError::NotAConsole {
            path: path.to_owned(),
        });
    }
    match rustix::fs::flock(&terminal, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => {
            return Err(ClientError::InUse {
                path: path.to_owned(),
            });
        }
        result => result.map_err(failed)?,
    }
    let mut modes = rustix::termios::tcgetattr(&terminal).map_err(failed)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &modes).map_err(failed)?;
    Ok(terminal.into())
}
