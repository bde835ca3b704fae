//! An archive for an initramfs with programs of this machine in `/bin` and the
//! shared libraries that they need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::error::Result;
use crate::packages::Tool;
use crate::process::capture;

/// glibc loads this by name when a thread is cancelled, so that ldd is silent on it.
const UNWINDER: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

/// Variables of the environment in which a program finds its libraries.
pub type Environment = [(String, String)];

/// The archive while it is put together.
#[derive(Debug)]
pub struct Programs {
    /// For what else goes into it.
    pub archive: Archive,
    placed: BTreeSet<String>,
}

impl Programs {
    /// An empty one.
    pub fn new() -> Programs {
        Programs {
            archive: Archive::new(),
            placed: BTreeSet::new(),
        }
    }

    /// Add a program of this machine, with its libraries.
    pub fn program(&mut self, file: &Path) -> Result<()> {
        self.program_with(file, &[])
    }

    /// Add a tool that may have libraries of its own.
    pub fn tool(&mut self, tool: &Tool) -> Result<()> {
        let path = ("LD_LIBRARY_PATH".to_owned(), tool.library_path());
        self.program_with(&tool.program, &[path])
    }

    /// Add a program that finds its libraries in this environment.
    pub fn program_with(&mut self, file: &Path, environment: &Environment) -> Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let inside = format!("bin/{name}");
        if self.placed.insert(inside.clone()) {
            self.archive.program(&inside, file)?;
            self.libraries(file, environment)?;
        }
        Ok(())
    }

    /// Add the libraries that ldd names for `file`, where the loader looks for
    /// them by default.
    pub fn libraries(&mut self, file: &Path, environment: &Environment) -> Result<()> {
        let mut ldd = Command::new("ldd");
        ldd.arg(file).envs(environment.iter().map(|(k, v)| (k, v)));
        // A static program makes ldd fail: it needs none.
        let text = capture("ldd", &mut ldd).unwrap_or_default();
        let mut libraries = library_paths(&text);
        if !libraries.is_empty() && Path::new(UNWINDER).exists() {
            libraries.push(UNWINDER.into());
        }
        for library in libraries {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            let inside = if name.starts_with("ld-linux") {
                format!("lib64/{name}")
            } else {
                format!("lib/x86_64-linux-gnu/{name}")
            };
            if self.placed.insert(inside.clone()) {
                self.archive.program(&inside, &library)?;
            }
        }
        Ok(())
    }
}

/// The files in ldd's output: `name => /path (0x...)` and `/path (0x...)`.
fn library_paths(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
            let path = path.split(" (").next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::library_paths;

    #[test]
    fn ldd_lines_are_read() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x2)\n\tlibz.so => not found\n";
        let paths = library_paths(text);
        assert_eq!(paths.len(), 2);
        assert!(paths[0].ends_with("lib/libc.so.6"));
        assert!(paths[1].ends_with("ld-linux-x86-64.so.2"));
    }
}
