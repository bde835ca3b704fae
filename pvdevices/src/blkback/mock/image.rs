//! Images for tests: one in memory that fails, waits and keeps a diary when told to, one in a file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use crate::blkback::IoKind;
use crate::image::{DiscardKind, Geometry, Image, RawTarget};

/// A call on an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Image::read`] of these bytes from there.
    Read(u64, u64),
    /// [`Image::write`].
    Write(u64, u64),
    /// [`Image::flush`].
    Flush,
    /// [`Image::discard`].
    Discard(u64, u64, DiscardKind),
    /// [`Image::write_zeroes`].
    Zeroes(u64, u64),
}

impl Call {
    fn kind(self) -> IoKind {
        match self {
            Self::Read(..) => IoKind::Read,
            Self::Write(..) | Self::Zeroes(..) => IoKind::Write,
            Self::Flush => IoKind::Flush,
            Self::Discard(..) => IoKind::Discard,
        }
    }
}

/// What the diary says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A call has come.
    Begin(Call),
    /// A call returns.
    End(Call),
}

/// Makes calls fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which.
    pub kind: IoKind,
    /// With what.
    pub errno: Errno,
    /// How often.
    pub times: usize,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    diary: Vec<Event>,
    faults: Vec<Fault>,
    /// Calls of this kind wait.
    closed: Option<IoKind>,
    /// Calls of any kind panic.
    rotten: bool,
}

/// An image in memory. The geometry's `read_only` and `discard` bind it as they would a file.
#[derive(Debug)]
pub struct MemoryImage {
    geometry: Mutex<Geometry>,
    content: Mutex<Content>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryImage {
    /// An image of zeros.
    #[must_use]
    pub fn new(geometry: Geometry) -> Arc<Self> {
        let bytes = vec![0; usize::try_from(geometry.size).expect("an image that fits")];
        Arc::new(Self {
            geometry: Mutex::new(geometry),
            content: Mutex::new(Content {
                bytes,
                ..Content::default()
            }),
            changed: Condvar::new(),
        })
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.content).bytes.clone()
    }

    /// Puts something into it behind everybody's back.
    pub fn put(&self, offset: usize, data: &[u8]) {
        lock(&self.content).bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, size: u64) {
        lock(&self.geometry).size = size;
        let size = usize::try_from(size).expect("an image that fits");
        lock(&self.content).bytes.resize(size, 0);
    }

    /// What was called so far, and forgets it.
    #[must_use]
    pub fn take_diary(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.content).diary)
    }

    /// The calls that returned, and forgets the diary.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        let ended = |event| match event {
            Event::End(call) => Some(call),
            Event::Begin(_) => None,
        };
        self.take_diary().into_iter().filter_map(ended).collect()
    }

    /// Makes calls fail.
    pub fn fail(&self, kind: IoKind, errno: Errno, times: usize) {
        let fault = Fault { kind, errno, times };
        lock(&self.content).faults.push(fault);
    }

    /// Calls of this kind wait until [`Self::open`].
    pub fn close(&self, kind: IoKind) {
        lock(&self.content).closed = Some(kind);
    }

    /// Waiting calls go on.
    pub fn open(&self) {
        lock(&self.content).closed = None;
        self.changed.notify_all();
    }

    /// Waits until so many calls have begun since the diary was taken.
    pub fn wait_begun(&self, count: usize) {
        let content = lock(&self.content);
        let begun = |content: &mut Content| {
            let begins = content.diary.iter();
            begins.filter(|e| matches!(e, Event::Begin(_))).count() < count
        };
        let waited = self
            .changed
            .wait_timeout_while(content, crate::mock::PATIENCE, begun);
        let (content, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "{:?}", content.diary);
    }

    /// From now on every call panics, as a format's parser with a bug would.
    pub fn rot(&self) {
        lock(&self.content).rotten = true;
    }

    /// A call: diary, gate and faults, then the work.
    fn call(&self, call: Call, work: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let geometry = self.geometry();
        let mut content = lock(&self.content);
        content.diary.push(Event::Begin(call));
        self.changed.notify_all();
        assert!(!content.rotten, "the image is rotten");
        while content.closed == Some(call.kind()) {
            content = self
                .changed
                .wait(content)
                .unwrap_or_else(PoisonError::into_inner);
        }
        content.diary.push(Event::End(call));
        let hit = |fault: &&mut Fault| fault.kind == call.kind() && fault.times > 0;
        if let Some(fault) = content.faults.iter_mut().find(hit) {
            fault.times -= 1;
            return Err(fault.errno.into());
        }
        if geometry.read_only && matches!(call.kind(), IoKind::Write | IoKind::Discard) {
            return Err(Errno::ROFS.into());
        }
        work(&mut content.bytes);
        Ok(())
    }
}

