//! The library's view of a [`HostFile`]: its formats read and write through our files, with our
//! locks, cache modes and discards.

#![expect(unsafe_code)]
// UNSAFETY: imago marks the storage methods that bypass its own ordering of overlapping writes as
// unsafe; implementing them takes the word, and no unsafe operation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::storage::{PreallocateMode, Storage};

use super::super::file::HostFile;

/// A file that a format is in.
#[derive(Debug)]
pub(in super::super) struct HostStorage {
    file: Arc<HostFile>,
    /// What is freed in the image is given back to the host.
    discards: bool,
    helper: CommonStorageHelper,
}

impl HostStorage {
    pub(in super::super) fn new(file: Arc<HostFile>, discards: bool) -> Self {
        Self {
            file,
            discards,
            helper: CommonStorageHelper::default(),
        }
    }
}

impl fmt::Display for HostStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.path().display())
    }
}

impl Storage for HostStorage {
    fn mem_align(&self) -> usize {
        self.file.limits().memory_align as usize
    }

    fn req_align(&self) -> usize {
        self.file.limits().offset_align as usize
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.size())
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.file.path().to_owned())
    }

    fn resolve_relative_path<P: AsRef<std::path::Path>>(&self, relative: P) -> io::Result<PathBuf> {
        Ok(beside(self.file.path(), relative.as_ref()))
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        self.file.read_slices(&mut bufv.into_inner(), offset)
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.file.write_slices(&bufv.into_inner(), offset)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file
            .write_zeroes_growing(offset, length, self.discards)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.write_zeroes_growing(offset, length, false)
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if !self.discards {
            return Ok(());
        }
        match self.file.discard(offset, length) {
            // Advice, which not every host takes.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        // There are no buffers between this and the kernel.
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn settle_writes(&self) -> io::Result<()> {
        // Every request is done when it returns.
        Ok(())
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, new_size: u64, mode: PreallocateMode) -> io::Result<()> {
        match mode {
            // A file grows by zeros.
            PreallocateMode::None | PreallocateMode::Zero => self.file.resize(new_size),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A path that an image names, as seen from the image's own directory.
pub(in super::super) fn beside(image: &std::path::Path, named: &std::path::Path) -> PathBuf {
    match image.parent() {
        Some(directory) if named.is_relative() => directory.join(named),
        _ => named.to_owned(),
    }
}
