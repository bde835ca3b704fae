//! Runs one domain from its configuration to its end.

use std::process::ExitCode;

use thiserror::Error;

use crate::config::VmConfig;

/// Why a domain could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The parts below the command line are not connected yet.
    #[error("-kernel: This build reads its command line and cannot run a domain yet")]
    NotWired,
}

/// Runs the domain that `config` describes, and returns the process's exit code.
///
/// # Errors
///
/// What stands in the way of the domain, as one line for the user.
pub fn run(_config: VmConfig) -> Result<ExitCode, RunError> {
    Err(RunError::NotWired)
}
