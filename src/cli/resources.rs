//! `-m` and `-smp`: how much memory and how many vcpus.

use std::ffi::OsString;

use clap::Args;

use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError};
use super::{merged, text};
use crate::config::{MIB, MemoryConfig, PAGE_SIZE, VcpuConfig, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Standard options")]
pub(super) struct ResourceOptions {
    /// Sets the guest's memory, in MiB or with a suffix K, M, G or T; from 32
    /// MiB to 512 GiB, 512 MiB if not given. maxmem is the most that it may
    /// ever have.
    #[arg(long = "m", value_name = "[size=]SIZE[,slots=N,maxmem=SIZE]")]
    memory: Option<OsString>,

    /// Sets the number of vcpus, 1 to 128, 1 if not given. maxcpus is the most
    /// there may ever be: a monitor plugs the others in and out (device_add,
    /// device_del). sockets, cores and threads say how they are arranged.
    #[arg(
        long,
        value_name = "[cpus=]N[,maxcpus=N][,sockets=N][,cores=N][,threads=N]"
    )]
    smp: Vec<OsString>,
}

impl ResourceOptions {
    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        if let Some(value) = &self.memory {
            config.memory = memory(text("m", value)?).map_err(CliError::in_value("m"))?;
            if config.memory.maximum > config.memory.size {
                config
                    .notes
                    .push("-m: maxmem is kept; memory is not plugged in at run time".into());
            }
        }
        if !self.smp.is_empty() {
            let keys = merged("smp", &self.smp, "cpus")?;
            config.vcpus = vcpus(keys).map_err(CliError::in_value("smp"))?;
        }
        Ok(())
    }
}

/// A size without a suffix is in MiB, `maxmem` in bytes: QEMU's units.
fn memory(value: &str) -> Result<MemoryConfig, KeyvalError> {
    let mut keys = KeyVals::parse(value, Some("size"))?;
    let size = keys.take_size("size", MIB)?.map(whole_pages);
    let maximum = keys.take_size("maxmem", 1)?.map(whole_pages);
    let slots = keys.take_number("slots")?.unwrap_or(0);
    keys.finish()?;
    let default = MemoryConfig::default();
    let size = size.unwrap_or(default.size);
    Ok(MemoryConfig {
        size,
        maximum: maximum.unwrap_or(size),
        slots,
    })
}

/// Rounds up to whole pages, as QEMU does; at the very top, down.
fn whole_pages(bytes: u64) -> u64 {
    bytes
        .checked_next_multiple_of(PAGE_SIZE)
        .unwrap_or(u64::MAX - (PAGE_SIZE - 1))
}

/// Fills in what is not given the way QEMU 6.2 and later do: one socket and
/// one thread, and as many cores as it takes.
fn vcpus(mut keys: KeyVals) -> Result<VcpuConfig, KeyvalError> {
    let count = keys.take_number::<u32>("cpus")?;
    let maximum = keys.take_number::<u32>("maxcpus")?;
    let sockets = keys.take_number::<u32>("sockets")?;
    let cores = keys.take_number::<u32>("cores")?;
    let threads = keys.take_number::<u32>("threads")?;
    for single in ["dies", "clusters", "modules", "books", "drawers"] {
        one_only(&mut keys, single)?;
    }
    keys.finish()?;
    let product = |factors: &[u32]| {
        let product = factors
            .iter()
            .fold(1, |product: u64, n| product.saturating_mul(u64::from(*n)));
        u32::try_from(product).unwrap_or(u32::MAX)
    };
    let all = product(&[
        sockets.unwrap_or(1),
        cores.unwrap_or(1),
        threads.unwrap_or(1),
    ]);
    let maximum = maximum.or(count).unwrap_or(all);
    let share = |rest: &[u32]| (maximum / product(rest).max(1)).max(1);
    let threads_or_one = threads.unwrap_or(1);
    let (sockets, cores, threads) = match (sockets, cores, threads) {
        (sockets, None, _) => {
            let sockets = sockets.unwrap_or(1);
            (sockets, share(&[sockets, threads_or_one]), threads_or_one)
        }
        (None, Some(cores), _) => (share(&[cores, threads_or_one]), cores, threads_or_one),
        (Some(sockets), Some(cores), None) => (sockets, cores, share(&[sockets, cores])),
        (Some(sockets), Some(cores), Some(threads)) => (sockets, cores, threads),
    };
    Ok(VcpuConfig {
        count: count.unwrap_or(maximum),
        maximum,
        sockets,
        cores,
        threads,
    })
}

/// Levels of QEMU's topology that a PC does not have: one of each, or none.
fn one_only(keys: &mut KeyVals, key: &'static str) -> Result<(), KeyvalError> {
    match keys.take_number::<u32>(key)? {
        None | Some(1) => Ok(()),
        Some(other) => Err(KeyvalError::Invalid {
            key: key.to_owned(),
            value: other.to_string(),
            expected: "more than one is not supported; write 1 or leave it out".to_owned(),
        }),
    }
}
