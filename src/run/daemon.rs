//! `-daemonize`: the process goes to the background once the domain is ready.
//!
//! QEMU's contract: the parent stays until the child has everything open and its process id
//! in the pid file, and ends with the child's verdict.
// UNSAFETY: fork has no safe form; it is called while there is one thread.
#![expect(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// The child's way to tell its parent that all is well.
#[derive(Debug)]
pub struct Ready(File);

/// Which side of the fork this is.
#[derive(Debug)]
pub enum Side {
    /// The daemon, to call [`Ready::go`] when it is set up.
    Child(Ready),
    /// The parent, with the code to end with.
    Parent(ExitCode),
}

/// Forks. Must be called before the process has other threads.
///
/// # Errors
/// The host gives no process or pipe.
pub fn fork() -> io::Result<Side> {
    let (from_child, to_parent) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: there is one thread, so the child has all of the process's state in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(from_child);
            rustix::process::setsid()?;
            rustix::process::chdir("/")?;
            Ok(Side::Child(Ready(File::from(to_parent))))
        }
        _ => {
            drop(to_parent);
            Ok(Side::Parent(wait(from_child)))
        }
    }
}

/// The parent's part: the child says "1", or goes away after it told why on standard error.
fn wait(from_child: OwnedFd) -> ExitCode {
    let mut buf = [0u8; 1];
    match File::from(from_child).read(&mut buf) {
        Ok(1) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

impl Ready {
    /// Lets go of the terminal and of the parent.
    ///
    /// # Errors
    /// /dev/null cannot be opened.
    pub fn go(mut self) -> io::Result<()> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        self.0.write_all(b"1")
    }
}
