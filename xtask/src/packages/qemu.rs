//! The QEMU that the rig and the comparisons run: the machine's own where it
//! is new enough, else one unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt};
use crate::error::{Error, Result};
use crate::process::{capture, in_path};
use crate::ui;
use crate::workspace::Workspace;

const PROGRAM: &str = "qemu-system-x86_64";
/// Before this version TCG lets an IRET executed at CPL 3 read the stack with
/// supervisor rights, so that it faults while CR4.SMAP is set, as Xen PV
/// kernels do all the time.
const RIGHT_IRET: (u32, u32) = (9, 1);

/// A QEMU for x86 machines, and what it takes to start it.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    /// The tree it was unpacked to; `None` for an installed one.
    tree: Option<PathBuf>,
    /// Its version as (major, minor).
    pub version: (u32, u32),
}

impl Qemu {
    /// Find one that runs PV kernels right, or fetch one. Where the archive
    /// has only an older one, that is taken and works without SMAP.
    pub fn ensure(ws: &Workspace) -> Result<Qemu> {
        let installed = in_path(PROGRAM)
            .map(|program| Qemu::probe(program, None))
            .transpose()?;
        if let Some(qemu) = installed.clone().filter(Qemu::is_right) {
            return Ok(qemu);
        }
        let tree = ws.cache.join("qemu");
        let program = tree.join("usr/bin").join(PROGRAM);
        if program.exists()
            && let Ok(qemu) = Qemu::probe(program.clone(), Some(tree.clone()))
        {
            return Ok(qemu);
        }
        Qemu::fetch(ws, &tree)?;
        let fetched = Qemu::probe(program, Some(tree))?;
        // Prefer the installed one if fetching brought nothing newer.
        Ok(installed
            .filter(|qemu| qemu.version >= fetched.version)
            .unwrap_or(fetched))
    }

    fn fetch(ws: &Workspace, tree: &Path) -> Result<()> {
        ui::step("Fetching QEMU and the libraries it lacks here");
        let apt = Apt::for_host(ws)?;
        apt.update()?;
        apt.clean()?;
        let debs = apt.download_with_dependencies("qemu-system-x86")?;
        let scratch = tempfile::tempdir_in(&ws.cache).map_err(Error::file("make", &ws.cache))?;
        for deb in &debs {
            apt::unpack(deb, scratch.path())?;
        }
        if tree.exists() {
            std::fs::remove_dir_all(tree).map_err(Error::file("remove", tree))?;
        }
        let new = scratch.keep();
        std::fs::rename(&new, tree).map_err(Error::file("move to", tree))?;
        apt.clean()
    }

    fn probe(program: PathBuf, tree: Option<PathBuf>) -> Result<Qemu> {
        let mut qemu = Qemu {
            program,
            tree,
            version: (0, 0),
        };
        let text = capture("qemu --version", qemu.command().arg("--version"))?;
        qemu.version = parse_version(&text).ok_or_else(|| Error::Answer {
            program: PROGRAM,
            what: format!("no version in {text:?}"),
        })?;
        Ok(qemu)
    }

    /// Does its TCG execute IRET at CPL 3 right?
    fn is_right(&self) -> bool {
        self.version >= RIGHT_IRET
    }

    /// The processor model for a TCG machine that runs PV kernels inside.
    pub fn tcg_cpu(&self) -> &'static str {
        if self.is_right() { "max" } else { "max,-smap" }
    }

    /// The directories with its shared libraries, for `LD_LIBRARY_PATH`.
    fn libraries(&self) -> Vec<PathBuf> {
        let below = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        self.tree
            .iter()
            .flat_map(|tree| below.map(|dir| tree.join(dir)))
            .collect()
    }

    /// Directories with its firmware, in order of search.
    pub fn firmware(&self) -> Vec<PathBuf> {
        let root = self.tree.clone().unwrap_or_else(|| PathBuf::from("/"));
        ["usr/share/qemu", "usr/share/seabios"]
            .map(|dir| root.join(dir))
            .to_vec()
    }

    /// Its program file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Give `command` the environment in which this QEMU finds its libraries.
    pub fn set_environment(&self, command: &mut Command) {
        if let Some(tree) = &self.tree {
            let modules = tree.join("usr/lib/x86_64-linux-gnu/qemu");
            command.env("QEMU_MODULE_DIR", modules);
            if let Ok(path) = std::env::join_paths(self.libraries()) {
                command.env("LD_LIBRARY_PATH", path);
            }
        }
    }

    /// A command that starts it, firmware directories set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        self.set_environment(&mut command);
        if self.tree.is_some() {
            for dir in self.firmware() {
                command.arg("-L").arg(dir);
            }
        }
        command
    }
}

/// `QEMU emulator version 10.0.2 (...)` to `(10, 0)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let rest = text.split("version ").nth(1)?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn version_is_read() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003";
        assert_eq!(parse_version(text), Some((10, 0)));
        assert_eq!(parse_version("nothing"), None);
    }
}
