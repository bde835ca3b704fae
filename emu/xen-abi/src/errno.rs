//! Error numbers, from `errno.h`: positive here; a hypercall returns them negative.

/// Operation not permitted.
pub const EPERM: i64 = 1;
/// No such entry.
pub const ENOENT: i64 = 2;
/// No such domain.
pub const ESRCH: i64 = 3;
/// Interrupted.
pub const EINTR: i64 = 4;
/// I/O error.
pub const EIO: i64 = 5;
/// No such device or address.
pub const ENXIO: i64 = 6;
/// Argument list too long.
pub const E2BIG: i64 = 7;
/// Format error.
pub const ENOEXEC: i64 = 8;
/// Bad descriptor.
pub const EBADF: i64 = 9;
/// Try again.
pub const EAGAIN: i64 = 11;
/// Out of memory.
pub const ENOMEM: i64 = 12;
/// Permission denied.
pub const EACCES: i64 = 13;
/// Bad address.
pub const EFAULT: i64 = 14;
/// Busy.
pub const EBUSY: i64 = 16;
/// Exists already.
pub const EEXIST: i64 = 17;
/// Cross-device.
pub const EXDEV: i64 = 18;
/// No such device.
pub const ENODEV: i64 = 19;
/// Is a directory.
pub const EISDIR: i64 = 21;
/// Invalid argument.
pub const EINVAL: i64 = 22;
/// No space left.
pub const ENOSPC: i64 = 28;
/// Read-only.
pub const EROFS: i64 = 30;
/// Argument out of domain.
pub const EDOM: i64 = 33;
/// Result out of range.
pub const ERANGE: i64 = 34;
/// Would deadlock.
pub const EDEADLK: i64 = 35;
/// Name too long.
pub const ENAMETOOLONG: i64 = 36;
/// Not implemented.
pub const ENOSYS: i64 = 38;
/// Not empty.
pub const ENOTEMPTY: i64 = 39;
/// No data.
pub const ENODATA: i64 = 61;
/// Timer expired.
pub const ETIME: i64 = 62;
/// Not a data message.
pub const EBADMSG: i64 = 74;
/// Value too large.
pub const EOVERFLOW: i64 = 75;
/// Illegal byte sequence.
pub const EILSEQ: i64 = 84;
/// Restart the call; never seen by a guest.
pub const ERESTART: i64 = 85;
/// Message too large.
pub const EMSGSIZE: i64 = 90;
/// Operation not supported.
pub const EOPNOTSUPP: i64 = 95;
/// Address in use.
pub const EADDRINUSE: i64 = 98;
/// No buffer space.
pub const ENOBUFS: i64 = 105;
/// Connected already.
pub const EISCONN: i64 = 106;
/// Not connected.
pub const ENOTCONN: i64 = 107;
/// Timed out.
pub const ETIMEDOUT: i64 = 110;
