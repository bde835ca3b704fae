//! Files that belong to a running domain and go with it: pid file, run directory.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use log::warn;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use xenner_console::rundir;

use crate::config::MAX_CONSOLES;

#[cfg(test)]
mod tests;

/// The pid file, removed at the end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    // locked for as long as the process lives
    _file: fs::File,
}

impl PidFile {
    /// Writes this process's number to `path` and locks it, as QEMU does.
    ///
    /// # Errors
    /// The file cannot be written, or a live process holds it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = loop {
            let file = open_lock(path, 0o644)?;
            if !lock(&file)? {
                return Err(in_use("a running process holds it"));
            }
            if is_at(&file, path) {
                break file;
            }
            // its owner ended and removed it in between
        };
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self {
            path: path.to_owned(),
            _file: file,
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            warn!("{}: cannot be removed: {e}", self.path.display());
        }
    }
}

/// The domain's run directory, removed at the end.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: fs::File,
}

/// Name of the lock file in a run directory.
const LOCK: &str = "lock";
/// Name of the xenstore socket in a run directory.
const XENSTORE: &str = "xenstored.sock";
/// How often a run directory that another process holds is tried.
const ATTEMPTS: u32 = 20;
/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(2);

impl RunDir {
    /// Makes the run directory of the domain `name`. One that a dead process left is taken over.
    ///
    /// # Errors
    /// It cannot be made, or a live process has it.
    pub fn create(name: &str) -> io::Result<Self> {
        Self::create_at(rundir::run_dir(name))
    }

    fn create_at(path: PathBuf) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)?;
            sweep(parent);
        }
        // who sweeps holds a lock for a moment, who runs a domain for good
        for _ in 0..ATTEMPTS {
            if let Some(lock) = take(&path)? {
                return Ok(Self { path, _lock: lock });
            }
            thread::sleep(PAUSE);
        }
        Err(in_use("a running domain has this name"))
    }

    /// Where the xenstore socket goes.
    pub fn xenstore(&self) -> PathBuf {
        self.path.join(XENSTORE)
    }

    /// Lets `xenner-console NAME NUMBER` find the console at `target`, a pty or a socket.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn link_console(&self, number: u32, target: &Path) -> io::Result<()> {
        let link = self.path.join(rundir::console_file(number));
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(target, link)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    let consoles = (0..).take(MAX_CONSOLES).map(rundir::console_file);
    let others = [XENSTORE, LOCK].map(str::to_owned);
    for name in consoles.chain(others) {
        // most of them were never there
        let _ = fs::remove_file(path.join(name));
    }
    if let Err(e) = fs::remove_dir(path) {
        warn!("{}: cannot be removed: {e}", path.display());
    }
}

/// Removes what killed processes left: run directories whose lock nobody holds.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let file = path.join(LOCK);
        if let Ok(held) = OpenOptions::new().write(true).open(&file)
            && lock(&held).unwrap_or(false)
            && is_at(&held, &file)
        {
            remove(&path);
        }
    }
}

/// Makes a run directory, or takes one over; None while another process has it or removes it.
fn take(path: &Path) -> io::Result<Option<fs::File>> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let file = path.join(LOCK);
    let held = match open_lock(&file, 0o600) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok((lock(&held)? && is_at(&held, &file)).then_some(held))
}

fn open_lock(path: &Path, mode: u32) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.mode(mode).open(path)
}

/// Locks a file; false if a process has it locked.
fn lock(file: &fs::File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether a name still stands for this file: a lock on one that was removed keeps nobody out.
fn is_at(file: &fs::File, path: &Path) -> bool {
    let Ok(ours) = file.metadata() else {
        return false;
    };
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

fn in_use(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}
