//! A domain made for tests, benches and fuzzing (feature `mock`): what a frontend does, without a
//! guest. It can do all that Linux's frontends do, and what they never would.
//!
//! Nothing of it is in the product. Where a test asks for the impossible (no memory left, no answer
//! within [`PATIENCE`]) it panics, as an assertion of the test would.

mod domain;
mod event;
mod frontend;
mod memory;
mod ring;
mod store;

use std::time::Duration;

pub use domain::{GrantedPage, MockDomain};
pub use event::MockPort;
pub use frontend::MockFrontend;
pub use memory::{MockMemory, MockPage};
pub use ring::MockRing;
pub use store::MockStore;

/// How long a test waits for a backend before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests;
