//! Runs one domain from its configuration to its end.

use std::process::ExitCode;
use std::sync::Arc;

use thiserror::Error;

use crate::config::{Uuid, VmConfig};
use crate::domain::end::{End, ShutdownReason};
use crate::domain::{Domain, DomainConfig, DomainError};
use crate::kvm::vcpu::VcpuThreads;
use crate::kvm::{self, KvmError, probe};
use crate::loader::{self, LoaderError};

/// Why a domain could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel cannot be loaded.
    #[error("-kernel: {0}")]
    Kernel(#[from] LoaderError),
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The domain cannot be built.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The host gives no thread.
    #[error("The host gives no thread for a vcpu")]
    Thread(#[source] std::io::Error),
}

/// Runs the domain that `config` describes, and returns the process's exit code.
///
/// # Errors
///
/// What stands in the way of the domain, as one line for the user.
pub fn run(config: VmConfig) -> Result<ExitCode, RunError> {
    let kvm = kvm::open()?;
    let kernel = config.kernel.clone().unwrap_or_default();
    let image = loader::load(&kernel)?;
    let flavour = probe::flavour(&kvm, config.flavour)?;
    let domain_config = DomainConfig {
        kernel: &image,
        initrd: config.initrd.clone(),
        command_line: config.append.clone(),
        pages: config.memory.size / 4096,
        vcpus: config.vcpus.count,
        uuid: config.uuid.unwrap_or(Uuid([0; 16])),
    };
    let (domain, vcpus) = Domain::build(&kvm, flavour, &domain_config)?;
    drop(image);
    let domain = Arc::new(domain);
    domain.set_console_out(Box::new(|text| {
        use std::io::Write;
        let _ = std::io::stdout().write_all(text);
        let _ = std::io::stdout().flush();
    }));
    let mut ports = Vec::new();
    for port in Domain::PORTS {
        ports.push(domain.events.bind_backend(port));
    }
    let threads = VcpuThreads::start(&domain, vcpus, false).map_err(RunError::Thread)?;
    while !domain.end.is_over() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(threads);
    Ok(match domain.end.end() {
        Some(End::Shutdown(ShutdownReason::Poweroff)) => ExitCode::SUCCESS,
        other => {
            if let Some(End::Crash(report)) = &other {
                eprintln!("{report}");
            }
            ExitCode::FAILURE
        }
    })
}
