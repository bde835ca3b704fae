//! What can be wrong with a command line, each as one line for the user.

use std::fmt;

use thiserror::Error;

use super::keyval::KeyvalError;
use crate::config::ConfigError;

/// A command line that cannot be run. Every message is one line, starts with
/// the option at fault, and ends with the way out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CliError {
    /// No option has this name.
    #[error("{}: Unknown option; {}", Shown(.option), .hint)]
    UnknownOption {
        /// The word as given, dash included.
        option: String,
        /// The nearest option, or where to look.
        hint: String,
    },
    /// `-option=value` in one word.
    #[error("-{option}: The value belongs into a word of its own; write -{option} VALUE")]
    JoinedValue {
        /// The option's name without its dash.
        option: String,
    },
    /// The last word is an option that needs a value.
    #[error("-{option}: The value is missing; write -{option} {value_name}")]
    MissingValue {
        /// The option's name without its dash.
        option: String,
        /// What the value stands for.
        value_name: String,
    },
    /// An option that is taken once was given more often.
    #[error("-{option}: Given more than once; leave one")]
    Repeated {
        /// The option's name without its dash.
        option: String,
    },
    /// A word that is no option and no option's value.
    #[error(
        "{}: Not an option; a disk image is given by -drive file=FILE, a kernel by -kernel FILE",
        Shown(.word)
    )]
    StrayWord {
        /// The word.
        word: String,
    },
    /// A value that is not UTF-8 where only text makes sense.
    #[error("-{option}: The value is not valid UTF-8; write it in UTF-8")]
    NotText {
        /// The option's name without its dash.
        option: &'static str,
    },
    /// QEMU has it, this version of xenner does not.
    #[error("-{option}: {what} not supported by this version; leave the option out")]
    Unsupported {
        /// The option's name without its dash.
        option: &'static str,
        /// What is not supported, with its verb ("Displays are").
        what: &'static str,
    },
    /// QEMU's option takes this value, this version of xenner does not.
    #[error("-{option}: {}: {what} not supported by this version; leave it out", Shown(.value))]
    UnsupportedValue {
        /// The option's name without its dash.
        option: &'static str,
        /// The value, or the part of it at fault.
        value: String,
        /// What is not supported, with its verb ("Displays are").
        what: &'static str,
    },
    /// The keys or values of an option are wrong.
    #[error("-{option}: {error}")]
    Keyval {
        /// The option's name without its dash.
        option: &'static str,
        /// What is wrong.
        error: KeyvalError,
    },
    /// A value that the option does not take.
    #[error("-{option}: {} {problem}", Shown(.value))]
    Invalid {
        /// The option's name without its dash.
        option: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it, and the way out.
        problem: String,
    },
    /// Two options that cannot both be meant.
    #[error("-{option}: Contradicts {other}; leave one of them out")]
    Conflict {
        /// The option's name without its dash.
        option: &'static str,
        /// The other option, as written.
        other: &'static str,
    },
    /// The options are well-formed, and the domain they describe is not.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// clap found something that the normaliser should have caught.
    #[error("{}: The command line cannot be read; see -help", Shown(.0))]
    Unreadable(String),
}

impl CliError {
    /// Wraps a fault in the value of `-option`.
    pub(super) fn in_value(option: &'static str) -> impl Fn(KeyvalError) -> Self {
        move |error| Self::Keyval { option, error }
    }
}

/// User input inside a message: quoted where it has blanks, control characters
/// escaped, and cut where it is long, so that the message stays one line.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

/// Characters of a word that a message shows.
const SHOWN_CHARS: usize = 80;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = self.0.chars().nth(SHOWN_CHARS).is_some();
        let head: String = self.0.chars().take(SHOWN_CHARS).collect();
        write!(
            f,
            "'{}{}'",
            head.escape_debug(),
            if long { "..." } else { "" }
        )
    }
}
