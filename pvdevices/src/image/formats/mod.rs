//! Image formats, by way of the imago library: qcow2, flat VMDK, and raw images as the lowest layer
//! of a chain.
//!
//! Everything that the library is used for is in this directory. It reads and writes through
//! [`HostStorage`]; it opens nothing by itself; it sees copies of the guest's buffers, never guest
//! memory.

mod check;
mod header;
mod storage;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use imago::format::PreallocateMode;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::vmdk::Vmdk;
use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder,
    StorageOpenOptions,
};
use vm_memory::VolatileSlice;

pub(super) use check::tables;
pub(super) use header::{HEADER_BYTES, Header};
pub(super) use storage::{HostStorage, beside};

use super::buffers::{self, AlignedBuffer};
use super::{Discard, DiscardKind, Geometry, Image, SECTOR_SIZE};

/// A layer of a chain, ready to be read.
pub(super) type Layer = FormatAccess<HostStorage>;
/// A qcow2 image whose other files are still to be named.
pub(super) type OpenQcow2 = Qcow2<HostStorage, Arc<Layer>>;

/// What a qcow2 header refers to.
#[derive(Debug)]
pub(super) struct References {
    /// The backing file and its format, if it has one and says which.
    pub(super) backing: Option<(String, Option<String>)>,
    /// The external data file, if the image needs one; its name, if there is one.
    pub(super) data_file: Option<Option<String>>,
}

/// Reads an image's header and tables; its backing and data files are given to [`finish_qcow2`].
pub(super) fn open_qcow2(storage: HostStorage, write: bool) -> io::Result<(OpenQcow2, References)> {
    let image = Qcow2::<HostStorage, Arc<Layer>>::builder(storage)
        .write(write)
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())?;
    let backing = image.implicit_backing_file().cloned();
    let format = image.implicit_backing_format().cloned();
    let data_file = image
        .requires_external_data_file()
        .then(|| image.implicit_external_data_file().cloned());
    let references = References {
        backing: backing.map(|file| (file, format)),
        data_file,
    };
    Ok((image, references))
}

/// Gives a qcow2 image its other files.
pub(super) fn finish_qcow2(
    mut image: OpenQcow2,
    backing: Option<Arc<Layer>>,
    data_file: Option<HostStorage>,
) -> Layer {
    image.set_backing(backing);
    image.set_data_file(data_file);
    Layer::new(image)
}

/// An empty qcow2 image of `size` bytes over `backing`.
pub(super) fn create_overlay(
    storage: HostStorage,
    size: u64,
    backing: Arc<Layer>,
) -> io::Result<Layer> {
    let image = Qcow2::<HostStorage, Arc<Layer>>::create_builder(storage)
        .size(size)
        .create_open(DenyImplicitOpenGate::default(), |storage| {
            Ok(Qcow2::builder(storage).backing(Some(backing)))
        })?;
    Ok(Layer::new(image))
}

/// The bytes of a file as the lowest layer of a chain.
pub(super) fn raw_layer(storage: HostStorage) -> io::Result<Layer> {
    Ok(Layer::new(Raw::open_image(storage, false)?))
}

/// Opens a VMDK descriptor; `extent` opens the files that it names.
pub(super) fn open_vmdk(
    storage: HostStorage,
    extent: &mut dyn FnMut(&Path) -> io::Result<HostStorage>,
) -> io::Result<Layer> {
    let image = Vmdk::<HostStorage>::builder(storage).open(Extents(extent))?;
    Ok(Layer::new(image))
}

/// Lets the library open nothing but what `open_vmdk` was given a way for.
struct Extents<'a>(&'a mut dyn FnMut(&Path) -> io::Result<HostStorage>);

impl ImplicitOpenGate<HostStorage> for Extents<'_> {
    fn open_format<F: FormatDriverBuilder<HostStorage>>(&mut self, _: F) -> io::Result<Layer> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<HostStorage> {
        let path = options.get_filename();
        let path = path.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        (self.0)(path)
    }
}

/// How a format's image is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct FormatOptions {
    pub(super) write: bool,
    /// What is discarded is freed in the image.
    pub(super) discards: bool,
    /// Bytes of a cluster, the unit that is freed.
    pub(super) cluster: u32,
    /// Bytes that addresses of buffers should be multiples of.
    pub(super) memory_align: u32,
    /// Bytes that the lowest file is written in.
    pub(super) block: u32,
}

/// An image of a format.
#[derive(Debug)]
pub(super) struct FormatImage {
    /// Shared with an image over this one, which is read-only then. What takes mappings away needs
    /// it alone: a write under way would go to a cluster that belongs to somebody else by then.
    layer: RwLock<Arc<Layer>>,
    options: FormatOptions,
}

