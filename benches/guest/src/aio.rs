//! Linux's asynchronous I/O on a file opened past the page cache: requests in
//! flight, one buffer each. The system calls and their structures
//! (`include/uapi/linux/aio_abi.h`) are all that is unsafe here.

// UNSAFETY: raw system calls that take addresses of buffers and structures.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// IOCB_CMD_PREAD
    Read = 0,
    /// IOCB_CMD_PWRITE
    Write = 1,
}

#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// A file, requests in flight on it, and their buffers.
pub struct Aio {
    file: File,
    context: libc::c_ulong,
    // Nothing but the kernel touches the memory between submit and wait.
    buffers: Vec<Buffer>,
    size: usize,
}

/// Memory that direct I/O takes: it begins on a page.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

type Buffer = Vec<Page>;

impl Aio {
    /// Open `path` for up to `depth` requests of `size` bytes.
    pub fn open(path: &str, depth: usize, size: usize) -> io::Result<Aio> {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: `context` is valid for the call and 0, as it has to be.
        if unsafe { libc::syscall(libc::SYS_io_setup, depth, &mut context) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let pages = size.div_ceil(4096);
        Ok(Aio {
            file,
            context,
            buffers: vec![vec![Page([0x5a; 4096]); pages]; depth],
            size,
        })
    }

    /// Start a request with buffer `slot`, which must not be in flight.
    pub fn submit(&mut self, operation: Operation, slot: usize, offset: u64) -> io::Result<()> {
        let mut request = Iocb {
            data: slot as u64,
            opcode: operation as u16,
            file: self.file.as_raw_fd().unsigned_abs(),
            buffer: self.buffers[slot].as_mut_ptr() as u64,
            bytes: self.size as u64,
            offset: offset.cast_signed(),
            ..Iocb::default()
        };
        let mut list = [&raw mut request];
        // SAFETY: the list and the request are valid for the call; the buffer
        // is owned by `self` and as long as the request says.
        let done =
            unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
        if done == 1 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Wait for a request to end; gives back its slot.
    pub fn wait(&mut self) -> io::Result<usize> {
        let mut event = IoEvent::default();
        let none = std::ptr::null::<libc::timespec>();
        // SAFETY: `event` is valid for one event; the time limit may be null.
        let done =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &mut event, none) };
        if done != 1 {
            return Err(io::Error::last_os_error());
        }
        if event.result < 0 {
            let code = i32::try_from(-event.result).unwrap_or(0);
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(event.data as usize)
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is this object's; the call waits for requests in flight.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
