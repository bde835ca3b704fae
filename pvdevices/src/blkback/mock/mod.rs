//! For tests, benches and fuzzing (feature `mock`): images that do as they are told, and a block
//! frontend that does what Linux's does, and what it never would.
//!
//! As [`crate::mock`], it panics where a test asks for the impossible.

mod front;
mod image;

pub use front::{Answer, BlkFront, Connect, Entry, FrontQueue, Part, data, discard, indirect};
pub use image::{Call, Event, Fault, FileImage, MemoryImage};
