//! Descriptors of types that do not lend them by themselves.

// UNSAFETY: borrows a raw descriptor.
#![expect(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The descriptor of an event, for as long as the event is borrowed.
pub fn of_event(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event owns the descriptor and is borrowed for the result's lifetime.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
