//! The command line: no words may make the parser panic, what it refuses is
//! told in one line, and what it accepts keeps its own promises. The words are
//! the input's parts between NULs.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use xenner::cli::{self, Action};

fuzz_target!(|data: &[u8]| {
    let words = data
        .split(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()));
    match cli::parse(words) {
        Ok(Action::Run(config)) => config
            .validate()
            .expect("a configuration that was accepted is valid"),
        Ok(Action::Print(text)) => assert!(text.ends_with('\n')),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
        }
    }
});
