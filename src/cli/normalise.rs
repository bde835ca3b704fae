//! From QEMU's words to clap's: `-foo value` becomes `--foo=value`.
//!
//! clap reads `-machine` as `-m achine`, so every known option is turned into
//! its long form with the value attached. That also settles which word is a
//! value: `-append "-x"` has one, whatever it looks like. Knows the names and
//! which of them take a value, from the same table that clap parses with;
//! knows nothing of what they mean.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::error::CliError;
use super::suggest::nearest;

/// What a command line is after its options were recognised.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalised {
    /// Words for clap, each `--option`, `--option=value`.
    Words(Vec<OsString>),
    /// `-help` came first.
    Help,
    /// `-version` came first.
    Version,
}

/// Turns every word into clap's form. `-help` and `-version` end the reading,
/// so what follows them need not make sense.
pub(super) fn normalise(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Normalised, CliError> {
    let mut words = Vec::new();
    let mut args = args.into_iter();
    while let Some(word) = args.next() {
        let Some(name) = option_name(&word) else {
            return Err(CliError::StrayWord {
                word: word.to_string_lossy().into_owned(),
            });
        };
        let option = find(command, name).ok_or_else(|| unknown(command, &word))?;
        let canonical = option.get_long().unwrap_or_default();
        match canonical {
            "help" => return Ok(Normalised::Help),
            "version" => return Ok(Normalised::Version),
            _ => {}
        }
        let mut normal = OsString::from(format!("--{canonical}"));
        if takes_value(option) {
            let value = args.next().ok_or_else(|| CliError::MissingValue {
                option: name.to_owned(),
                value_name: value_name(option),
            })?;
            normal.push("=");
            normal.push(value);
        }
        words.push(normal);
    }
    Ok(Normalised::Words(words))
}

/// The name behind one dash or two; `None` for a word without a dash.
fn option_name(word: &OsStr) -> Option<&str> {
    let Some(word) = word.to_str() else {
        // No option's name is outside ASCII.
        return word.as_encoded_bytes().starts_with(b"-").then_some("");
    };
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

/// The option of this name or alias.
fn find<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|option| names(option).any(|known| known == name))
}

/// Every name an option goes by, without dashes, the chief one first.
pub(super) fn names(option: &Arg) -> impl Iterator<Item = &str> {
    let aliases = option.get_all_aliases().unwrap_or_default();
    option.get_long().into_iter().chain(aliases)
}

pub(super) fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// What the help text calls the option's value.
pub(super) fn value_name(option: &Arg) -> String {
    let names = option.get_value_names().unwrap_or_default();
    names
        .first()
        .map_or_else(|| "VALUE".to_owned(), ToString::to_string)
}

fn unknown(command: &Command, word: &OsStr) -> CliError {
    let shown = word.to_string_lossy();
    let name = shown.trim_start_matches('-');
    if let Some((before, _)) = name.split_once('=')
        && let Some(option) = find(command, before).filter(|option| takes_value(option))
    {
        let option = option.get_long().unwrap_or_default().to_owned();
        return CliError::JoinedValue { option };
    }
    let known = command.get_arguments().flat_map(names);
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean -{near}?"),
        None => "-help lists all there are".to_owned(),
    };
    CliError::UnknownOption {
        option: shown.into_owned(),
        hint,
    }
}
