//! Per-vCPU state, found by the stack pointer.

#![expect(unsafe_code)]
// UNSAFETY: reading rsp; cells that only their own vCPU touches.

use super::entry::{MAX_VCPUS, STACK_SIZE, stacks};
use super::memory;
use super::trap::{Action, Trap};
use core::cell::Cell;
use xenner_test_guests::text::Text;

/// What a hook does with a trap.
pub type Hook = fn(&mut Trap) -> Action;

/// State of one vCPU.
pub struct Vcpu {
    /// Address of its `vcpu_info`.
    pub info: Cell<u64>,
    /// Stack pointer to go back to when a snippet ends, 0 if none runs.
    pub snippet_sp: Cell<u64>,
    /// Stack pointer to go back to when a test dies, 0 if none runs.
    pub test_sp: Cell<u64>,
    /// Called for a trap before it ends the snippet.
    pub hook: Cell<Option<Hook>>,
    /// The last trap that ended a snippet or a test.
    pub trap: Cell<Trap>,
    /// Why the last test did not pass.
    pub why: Cell<Text<400>>,
    /// Event callbacks so far.
    pub upcalls: Cell<u64>,
    /// Traps that hooks let resume.
    pub resumed: Cell<u64>,
    /// Address of its page for kernel snippets.
    pub code_page: Cell<u64>,
}

struct All([Vcpu; MAX_VCPUS]);
// SAFETY: each vCPU uses its own element only; others look at it while it is down.
unsafe impl Sync for All {}

#[expect(clippy::declare_interior_mutable_const, reason = "a template")]
const NEW: Vcpu = Vcpu {
    info: Cell::new(0),
    snippet_sp: Cell::new(0),
    test_sp: Cell::new(0),
    hook: Cell::new(None),
    trap: Cell::new(Trap::NONE),
    why: Cell::new(Text::new()),
    upcalls: Cell::new(0),
    resumed: Cell::new(0),
    code_page: Cell::new(0),
};
static ALL: All = All([NEW; MAX_VCPUS]);

/// Number of the vCPU that runs this.
pub fn id() -> usize {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack)) };
    // the top of a stack belongs to it: nothing runs with an empty stack
    usize::try_from(sp.wrapping_sub(1).wrapping_sub(stacks()) / STACK_SIZE)
        .map_or(0, |i| i.min(MAX_VCPUS - 1))
}

/// The vCPU that runs this.
pub fn this() -> &'static Vcpu {
    &ALL.0[id()]
}

/// Another vCPU.
pub fn nth(i: usize) -> &'static Vcpu {
    &ALL.0[i]
}

impl Vcpu {
    /// The upcall mask.
    pub fn mask(&self) -> u8 {
        memory::read8(self.info.get() + 1)
    }

    /// Set the upcall mask; does not force a pending upcall.
    pub fn set_mask(&self, v: u8) {
        memory::write8(self.info.get() + 1, v);
    }

    /// Whether an upcall is pending.
    pub fn pending(&self) -> bool {
        memory::read8(self.info.get()) != 0
    }
}

/// The time stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The object behind a pointer that was made from a `&'static`.
pub fn static_ref<T>(p: *mut T) -> Option<&'static T> {
    // SAFETY: null, or stored from a `&'static T`.
    unsafe { p.as_ref() }
}
