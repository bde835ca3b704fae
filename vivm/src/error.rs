//! What can go wrong outside of the XML.

use std::io;
use std::path::PathBuf;

use crate::convert::ConvertError;

/// Why nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
pub enum VivmError {
    /// The document.
    #[error("Cannot convert {origin}")]
    Convert {
        /// The domain or its file.
        origin: String,
        /// The cause.
        source: ConvertError,
    },
    /// Things to be decided, which were listed before.
    #[error(
        "{name} is not defined: {count} to be decided, see above; edit it by xenner-vivm {name}, or its XML"
    )]
    Undecided {
        /// The domain.
        name: String,
        /// How many things.
        count: usize,
    },
    /// Not there, or not executable.
    #[error("Cannot run virsh; install Debian's package libvirt-clients")]
    NoVirsh(#[source] io::Error),
    /// virsh said so.
    #[error("virsh {command} failed: {message}")]
    Virsh {
        /// What it was asked.
        command: String,
        /// What it said.
        message: String,
    },
    /// No xenner was found.
    #[error("No xenner beside this program or in PATH; install it, or name it by --emulator")]
    NoEmulator,
    /// libvirt is another machine's.
    #[error(
        "--emulator is missing: the libvirt {uri} is another machine's; give xenner's path there"
    )]
    RemoteEmulator {
        /// The connection.
        uri: String,
    },
    /// Not a program.
    #[error("--emulator: {path} {problem}; give the path of the installed xenner")]
    BadEmulator {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// libvirt takes absolute paths alone.
    #[error("{option}: {path} is not an absolute path in UTF-8, as libvirt wants them")]
    BadPath {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A file that could not be read.
    #[error("Cannot read {path}; check the path and that it is text in UTF-8")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that could not be written.
    #[error("Cannot write {path}; check that it may be made there and is not there yet")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No place for what is edited.
    #[error("Cannot make a temporary file; check that there is room in TMPDIR or /tmp")]
    Temporary(#[source] io::Error),
    /// The shell that starts the editor.
    #[error("Cannot start the editor {editor}; set EDITOR to one that is installed")]
    Editor {
        /// As it was set.
        editor: String,
        /// The cause.
        source: io::Error,
    },
    /// Ended badly: as good as a no.
    #[error("The editor {editor} ended with {status}; nothing is defined")]
    EditorFailed {
        /// As it was set.
        editor: String,
        /// How it ended.
        status: String,
    },
    /// The person said no.
    #[error("{name} is not defined; what you wrote is in {path}")]
    GivenUp {
        /// The domain.
        name: String,
        /// The file that is kept.
        path: PathBuf,
    },
    /// Standard input or output.
    #[error("Cannot use the terminal")]
    Terminal(#[source] io::Error),
}
