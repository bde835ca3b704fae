//! Loads kernel images and prints what they are and the best time of five.
//!
//! `cargo run --release --example load_kernel -- /boot/vmlinuz-*`

use std::time::{Duration, Instant};

use xenner::loader;

fn main() {
    for path in std::env::args_os().skip(1) {
        let mut best = Duration::MAX;
        let mut line = String::new();
        for _ in 0..5 {
            let start = Instant::now();
            let loaded = loader::load(path.as_ref());
            best = best.min(start.elapsed());
            line = match loaded {
                Ok(image) => format!(
                    "{}: {:?}, {:#x}..{:#x}, {:#?}",
                    path.display(),
                    image.word,
                    image.virt_kstart(),
                    image.virt_kend(),
                    image.notes
                ),
                Err(e) => e.to_string(),
            };
        }
        println!("{best:.1?} {line}");
    }
}
