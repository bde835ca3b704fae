//! `-xenner key=value,...`: what QEMU has no option for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::error::CliError;
use super::keyval::{KeyVals, KeyvalError, parse_bool};
use super::{Listing, asks_help, merged};
use crate::config::{Flavour, HvLog, VmConfig, XenstoreSocket};

#[derive(Debug, Args)]
#[command(next_help_heading = "Xen options")]
pub(super) struct OwnOptions {
    /// Sets what QEMU has no option for ('-xenner help' explains the keys).
    #[arg(
        long,
        value_name = "[flavour=auto|hardware|pvm][,xenstore=PATH|on|off]\
                      [,hvlog=console|off|file:PATH|ID][,stats=on|off][,dumpdir=DIR]"
    )]
    xenner: Vec<OsString>,
}

/// The keys, for `-xenner help`.
const KEYS: [(&str, &str); 5] = [
    (
        "flavour=auto|hardware|pvm",
        "how KVM is taken to behave; auto (default) finds out, the others are for tests",
    ),
    (
        "xenstore=PATH|on|off",
        "unix socket for the tools of xenstore-utils (XENSTORED_PATH); on (default) puts it \
         into the run directory",
    ),
    (
        "hvlog=console|off|file:PATH|ID",
        "where early output of the kernel (console_io) goes: the console (default), nowhere, a \
         file, or the -chardev of this id",
    ),
    (
        "stats=on|off",
        "print hypercall and exit counts at the end (default off)",
    ),
    (
        "dumpdir=DIR",
        "keep a dump of a crashed domain in this directory",
    ),
];

impl OwnOptions {
    pub(super) fn listing(&self) -> Option<Listing> {
        self.xenner.iter().any(asks_help).then(|| Listing {
            title: "Keys of -xenner:",
            rows: KEYS.to_vec(),
        })
    }

    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let keys = merged("xenner", &self.xenner, "")?;
        apply_keys(keys, config).map_err(CliError::in_value("xenner"))
    }
}

fn apply_keys(mut keys: KeyVals, config: &mut VmConfig) -> Result<(), KeyvalError> {
    let flavours = [
        ("auto", Flavour::Auto),
        ("hardware", Flavour::Hardware),
        ("pvm", Flavour::Pvm),
    ];
    config.flavour = keys.take_word("flavour", &flavours)?.unwrap_or_default();
    config.xenstore = match keys.take_text("xenstore")? {
        None => XenstoreSocket::default(),
        Some(text) => match parse_bool(&text) {
            Some(true) => XenstoreSocket::RunDir,
            Some(false) => XenstoreSocket::Off,
            None if text.is_empty() => return Err(KeyvalError::NoValue("xenstore".to_owned())),
            None => XenstoreSocket::Path(text.into()),
        },
    };
    config.hvlog = match keys.take_text("hvlog")? {
        None => HvLog::default(),
        Some(text) => hvlog(&text)?,
    };
    config.stats = keys.take_bool("stats")?.unwrap_or(false);
    config.dumpdir = keys.take_text("dumpdir")?.map(PathBuf::from);
    keys.finish()
}

fn hvlog(text: &str) -> Result<HvLog, KeyvalError> {
    match (text, text.strip_prefix("file:")) {
        ("console", _) => Ok(HvLog::Console),
        ("off" | "none", _) => Ok(HvLog::Off),
        ("" | "file:", _) => Err(KeyvalError::Missing("hvlog", "file:PATH")),
        (_, Some(path)) => Ok(HvLog::File(path.into())),
        (id, None) => Ok(HvLog::Chardev(id.to_owned())),
    }
}
