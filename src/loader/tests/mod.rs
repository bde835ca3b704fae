//! Tests of the loader on images built here.

mod codecs;
mod damage;
mod image;
mod notes;
mod segments;

use super::{KernelImage, parse};

/// The error line for a file that must be refused.
fn refusal(file: Vec<u8>) -> String {
    match parse(file, "k") {
        Ok(image) => panic!("accepted: {image:?}"),
        Err(e) => e.to_string(),
    }
}

#[track_caller]
fn accepted(file: Vec<u8>) -> KernelImage {
    match parse(file, "k") {
        Ok(image) => image,
        Err(e) => panic!("{e}"),
    }
}
