//! libvirt, by its own client `virsh` in PATH.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::error::VivmError;

/// The libvirt that is asked.
#[derive(Debug)]
pub struct Virsh {
    uri: Option<String>,
}

impl Virsh {
    /// By a connection, or virsh's own default.
    pub fn new(uri: Option<&str>) -> Self {
        let uri = uri.map(str::to_owned);
        Self { uri }
    }

    /// The connection's name if it is another machine's.
    pub fn remote(&self) -> Option<String> {
        let own = self.uri.clone();
        let uri = own.or_else(|| std::env::var("LIBVIRT_DEFAULT_URI").ok())?;
        is_remote(&uri).then_some(uri)
    }

    /// A domain's lasting XML, with its secrets.
    pub fn dump(&self, domain: &str) -> Result<String, VivmError> {
        let words = [
            "dumpxml",
            "--inactive",
            "--security-info",
            "--domain",
            domain,
        ];
        self.run(&words.map(OsStr::new))
    }

    /// Defines what is in a file; `validate` has libvirt check it against its schema first.
    pub fn define(&self, file: &Path, validate: bool) -> Result<(), VivmError> {
        let mut words = vec![OsStr::new("define"), OsStr::new("--file"), file.as_os_str()];
        if validate {
            words.push(OsStr::new("--validate"));
        }
        self.run(&words).map(drop)
    }

    fn run(&self, words: &[&OsStr]) -> Result<String, VivmError> {
        let mut virsh = Command::new("virsh");
        if let Some(uri) = &self.uri {
            virsh.arg("--connect").arg(uri);
        }
        let output = virsh.args(words).output().map_err(VivmError::NoVirsh)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines = errors
            .lines()
            .map(|line| line.trim_start_matches("error: ").trim());
        let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        let mut message = lines.join("; ");
        if message.is_empty() {
            message = output.status.to_string();
        }
        let command = words[0].to_string_lossy().into_owned();
        Err(VivmError::Virsh { command, message })
    }
}

/// `driver+transport://user@host/path`: one with a host is another machine's.
fn is_remote(uri: &str) -> bool {
    let host = uri.split_once("://").map(|(_, rest)| rest);
    let host = host.and_then(|rest| rest.split(['/', '?']).next());
    host.is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_with_a_host_are_remote() {
        for uri in [
            "qemu:///system",
            "qemu+unix:///session?socket=/a/b",
            "test",
            "xen:///",
        ] {
            assert!(!is_remote(uri), "{uri}");
        }
        for uri in [
            "qemu+ssh://root@example.org/system",
            "qemu://host/system",
            "xen+tls://h",
        ] {
            assert!(is_remote(uri), "{uri}");
        }
    }
}
