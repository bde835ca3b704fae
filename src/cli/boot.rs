//! `-kernel`, `-initrd`, `-append`, `-boot` and `-rtc`: what the domain starts with.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::error::CliError;
use super::keyval::KeyVals;
use super::text;
use crate::config::{RtcBase, VmConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "Boot options")]
pub(super) struct BootOptions {
    /// Boots this kernel: a bzImage or ELF file with Xen's ELF notes, plain or
    /// compressed. Needed, except with -machine none.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Gives the kernel this file as its initial ram disk.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Gives the kernel this command line, at most 1023 bytes.
    #[arg(long, value_name = "TEXT")]
    append: Option<OsString>,

    /// Taken for QEMU's sake: a PV domain boots its -kernel.
    #[arg(long, value_name = "[order=]DRIVES[,menu=on|off][,strict=on|off]...")]
    boot: Vec<OsString>,

    /// Sets what the guest's wall clock starts from: the host's time in UTC
    /// (default) or local time, or a date like 2026-11-20T21:41:32.
    #[arg(
        long,
        value_name = "[base=]utc|localtime|DATE[,clock=host][,driftfix=none|slew]"
    )]
    rtc: Option<OsString>,
}

const BOOT_KEYS: [&str; 7] = [
    "order",
    "once",
    "menu",
    "strict",
    "splash",
    "splash-time",
    "reboot-timeout",
];

impl BootOptions {
    pub(super) fn apply(&self, config: &mut VmConfig) -> Result<(), CliError> {
        config.kernel.clone_from(&self.kernel);
        config.initrd.clone_from(&self.initrd);
        if let Some(append) = &self.append {
            config.append = text("append", append)?.to_owned();
        }
        for value in &self.boot {
            let in_value = CliError::in_value("boot");
            let mut keys =
                KeyVals::parse(text("boot", value)?, Some("order")).map_err(&in_value)?;
            keys.accept(&BOOT_KEYS);
            keys.finish().map_err(&in_value)?;
            config
                .notes
                .push("-boot: a PV domain boots its -kernel".to_owned());
        }
        self.apply_rtc(config)
    }

    fn apply_rtc(&self, config: &mut VmConfig) -> Result<(), CliError> {
        let Some(value) = &self.rtc else {
            return Ok(());
        };
        let in_value = CliError::in_value("rtc");
        let mut keys = KeyVals::parse(text("rtc", value)?, Some("base")).map_err(&in_value)?;
        let base = keys.take_text("base").map_err(&in_value)?;
        let hosts = [("host", ()), ("rt", ()), ("vm", ())];
        keys.take_word("clock", &hosts).map_err(&in_value)?;
        keys.take_word("driftfix", &[("none", ()), ("slew", ())])
            .map_err(&in_value)?;
        keys.finish().map_err(&in_value)?;
        config.rtc =
            match base.as_deref() {
                None | Some("utc") => RtcBase::Utc,
                Some("localtime") => RtcBase::LocalTime,
                Some(date) => RtcBase::At(parse_date(date).ok_or_else(|| {
                    CliError::Invalid {
                        option: "rtc",
                        value: date.to_owned(),
                        problem:
                            "is no base; write utc, localtime or a date like 2026-11-20T21:41:32"
                                .to_owned(),
                    }
                })?),
            };
        Ok(())
    }
}

/// `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS`, not before 1970, in seconds from 1970-01-01 00:00.
fn parse_date(text: &str) -> Option<i64> {
    let moment: DateTime = text.parse().ok()?;
    let second = moment.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    (second >= 0).then_some(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(parse_date("1970-01-01"), Some(0));
        assert_eq!(parse_date("2000-03-01T00:00:00"), Some(951_868_800));
        assert_eq!(parse_date("2026-11-20T21:41:32"), Some(1_795_210_892));
        assert_eq!(parse_date("2024-02-29"), Some(1_709_164_800));
        for bad in [
            "2023-02-29",
            "2026-13-01",
            "2026-11-20T24:00:00",
            "1969-01-01",
            "x",
            "",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }
}
