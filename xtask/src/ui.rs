//! What the user sees while a command works: one clear line a step, and on a
//! terminal a spinner while a silent program runs.

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Seconds since the command started.
pub fn elapsed() -> f64 {
    START.elapsed().as_secs_f64()
}

/// Announce a step: a line on standard error with the seconds since the start.
pub fn step(text: &str) {
    eprintln!("[{:5.1}s] {text}", elapsed());
}

/// A further line that belongs to the last step.
pub fn note(text: &str) {
    eprintln!("         {text}");
}

/// Shows that work goes on, until it is dropped.
pub struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// Start one that says `text`; silent when standard error is no terminal.
    pub fn start(text: &str) -> Spinner {
        if !std::io::stderr().is_terminal() {
            return Spinner(None);
        }
        let style = ProgressStyle::with_template("         {spinner} {msg} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Spinner(Some(bar))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
        // Nothing to do about a terminal that went away.
        let _ = std::io::stderr().flush();
    }
}
