//! A guest under test with its console on a pseudo-terminal: type, wait for a
//! text, wait for the end. Whatever happens, no process stays behind.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::PATIENCE;
use libtest_mimic::Failed;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What the guest's shell shows when it waits.
pub const PROMPT: &str = "xenner:/root# ";

/// Lines of a guest's kernel log that mean trouble, whatever the test.
const TROUBLE: &str = "WARNING: CPU|BUG:|Oops|Call Trace|general protection|segfault|soft lockup|\
                       rcu.*stall";

/// Who waits no longer than this may well try again.
const A_TRY: Duration = Duration::from_secs(5);

/// How much of the console goes into a failure's message.
const SHOWN: usize = 3000;

#[derive(Default)]
struct Output {
    text: Mutex<Vec<u8>>,
    more: Condvar,
}

/// A running xenner.
pub struct Session {
    child: Child,
    terminal: File,
    output: Arc<Output>,
    /// Up to here the output has been waited for.
    seen: usize,
    started: Instant,
}

impl Session {
    /// Start the command with its standard streams on a new terminal.
    pub fn start(command: &mut Command) -> Result<Session, Failed> {
        let (terminal, other_end) = terminal()?;
        let handle = || other_end.try_clone();
        command.stdin(handle()?).stdout(handle()?).stderr(handle()?);
        let child = command.spawn()?;
        // The command keeps its streams open while it lives, which could
        // outlast this session.
        command.stdin(std::process::Stdio::null());
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let output = Arc::new(Output::default());
        spawn_reader(terminal.try_clone()?, Arc::clone(&output));
        Ok(Session {
            child,
            terminal,
            output,
            seen: 0,
            started: Instant::now(),
        })
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Type something.
    pub fn send(&mut self, text: &str) -> Result<(), Failed> {
        Ok(self.terminal.write_all(text.as_bytes())?)
    }

    /// Wait until `wanted` appears after what was waited for before; give back
    /// the text up to it, without carriage returns.
    pub fn expect(&mut self, wanted: &str, patience: Duration) -> Result<String, Failed> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(text) = self.advance_past(wanted) {
                return Ok(text);
            }
            if let Some(status) = self.child.try_wait()? {
                // What it wrote last may still be on its way.
                std::thread::sleep(Duration::from_millis(100));
                return self
                    .advance_past(wanted)
                    .ok_or_else(|| self.failure(&format!("ended ({status}) without {wanted:?}")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let mut what = format!("no {wanted:?} within {patience:?}");
                if patience > A_TRY {
                    what = format!("{what}\n{}", super::state::of(self.pid()));
                }
                return Err(self.failure(&what));
            }
            self.wait_for_more(left.min(Duration::from_millis(200)));
        }
    }

    fn advance_past(&mut self, wanted: &str) -> Option<String> {
        let text = self.output.text.lock().expect("the reader does not panic");
        let new = &text[self.seen..];
        let at = new
            .windows(wanted.len())
            .position(|part| part == wanted.as_bytes())?;
        let end = at + wanted.len();
        let found = String::from_utf8_lossy(&new[..end]).into_owned();
        self.seen += end;
        Some(found)
    }

    fn wait_for_more(&self, limit: Duration) {
        let text = self.output.text.lock().expect("the reader does not panic");
        let before = text.len();
        let result = self
            .output
            .more
            .wait_timeout_while(text, limit, |text| text.len() == before);
        drop(result.expect("the reader does not panic"));
    }

    /// At the shell's prompt: type a command, wait for the next prompt, give
    /// back what the command printed. It fails the test unless its exit status is 0.
    pub fn shell(&mut self, command: &str, patience: Duration) -> Result<String, Failed> {
        // The marks are written so that their echo is not taken for them.
        self.send(&format!(
            "echo @@$((40 + 1)); {command}; echo @@$((40 + 2))=$?\r"
        ))?;
        self.expect("@@41\n", patience)?;
        let text = self.expect("@@42=", patience)?;
        let status = self.expect("\n", patience)?;
        self.expect(PROMPT, patience)?;
        if status.trim() != "0" {
            return Err(self.failure(&format!("{command:?} gave exit status {}", status.trim())));
        }
        Ok(text.trim_end_matches("@@42=").trim().to_owned())
    }

    /// What the shell's command prints has to be this.
    pub fn says(&mut self, command: &str, wanted: &str, patience: Duration) -> Result<(), Failed> {
        let text = self.shell(command, patience)?;
        if text == wanted {
            Ok(())
        } else {
            Err(self.failure(&format!("{command:?} says {text:?}, not {wanted:?}")))
        }
    }

    /// Log in to the Debian image as root when its prompt comes, to a shell that
    /// [`Session::shell`] knows; tells how long that took.
    pub fn log_in(&mut self, patience: Duration) -> Result<(), Failed> {
        let start = Instant::now();
        self.expect("debian login: ", patience)?;
        self.send("root\r")?;
        self.expect("Password: ", PATIENCE)?;
        self.send("xenner\r")?;
        self.expect("root@debian:~# ", PATIENCE)?;
        // Its echo is not to be taken for the prompt.
        self.send("export PS1='xenner:''/root# ' TERM=dumb; exec sh\r")?;
        self.expect(PROMPT, PATIENCE)?;
        eprintln!("logged in after {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The guest's kernel log has no line that matches `trouble` (a regular expression) or one of
    /// the patterns that mean trouble everywhere.
    pub fn quiet_log(&mut self, trouble: &str) -> Result<(), Failed> {
        let command = format!("dmesg | grep -E '{TROUBLE}|{trouble}' || true");
        let log = self.shell(&command, PATIENCE)?;
        if log.is_empty() {
            Ok(())
        } else {
            Err(self.failure(&format!("dmesg has:\n{log}")))
        }
    }

    /// Wait for the end of the process.
    pub fn end(&mut self, patience: Duration) -> Result<ExitStatus, Failed> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(self.failure(&format!("did not end within {patience:?}")))
    }

    /// Wait for the end, which must come with this exit code.
    pub fn end_with(&mut self, code: i32, patience: Duration) -> Result<(), Failed> {
        let status = self.end(patience)?;
        if status.code() == Some(code) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
        Err(self.failure(&format!("{status}, not exit code {code}")))
    }

    /// End the process at once, as a machine's failure would; what it had
    /// written to the console is read to the end.
    pub fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// All of the console so far, without carriage returns.
    pub fn console(&self) -> String {
        let text = self.output.text.lock().expect("the reader does not panic");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A failure that shows the end of the console.
    pub fn failure(&self, what: &str) -> Failed {
        let console = self.console();
        let mut start = console.len().saturating_sub(SHOWN);
        while !console.is_char_boundary(start) {
            start += 1;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        format!(
            "after {seconds:.1} s: {what}; the console ends:\n{}",
            &console[start..]
        )
        .into()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Both only fail if it has just ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A pseudo-terminal: our end and the other.
fn terminal() -> Result<(File, OwnedFd), Failed> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let ours = openpt(flags | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let other = File::options()
        .read(true)
        .write(true)
        .open(name.to_str()?)?;
    Ok((ours.into(), other.into()))
}

fn spawn_reader(mut from: File, output: Arc<Output>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // The terminal reports an error once its other end is closed.
        while let Ok(count) = from.read(&mut bytes)
            && count > 0
        {
            let mut text = output.text.lock().expect("nobody panics with it");
            // How many a line's end has depends on the terminal's settings.
            text.extend(bytes[..count].iter().filter(|&&byte| byte != b'\r'));
            output.more.notify_all();
        }
    });
}
