//! Where xenner is, and GRUB for Xen; paths of the command line as libvirt takes them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::convert::Wishes;
use crate::error::VivmError;

/// GRUB for Xen, as Debian's package grub-xen-host has it.
const GRUB: &str = "/usr/lib/grub-xen/grub-x86_64-xen.bin";

/// What the command line and this machine say that the domain is to have. `remote` is the libvirt of
/// another machine, of whose files nothing is known.
pub fn wishes(args: &Args, remote: Option<String>) -> Result<Wishes, VivmError> {
    let emulator = match (&args.emulator, &remote) {
        (Some(path), Some(_)) => path.clone(),
        (Some(path), None) => checked(path)?,
        (None, Some(uri)) => return Err(VivmError::RemoteEmulator { uri: uri.clone() }),
        (None, None) => installed().ok_or(VivmError::NoEmulator)?,
    };
    let path = |option, path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => absolute(option, path).map(Some),
    };
    let grub = remote.is_none() && Path::new(GRUB).exists();
    Ok(Wishes {
        emulator: Some(absolute("--emulator", &emulator)?),
        kernel: path("--kernel", &args.kernel)?,
        initrd: path("--initrd", &args.initrd)?,
        cmdline: args.cmdline.clone(),
        grub: grub.then(|| GRUB.to_owned()),
    })
}

fn absolute(option: &'static str, path: &Path) -> Result<String, VivmError> {
    match path.to_str().filter(|_| path.is_absolute()) {
        Some(text) => Ok(text.to_owned()),
        None => Err(VivmError::BadPath {
            option,
            path: path.to_owned(),
        }),
    }
}

fn checked(path: &Path) -> Result<PathBuf, VivmError> {
    let problem = match fs::metadata(path) {
        _ if !path.is_absolute() => "is not an absolute path",
        Err(_) => "is not there",
        Ok(file) if !file.is_file() => "is no file",
        Ok(file) if file.permissions().mode() & 0o111 == 0 => "is not executable",
        Ok(_) => return Ok(path.to_owned()),
    };
    Err(VivmError::BadEmulator {
        path: path.to_owned(),
        problem,
    })
}

/// The xenner beside this program, or the first in PATH.
fn installed() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = beside.into_iter().chain(std::env::split_paths(&path));
    let mut files = dirs.map(|dir| dir.join("xenner"));
    files.find(|file| checked(file).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_is_a_program_by_its_whole_path() {
        let problem = |path: &str| checked(Path::new(path)).unwrap_err().to_string();
        assert!(problem("bin/sh").contains("is not an absolute path"));
        assert!(problem("/no/such").contains("is not there"));
        assert!(problem("/tmp").contains("is no file"));
        assert!(problem("/etc/passwd").contains("is not executable"));
        assert_eq!(checked(Path::new("/bin/sh")).unwrap(), Path::new("/bin/sh"));
        assert!(absolute("--kernel", Path::new("vmlinuz")).is_err());
    }
}
