//! What the tests stand on: typed hypercalls, page tables, events, time, user
//! mode, other vCPUs, the consoles, and the runner.

pub mod block;
pub mod console;
pub mod events;
pub mod machine;
pub mod paging;
pub mod runner;
pub mod smp;
pub mod store;
pub mod time;
pub mod user;
pub mod xen;
