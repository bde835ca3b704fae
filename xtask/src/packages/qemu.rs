//! The QEMU that the rig and the comparisons run: the machine's own where it
//! is new enough, else one unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::write_launcher;
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
        ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]
            .map(|dir| root.join(dir))
            .to_vec()
    }

    /// Its program file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The environment in which this QEMU finds its libraries.
    pub fn environment(&self) -> Vec<(String, String)> {
        let Some(tree) = &self.tree else {
            return Vec::new();
        };
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let modules = text(&tree.join("usr/lib/x86_64-linux-gnu/qemu"));
        let libraries: Vec<_> = self.libraries().iter().map(|dir| text(dir)).collect();
        vec![
            ("QEMU_MODULE_DIR".to_owned(), modules),
            ("LD_LIBRARY_PATH".to_owned(), libraries.join(":")),
        ]
    }

    /// Write a script `to` that runs it, so that its place need not be known.
    pub fn write_script(&self, to: &Path) -> Result<()> {
        let arguments = self.own_arguments();
        write_launcher(to, &self.program, &self.environment(), &arguments)
    }

    /// Where it finds its firmware, if not by itself.
    fn own_arguments(&self) -> Vec<String> {
        let dirs = self.firmware().into_iter();
        let dirs = dirs.filter(|_| self.tree.is_some());
        dirs.flat_map(|dir| ["-L".to_owned(), dir.to_string_lossy().into_owned()])
            .collect()
    }

    /// A command that starts it, firmware directories set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment()).args(self.own_arguments());
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
