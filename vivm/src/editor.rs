//! The person's editor on a temporary file, and the questions that are asked on the terminal.

use std::fs;
use std::io::{self, BufRead};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use signal_hook::consts::{SIGINT, SIGQUIT};
use tempfile::NamedTempFile;

use crate::error::VivmError;

/// A file that is edited; it goes when this goes, unless it is [kept](Draft::keep).
#[derive(Debug)]
pub struct Draft {
    file: NamedTempFile,
    editor: String,
    /// Ctrl-C ends this program, as it does where nobody takes it.
    interruptible: Arc<AtomicBool>,
}

impl Draft {
    /// An empty file for a domain, that nobody else may read: there may be secrets in it.
    pub fn new(domain: &str) -> Result<Self, VivmError> {
        let plain =
            |letter: char| letter.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&letter);
        let name: String = domain
            .chars()
            .filter(|letter| plain(*letter))
            .take(64)
            .collect();
        let file = tempfile::Builder::new()
            .prefix(&format!("xenner-vivm-{name}-"))
            .suffix(".xml")
            .tempfile()
            .map_err(VivmError::Temporary)?;
        // From here on it is for the editor and for virsh, and shows by how they end.
        let interruptible = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGQUIT] {
            let condition = Arc::clone(&interruptible);
            signal_hook::flag::register_conditional_default(signal, condition)
                .map_err(VivmError::Terminal)?;
        }
        Ok(Self {
            file,
            editor: chosen(),
            interruptible,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes the file anew.
    pub fn write(&self, text: &str) -> Result<(), VivmError> {
        fs::write(self.path(), text).map_err(VivmError::Temporary)
    }

    /// Has the person edit this text; gives back what they left, none if they have not saved it.
    pub fn edit(&self, text: &str) -> Result<Option<String>, VivmError> {
        self.write(text)?;
        let before = self.touched(SystemTime::UNIX_EPOCH)?;
        let status = Command::new("sh")
            .args(["-c", "exec $XENNER_VIVM_EDITOR \"$1\"", "sh"])
            .arg(self.path())
            .env("XENNER_VIVM_EDITOR", &self.editor)
            .status();
        let editor = self.editor.clone();
        let status = match status {
            Ok(status) => status,
            Err(source) => return Err(VivmError::Editor { editor, source }),
        };
        if !status.success() {
            let status = match (status.code(), status.signal()) {
                (Some(code), _) => format!("status {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            };
            return Err(VivmError::EditorFailed { editor, status });
        }
        let path = self.path().to_owned();
        let left = fs::read(&path).map_err(|source| VivmError::Read { path, source })?;
        // What is not UTF-8 is seen when it is edited again.
        let left = String::from_utf8_lossy(&left).into_owned();
        Ok((left != text || self.modified()? != before).then_some(left))
    }

    /// Makes the file look as if it was last written then, so that a save shows however soon it comes.
    fn touched(&self, then: SystemTime) -> Result<SystemTime, VivmError> {
        let file = self.file.as_file();
        file.set_modified(then).map_err(VivmError::Temporary)?;
        self.modified()
    }

    fn modified(&self) -> Result<SystemTime, VivmError> {
        let file = fs::metadata(self.path()).and_then(|file| file.modified());
        file.map_err(VivmError::Temporary)
    }

    /// Asks whether what was not saved is to be defined; the end of standard input is a no.
    pub fn confirm(&self, domain: &str) -> Result<bool, VivmError> {
        self.interruptible.store(true, Ordering::SeqCst);
        let question = format!("Not saved. Define {domain} as converted? [y,n]: ");
        let answer = loop {
            match line(&question)?.as_deref() {
                Some("y" | "Y" | "yes") => break true,
                Some("n" | "N" | "no") | None => break false,
                Some(_) => {}
            }
        };
        self.interruptible.store(false, Ordering::SeqCst);
        Ok(answer)
    }

    /// Asks what is to be done until there is an answer; the end of standard input is a no. Ctrl-C ends
    /// this program here, and leaves the file.
    pub fn ask(&self) -> Result<Answer, VivmError> {
        eprintln!("What you wrote is in {}", self.path().display());
        self.interruptible.store(true, Ordering::SeqCst);
        let answer = answer();
        self.interruptible.store(false, Ordering::SeqCst);
        answer
    }

    /// Leaves the file where it is.
    pub fn keep(self) -> Result<PathBuf, VivmError> {
        let kept = self.file.keep();
        kept.map(|(_, path)| path)
            .map_err(|error| VivmError::Temporary(error.error))
    }
}

/// `$VISUAL`, `$EDITOR` or vi.
fn chosen() -> String {
    let set = |name| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    set("VISUAL")
        .or_else(|| set("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned())
}

/// What is to be done with what could not be defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Edit it again.
    Again,
    /// Define it as it is.
    Force,
    /// Give up.
    No,
}

/// A line that is typed as an answer; none at the end of standard input.
fn line(question: &str) -> Result<Option<String>, VivmError> {
    eprint!("{question}");
    let mut line = String::new();
    let count = io::stdin().lock().read_line(&mut line);
    if count.map_err(VivmError::Terminal)? == 0 {
        eprintln!();
        return Ok(None);
    }
    Ok(Some(line.trim().to_owned()))
}

fn answer() -> Result<Answer, VivmError> {
    loop {
        match line("Try again? [y,n,f,?]: ")?.as_deref() {
            Some("y" | "Y" | "yes") => return Ok(Answer::Again),
            Some("f" | "F") => return Ok(Answer::Force),
            Some("n" | "N" | "no") | None => return Ok(Answer::No),
            Some(_) => eprintln!(
                "y - edit it again\n\
                 n - give up; the file is kept\n\
                 f - define it as it is, without a check"
            ),
        }
    }
}
