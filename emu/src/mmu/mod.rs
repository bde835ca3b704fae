//! Page-table rules: which frame may be used for what, and which entries are allowed.
//!
//! Sources of the rules: `xen/include/public/xen.h` (mmu_update, mmuext_op) and what Xen
//! answers in practice (docs/mmu.md).

pub mod rules;
pub mod types;
pub mod update;
#[cfg(target_os = "none")]
pub mod walk;

#[cfg(test)]
pub(crate) mod race_tests;
#[cfg(test)]
mod tests;
