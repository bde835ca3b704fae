//! mmdebstrap, which makes a whole Debian tree from the archive: as root, in a
//! user namespace, or under fakechroot. It is not installed.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::tree;
use crate::error::Result;
use crate::workspace::Workspace;

/// What nobody reads in the machine of a test: dpkg leaves it out.
pub const LEFT_OUT: [&str; 4] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
];

/// A command that makes an archive (tar) of a tree with these packages, named with
/// commas between them, and what they need. The suite, the archive's file and a sources file are the
/// arguments that it lacks.
pub fn bootstrap(ws: &Workspace, packages: &str) -> Result<Command> {
    let program = tree(ws, "mmdebstrap", &["mmdebstrap"])?.join("usr/bin/mmdebstrap");
    // In Perl.
    let mut command = Command::new("perl");
    command
        .arg(&program)
        .env("PATH", with_directory_of(&program));
    command.args(["--variant=minbase", "--format=tar", "--architectures=amd64"]);
    command.arg(format!("--include={packages}"));
    for option in LEFT_OUT.iter().chain(&["force-unsafe-io"]) {
        command.arg(format!("--dpkgopt={option}"));
    }
    Ok(command)
}

/// `PATH` with the directory of `program` before it: mmdebstrap has helpers beside it.
fn with_directory_of(program: &Path) -> OsString {
    let mut path = program.parent().unwrap_or(program).as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}
