//! The client that attaches a terminal to the console of a running domain: `xenner-console`.
//!
//! It needs nothing of the domain but its console: a unix socket, or the slave of a pty.

mod session;
mod target;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::mux;
use session::Ending;

/// Attaches this terminal to the console of a running domain.
#[derive(Debug, Parser)]
#[command(
    name = "xenner-console",
    version,
    after_help = "While attached, Ctrl-] detaches and leaves the domain running.\n\n\
        Without a terminal, standard input is sent to the domain and its output copied until the \
        domain closes the console.\n\n\
        Exit status: 0 after detaching or when the domain closed the console, 1 when the console \
        could not be attached or failed, 2 for a wrong command line."
)]
pub struct Args {
    /// The name of a running domain, or the path of its console (a unix socket or a pty); what
    /// contains a slash is a path
    #[arg(value_name = "NAME|PATH")]
    target: OsString,

    /// Which console of the domain: 0 is the first, hvc0
    #[arg(value_name = "NUMBER")]
    number: Option<u32>,

    /// The key that detaches: a character, or ^ and a character for Ctrl
    #[arg(short, long, value_name = "KEY", default_value = "^]", value_parser = parse_key)]
    escape: u8,
}

/// Why the client ended without having done its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The name is no name.
    #[error("{name:?} cannot be a domain's name; give a name, or a path with a slash")]
    BadName {
        /// What was given.
        name: OsString,
    },
    /// No run directory, or none with a console.
    #[error(
        "No running domain {name} of this user: {path} is missing; \
         check the name and the user, or give the path of its console"
    )]
    NoDomain {
        /// The name.
        name: String,
        /// Where its console would be.
        path: PathBuf,
    },
    /// The domain is there, and has no such console.
    #[error(
        "The domain {name} has no console {number} on a pty or a unix socket; \
         leave the number out for its first one"
    )]
    NoNumber {
        /// The name.
        name: String,
        /// What was given.
        number: u32,
    },
    /// A number beside a path.
    #[error("{path} is one console; leave the number out, or give a domain's name")]
    NumberOfPath {
        /// The path.
        path: PathBuf,
    },
    /// The path leads nowhere.
    #[error("{path} is missing; check the path, or give the name of a running domain")]
    NoConsole {
        /// The path.
        path: PathBuf,
    },
    /// A socket without a listener.
    #[error("Nothing listens on {path}: its domain has ended; start it again")]
    Ended {
        /// The path.
        path: PathBuf,
    },
    /// Neither a socket nor a terminal.
    #[error("{path} is neither a socket nor a terminal; give the path of a console")]
    NotAConsole {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else is attached.
    #[error("The console {path} is open in another program; detach there first")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// It could not be opened.
    #[error("Cannot open the console {path}; run this as the user of the domain")]
    Open {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// This terminal refused raw mode.
    #[error("Cannot put this terminal into raw mode; run this in another terminal")]
    Terminal {
        /// The cause.
        source: io::Error,
    },
    /// The connection failed.
    #[error("The connection to the console {path} failed; attach again")]
    Lost {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("Cannot write to standard output; free its disk or choose another place")]
    Output {
        /// The cause.
        source: io::Error,
    },
}

/// Runs the program with this process's command line.
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("xenner-console: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), ClientError> {
    let target = target::find(&args.target, args.number)?;
    let console = target::open(&target)?;
    let on_terminal = rustix::termios::isatty(rustix::stdio::stdin());
    if on_terminal {
        let key = mux::key_name(args.escape).replace("C-", "Ctrl-");
        eprintln!("Attached to {}; {key} detaches.", args.target.display());
    }
    let ending = session::run(&console, &target.path, args.escape)?;
    if on_terminal {
        match ending {
            Ending::Detached => eprintln!("\nDetached from {}.", args.target.display()),
            Ending::Closed => eprintln!("\nThe domain has closed its console."),
            Ending::OutputClosed => {}
        }
    }
    Ok(())
}

/// `^]`, `^a`, `^A` and the like, or one printable character.
fn parse_key(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [b'^', key] => match key.to_ascii_uppercase() {
            upper @ b'@'..=b'_' => Ok(upper - b'@'),
            _ => Err("there is no such control character; try ^]".to_owned()),
        },
        [key @ b' '..=b'~'] => Ok(*key),
        _ => Err("give one character, or ^ and one character, as in ^]".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for (text, key) in [
            ("^]", 0x1d),
            ("^a", 1),
            ("^A", 1),
            ("^@", 0),
            ("^_", 0x1f),
            ("~", b'~'),
        ] {
            assert_eq!(parse_key(text), Ok(key), "{text}");
        }
        for text in ["", "^^^", "^é", "é", "ab", "^1", "\u{7f}"] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <Args as clap::CommandFactory>::command().debug_assert();
        let args = Args::try_parse_from(["xenner-console", "debian"]).unwrap();
        assert_eq!((args.target.to_str(), args.escape), (Some("debian"), 0x1d));
        assert_eq!(args.number, None);
        let args = Args::try_parse_from(["xenner-console", "debian", "2"]).unwrap();
        assert_eq!(args.number, Some(2));
    }
}