impl FormatImage {
    pub(super) fn new(layer: Layer, options: FormatOptions) -> Self {
        Self {
            layer: RwLock::new(Arc::new(layer)),
            options,
        }
    }

    /// The layer, for an image above this one.
    pub(super) fn layer(&self) -> Arc<Layer> {
        Arc::clone(&self.layer.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(&self, what: impl FnOnce(&Layer) -> io::Result<T>) -> io::Result<T> {
        let layer = self.layer.read().unwrap_or_else(PoisonError::into_inner);
        what(&layer).map_err(with_errno)
    }

    /// With nothing else under way.
    fn alone<T>(&self, what: impl FnOnce(&mut Layer) -> io::Result<T>) -> io::Result<T> {
        let mut layer = self.layer.write().unwrap_or_else(PoisonError::into_inner);
        let busy = || io::Error::from_raw_os_error(libc::EBUSY);
        what(Arc::get_mut(&mut layer).ok_or_else(busy)?).map_err(with_errno)
    }

    fn writable(&self) -> io::Result<()> {
        match self.options.write {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    fn size(&self) -> u64 {
        let layer = self.layer.read().unwrap_or_else(PoisonError::into_inner);
        layer.size() / SECTOR_SIZE * SECTOR_SIZE
    }

    fn check_range(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

impl Image for FormatImage {
    fn geometry(&self) -> Geometry {
        let block = SECTOR_SIZE as u32;
        let discard = Discard {
            granularity: self.options.cluster,
            alignment: 0,
            secure: false,
        };
        Geometry {
            size: self.size(),
            logical_block: block,
            physical_block: self.options.block.max(block),
            read_only: !self.options.write,
            discard: (self.options.discards && self.options.write).then_some(discard),
        }
    }

    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        let len = buffers::total(to);
        self.check_range(offset, len as u64)?;
        let mut copy = AlignedBuffer::new(len, self.options.memory_align as usize);
        self.with(|layer| layer.read(copy.bytes(), offset))?;
        buffers::scatter(copy.bytes(), to, 0);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.writable()?;
        let len = buffers::total(from);
        self.check_range(offset, len as u64)?;
        let mut copy = AlignedBuffer::new(len, self.options.memory_align as usize);
        buffers::gather(from, 0, copy.bytes());
        let bytes: &[u8] = copy.bytes();
        self.with(|layer| layer.write(bytes, offset))
    }

    fn flush(&self) -> io::Result<()> {
        if !self.options.write {
            return Ok(());
        }
        // The tables go to the file first, then all of it to the medium.
        self.with(|layer| layer.flush().and_then(|()| layer.sync()))
    }

    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()> {
        self.writable()?;
        self.check_range(offset, len)?;
        if !self.options.discards || kind == DiscardKind::Secure {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        // Only whole clusters: freeing takes no part of one.
        let cluster = u64::from(self.options.cluster);
        let start = offset.next_multiple_of(cluster);
        let mut end = offset + len;
        if end < self.size() {
            end -= end % cluster;
        }
        match end.checked_sub(start) {
            None | Some(0) => Ok(()),
            Some(len) => self.alone(|layer| layer.discard_to_any(start, len)),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.writable()?;
        self.check_range(offset, len)?;
        let zeroed = if unmap && self.options.discards {
            self.alone(|layer| layer.discard_to_zero(offset, len))
        } else {
            self.with(|layer| layer.write_zeroes(offset, len))
        };
        match zeroed {
            // Version 2 has no clusters that read as zeros.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.write_zero_bytes(offset, len)
            }
            result => result,
        }
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.writable()?;
        self.alone(|layer| layer.resize(size, PreallocateMode::None))?;
        self.flush()
    }
}

impl FormatImage {
    fn write_zero_bytes(&self, offset: u64, len: u64) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        let mut zeros = AlignedBuffer::new(CHUNK as usize, self.options.memory_align as usize);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(CHUNK);
            let bytes: &[u8] = &zeros.bytes()[..part as usize];
            self.with(|layer| layer.write(bytes, offset + done))?;
            done += part;
        }
        Ok(())
    }
}

/// The library adds words to the host's errors and loses their numbers, which the guest's answer
/// and the error policy depend on.
fn with_errno(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    let errno = match error.kind() {
        io::ErrorKind::StorageFull => libc::ENOSPC,
        io::ErrorKind::QuotaExceeded => libc::EDQUOT,
        io::ErrorKind::FileTooLarge => libc::EFBIG,
        io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
        io::ErrorKind::ReadOnlyFilesystem => libc::EROFS,
        _ => {
            log::warn!(target: "xenner::block", "An image's format: {error}");
            libc::EIO
        }
    };
    io::Error::from_raw_os_error(errno)
}