fn length(slices: &[VolatileSlice<'_>]) -> u64 {
    slices.iter().map(|slice| slice.len() as u64).sum()
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset in the image")
}

impl Image for MemoryImage {
    fn geometry(&self) -> Geometry {
        *lock(&self.geometry)
    }

    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.call(Call::Read(offset, length(to)), |bytes| {
            let mut at = at(offset);
            for slice in to {
                slice.copy_from(&bytes[at..at + slice.len()]);
                at += slice.len();
            }
        })
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.call(Call::Write(offset, length(from)), |bytes| {
            let mut at = at(offset);
            for slice in from {
                slice.copy_to(&mut bytes[at..at + slice.len()]);
                at += slice.len();
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.call(Call::Flush, |_| ())
    }

    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()> {
        self.call(Call::Discard(offset, len, kind), |bytes| {
            bytes[at(offset)..at(offset + len)].fill(0);
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.call(Call::Zeroes(offset, len), |bytes| {
            bytes[at(offset)..at(offset + len)].fill(0);
        })
    }
}

/// An image that is a file as it is, in memory unless one is given. Counts the calls that did not
/// go to the file directly.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    geometry: Geometry,
    alignment: u32,
    calls: Mutex<Vec<Call>>,
}

impl FileImage {
    /// A file in memory, as long as the geometry says.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let fd = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file in memory");
        let file = File::from(fd);
        file.set_len(geometry.size).expect("room");
        Self::over(file, geometry, 1)
    }

    /// A file that demands this alignment of memory and offsets.
    #[must_use]
    pub fn over(file: File, geometry: Geometry, alignment: u32) -> Self {
        Self {
            file,
            geometry,
            alignment,
            calls: Mutex::default(),
        }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The calls that did not go to the file directly, and forgets them.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.calls))
    }

    fn note(&self, call: Call) {
        lock(&self.calls).push(call);
    }
}

impl Image for FileImage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn raw(&self) -> Option<RawTarget<'_>> {
        Some(RawTarget {
            fd: self.file.as_fd(),
            memory_alignment: self.alignment,
            offset_alignment: self.alignment,
        })
    }

    fn read(&self, offset: u64, to: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.note(Call::Read(offset, length(to)));
        let mut bytes = vec![0; at(length(to))];
        let mut done = 0;
        while done < bytes.len() {
            match self
                .file
                .read_at(&mut bytes[done..], offset + done as u64)?
            {
                0 => break,
                count => done += count,
            }
        }
        let mut rest = &bytes[..];
        for slice in to {
            let (here, behind) = rest.split_at(slice.len());
            slice.copy_from(here);
            rest = behind;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.note(Call::Write(offset, length(from)));
        let mut bytes = Vec::new();
        for slice in from {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(&mut bytes[start..]);
        }
        self.file.write_all_at(&bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.note(Call::Flush);
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, len: u64, kind: DiscardKind) -> io::Result<()> {
        self.note(Call::Discard(offset, len, kind));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.note(Call::Zeroes(offset, len));
        self.file.write_all_at(&vec![0; at(len)], offset)
    }
}
