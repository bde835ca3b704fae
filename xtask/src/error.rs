//! The one error type of the project's own commands.
//!
//! Each message names what failed and the way out; `main` prints the chain.

use std::io;
use std::path::{Path, PathBuf};

/// What every fallible function here returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command of the project could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read, written or made.
    #[error("Cannot {action} {path}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("Cannot start {program}: is it installed?")]
    Start {
        /// The program's name.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed; its last output is kept.
    #[error("{command} failed ({status}){tail}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status in words.
        status: String,
        /// The end of its output, each line on its own, or nothing.
        tail: String,
    },
    /// Something that a command needs is not there.
    #[error("{what}; {way_out}")]
    Missing {
        /// What is missing.
        what: String,
        /// What the user can do about it.
        way_out: String,
    },
    /// A program answered in a form that was not expected.
    #[error("Cannot make sense of the answer of {program}: {what}")]
    Answer {
        /// The program.
        program: &'static str,
        /// What was wrong with its answer.
        what: String,
    },
}

impl Error {
    /// A closure for `map_err` on operations on `path`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::File {
            action,
            path,
            source,
        }
    }

    /// Something is missing, and here is the way out.
    pub fn missing(what: impl Into<String>, way_out: impl Into<String>) -> Error {
        Error::Missing {
            what: what.into(),
            way_out: way_out.into(),
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}
