//! Running other programs: with their output shown, or captured and kept for
//! the error message.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, Result};
use crate::ui::Spinner;

/// Lines of a failed program's output that go into the message.
const TAIL_LINES: usize = 15;

/// The command line as a user would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

fn start_error(command: &Command) -> impl FnOnce(std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    move |source| Error::Start { program, source }
}

fn failed(command: &Command, status: ExitStatus, output: &[u8]) -> Error {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|line| format!("\n    {line}"))
        .collect();
    Error::Failed {
        command: shown(command),
        status: status.to_string(),
        tail,
    }
}

/// Run with the user's terminal; give back how it ended.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().map_err(start_error(command))
}

/// Run with the user's terminal; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(command, status, b""))
    }
}

/// Run silently (a spinner says `what`); give back standard output. On failure
/// the end of both outputs is in the message.
pub fn capture(what: &str, command: &mut Command) -> Result<String> {
    let _spinner = Spinner::start(what);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(start_error(command))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let both = [output.stdout, output.stderr].concat();
    Err(failed(command, output.status, &both))
}

/// Is there a program of that name in `PATH`?
pub fn in_path(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// Is `file` a regular file with an execute bit?
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
