//! `pipe`: a pair of FIFOs, or one FIFO or device for both ways.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Endpoint, Token, Want, Watch, Watches, retry};
use crate::error::ChardevError;

/// Two open FIFOs. Each is open for reading and writing here, so that it never hangs up: a reader or
/// writer on the other side may come and go.
#[derive(Debug)]
pub(crate) struct PipeEnd {
    input: File,
    output: File,
    input_token: Token,
    output_token: Token,
    /// A device went away: nothing more comes, and output is discarded.
    gone: bool,
}

impl PipeEnd {
    /// Opens `PATH.in` and `PATH.out` if both are there, and `PATH` otherwise.
    pub(crate) fn open(id: &str, path: &Path) -> Result<Self, ChardevError> {
        let (to_guest, from_guest) = (suffixed(path, ".in"), suffixed(path, ".out"));
        let pair = to_guest.exists() && from_guest.exists();
        let (input, output) = if pair {
            (open(id, &to_guest)?, open(id, &from_guest)?)
        } else {
            (open(id, path)?, open(id, path)?)
        };
        Ok(Self {
            input,
            output,
            input_token: Token::new(),
            output_token: Token::new(),
            gone: false,
        })
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn open(id: &str, path: &Path) -> Result<File, ChardevError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| ChardevError::Open {
            id: id.to_owned(),
            path: path.to_owned(),
            source,
        })
}

impl Endpoint for PipeEnd {
    fn filename(&self) -> String {
        "pipe".to_owned()
    }

    fn read(&mut self, buf: &mut [u8]) -> usize {
        let got = retry(|| rustix::io::read(&self.input, &mut *buf));
        // A FIFO that is open for writing here never ends; a device may.
        self.gone |= matches!(got, Ok(0)) || matches!(got, Err(error) if error != Errno::AGAIN);
        got.unwrap_or(0)
    }

    fn write(&mut self, data: &[u8]) -> usize {
        match retry(|| rustix::io::write(&self.output, data)) {
            Ok(taken) => taken,
            Err(Errno::AGAIN) => 0,
            Err(error) => {
                if !std::mem::replace(&mut self.gone, true) {
                    log::error!(target: "console", "Output to a pipe is being lost: {error}");
                }
                data.len()
            }
        }
    }

    fn watches(&self, want: Want) -> Watches<'_> {
        [
            Some(Watch::wanted(
                self.input.as_fd(),
                self.input_token,
                want.read && !self.gone,
                false,
            )),
            Some(Watch::wanted(
                self.output.as_fd(),
                self.output_token,
                false,
                want.write,
            )),
            None,
        ]
    }
}
