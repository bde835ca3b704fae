//! The log: standard error or `-D FILE`, by the items of `-d`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use env_logger::{Builder, Target};
use log::LevelFilter;
use thiserror::Error;

use crate::config::{LOG_ITEMS, LogConfig};

#[cfg(test)]
mod tests;

/// The log cannot be opened.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file cannot be made.
    #[error("-D: {path}: Cannot be opened")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts the log. Warnings and notes always show; an item of `-d` adds its target's details.
///
/// # Errors
/// The file cannot be made.
pub fn start(config: &LogConfig, name: &str) -> Result<(), LogError> {
    // the only other caller would be a second domain in this process
    let _ = builder(config, name)?.try_init();
    Ok(())
}

fn builder(config: &LogConfig, name: &str) -> Result<Builder, LogError> {
    let mut builder = Builder::new();
    builder.filter_level(LevelFilter::Warn);
    for item in LOG_ITEMS.iter().filter(|i| config.items.contains(i.flag)) {
        for target in [item.name.to_owned(), format!("xenner::{}", item.name)] {
            builder.filter_module(&target, LevelFilter::Trace);
        }
    }
    if !config.items.is_empty() {
        builder.filter_module("xenner", LevelFilter::Info);
    }
    if let Some(path) = &config.file {
        let file = File::create(path).map_err(|source| LogError::File {
            path: path.clone(),
            source,
        })?;
        builder.target(Target::Pipe(Box::new(file)));
    }
    let prefix = if config.guest_name {
        format!("{name}: ")
    } else {
        String::new()
    };
    let timestamp = config.timestamp;
    builder.format(move |out, record| {
        if timestamp {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            write!(out, "{}.{:06} ", now.as_secs(), now.subsec_micros())?;
        }
        // a carriage return as well: the terminal may be raw
        writeln!(
            out,
            "{prefix}xenner: {}: {}\r",
            record.level().as_str().to_lowercase(),
            record.args()
        )
    });
    Ok(builder)
}

/// An error and what caused it, as one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
