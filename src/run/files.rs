//! Files that belong to a running domain and go with it: pid file, run directory.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use log::warn;
use rustix::fs::{FlockOperation, flock};
use xenner_console::rundir;

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
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::new(io::ErrorKind::AddrInUse, "a running process holds it"))?;
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

impl RunDir {
    /// Makes the run directory of the domain `name`. One that a dead process left is taken over.
    ///
    /// # Errors
    /// It cannot be made, or a live process has it.
    pub fn create(name: &str) -> io::Result<Self> {
        let path = rundir::run_dir(name);
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)?;
            sweep(parent);
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(io::ErrorKind::AddrInUse, "a running domain has this name")
        })?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the xenstore socket goes.
    pub fn xenstore(&self) -> PathBuf {
        self.path.join(XENSTORE)
    }

    /// Lets `xenner-console NAME` find the console at `target`, a pty or a socket.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn link_console(&self, target: &Path) -> io::Result<()> {
        let link = self.path.join(rundir::CONSOLE);
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
    for name in [rundir::CONSOLE, XENSTORE, LOCK] {
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
        if let Ok(lock) = OpenOptions::new().write(true).open(path.join(LOCK))
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            remove(&path);
        }
    }
}
