//! Programs that tests and benchmarks run on this machine: its own where it has
//! them, else unpacked into the cache with the libraries that are missing here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt};
use crate::error::{Error, Result};
use crate::process::{capture, in_path};
use crate::ui;
use crate::workspace::{Workspace, write_whole};

/// A program of this machine.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its file.
    pub program: PathBuf,
    /// Directories with its libraries, where they are not the machine's.
    libraries: Vec<PathBuf>,
}

/// qemu-img, for images that are not raw.
pub fn qemu_img(ws: &Workspace) -> Result<Tool> {
    tool(ws, "qemu-img", "qemu-utils")
}

/// qemu-io, the other user of images in tests.
pub fn qemu_io(ws: &Workspace) -> Result<Tool> {
    tool(ws, "qemu-io", "qemu-utils")
}

/// One of Debian's programs for the xenstore.
pub fn xenstore_program(ws: &Workspace, name: &str) -> Result<Tool> {
    tool(ws, name, "xenstore-utils")
}

/// iperf3, the other end of network tests.
pub fn iperf3(ws: &Workspace) -> Result<Tool> {
    tool(ws, "iperf3", "iperf3")
}

/// ethtool, to switch a network device's offloads.
pub fn ethtool(ws: &Workspace) -> Result<Tool> {
    tool(ws, "ethtool", "ethtool")
}

impl Tool {
    /// The directories for `LD_LIBRARY_PATH`, empty for an installed program.
    pub fn library_path(&self) -> String {
        let dirs: Vec<_> = self
            .libraries
            .iter()
            .map(|dir| dir.to_string_lossy())
            .collect();
        dirs.join(":")
    }

    /// Whether all are there: this machine had some itself when the tree was made, and may have lost them.
    fn has_its_libraries(&self) -> bool {
        let mut ldd = Command::new("ldd");
        ldd.arg(&self.program)
            .env("LD_LIBRARY_PATH", self.library_path());
        capture("ldd", &mut ldd).is_ok_and(|list| !list.contains("not found"))
    }

    /// Write a script `to` that runs it, so that its place need not be known.
    pub fn write_script(&self, to: &Path) -> Result<()> {
        let path = self.library_path();
        let libraries = [("LD_LIBRARY_PATH".to_owned(), path)];
        let environment = if self.libraries.is_empty() {
            &[][..]
        } else {
            &libraries
        };
        write_launcher(to, &self.program, environment, &[])
    }
}

/// Write a script `to` that runs `program` with this environment and these arguments before its own.
pub fn write_launcher(
    to: &Path,
    program: &Path,
    environment: &[(String, String)],
    arguments: &[String],
) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in environment {
        script.push_str(&format!("{name}={} ", quoted(value)));
    }
    script.push_str(&format!("exec {}", quoted(&program.to_string_lossy())));
    for argument in arguments {
        script.push_str(&format!(" {}", quoted(argument)));
    }
    script.push_str(" \"$@\"\n");
    write_whole(to, script.as_bytes())?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755))
        .map_err(Error::file("make executable", to))
}

fn tool(ws: &Workspace, name: &str, package: &str) -> Result<Tool> {
    if let Some(program) = in_path(name) {
        return Ok(Tool {
            program,
            libraries: Vec::new(),
        });
    }
    let tree = ws.cache.join(package);
    let kept = unpacked(&tree, name);
    if let Some(tool) = kept.filter(Tool::has_its_libraries) {
        return Ok(tool);
    }
    fetch(ws, package, &tree)?;
    unpacked(&tree, name).ok_or_else(|| Error::Answer {
        program: "dpkg-deb",
        what: format!("no {name} in {package}"),
    })
}

/// The program `name` in a tree of the cache.
fn unpacked(tree: &Path, name: &str) -> Option<Tool> {
    let below = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
    let places = ["usr/bin", "usr/sbin", "sbin"].map(|dir| tree.join(dir).join(name));
    Some(Tool {
        program: places.into_iter().find(|file| file.exists())?,
        libraries: below.map(|dir| tree.join(dir)).to_vec(),
    })
}

fn fetch(ws: &Workspace, package: &str, tree: &Path) -> Result<()> {
    ui::step(&format!("Fetching {package}"));
    let apt = Apt::for_host(ws)?;
    apt.update()?;
    apt.clean()?;
    let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
    for deb in &apt.download_with_dependencies(package)? {
        apt::unpack(deb, scratch.path())?;
    }
    if tree.exists() {
        std::fs::remove_dir_all(tree).map_err(Error::file("remove", tree))?;
    }
    std::fs::rename(scratch.keep(), tree).map_err(Error::file("move to", tree))?;
    apt.clean()
}
