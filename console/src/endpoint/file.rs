//! `file`: output to a file. Also the log files of the other ends.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::{Endpoint, Token, Want, Watch, Watches, pollable, retry};
use crate::error::ChardevError;
use crate::fdpass::{FdSource, fdset_number};

/// Opens `path` for output on behalf of device `id`; `/dev/fdset/N` takes a passed descriptor as it
/// is. A FIFO or terminal is opened non-blocking, so that it cannot hold up the caller.
pub(crate) fn open_for_output(
    id: &str,
    path: &Path,
    append: bool,
    fds: &mut dyn FdSource,
) -> Result<File, ChardevError> {
    if let Some(set) = fdset_number(path) {
        let fd = set.try_into().unwrap_or(i32::MAX);
        return fds
            .fdset(set)
            .map(File::from)
            .map_err(|source| ChardevError::Descriptor {
                id: id.to_owned(),
                fd,
                source,
            });
    }
    OpenOptions::new()
        .write(!append)
        .append(append)
        .create(true)
        .truncate(!append)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| ChardevError::Open {
            id: id.to_owned(),
            path: path.to_owned(),
            source,
        })
}

/// A file that gets the output. An error is logged once and the output discarded until writing works
/// again: a full disk on the host must not stop the guest's console for good.
#[derive(Debug)]
pub(crate) struct FileEnd {
    file: File,
    path: PathBuf,
    token: Token,
    /// A FIFO or terminal can be full for a while; a regular file cannot.
    pollable: bool,
    failing: bool,
}

impl FileEnd {
    pub(crate) fn new(file: File, path: &Path) -> std::io::Result<Self> {
        let pollable = pollable(&file)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            token: Token::new(),
            pollable,
            failing: false,
        })
    }
}

impl Endpoint for FileEnd {
    fn filename(&self) -> String {
        "file".to_owned()
    }

    fn read(&mut self, _buf: &mut [u8]) -> usize {
        0
    }

    fn write(&mut self, data: &[u8]) -> usize {
        match retry(|| rustix::io::write(&self.file, data)) {
            Ok(taken) => {
                self.failing = false;
                taken
            }
            Err(Errno::AGAIN) => 0,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.path.display();
                    log::error!(target: "console", "Output to {path} is being lost: {error}");
                }
                data.len()
            }
        }
    }

    fn watches(&self, want: Want) -> Watches<'_> {
        let flags = (self.pollable && want.write).then_some(EventFlags::OUT);
        [
            Some(Watch {
                fd: self.file.as_fd(),
                token: self.token,
                flags,
            }),
            None,
            None,
        ]
    }
}
