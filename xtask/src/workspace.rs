//! Where things are: the source tree, cargo's target directory, the cache of
//! fetched packages, and the staged test assets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// The directories that every command works with.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The root of the source tree.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Fetched packages: `$XENNER_CACHE`, else `xenner` in the user's cache directory.
    pub cache: PathBuf,
}

impl Workspace {
    /// Find them out from cargo and the environment.
    pub fn locate() -> Result<Workspace> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .map(Path::to_path_buf)
            .ok_or_else(|| Error::missing("No workspace root", "run by `cargo xtask`"))?;
        let target = target_directory(&root)?;
        let cache = cache_directory()?;
        Ok(Workspace {
            root,
            target,
            cache,
        })
    }

    /// A cargo command that runs in the source tree.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        cargo
    }

    /// Where tests find kernels, initramfs and test kernels, all by fixed names.
    pub fn assets(&self) -> PathBuf {
        self.target.join("assets")
    }

    /// Where tests find the Debian image and what boots it.
    pub fn images(&self) -> PathBuf {
        self.target.join("images")
    }

    /// The release build of the program.
    pub fn xenner(&self) -> PathBuf {
        self.target.join("release").join("xenner")
    }

    /// `name` in the cache, as a directory that exists.
    pub fn cache_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.cache.join(name);
        make_dir(&dir)?;
        Ok(dir)
    }
}

fn target_directory(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let json = process::capture(
        "cargo metadata",
        Command::new(cargo).current_dir(root).args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version=1",
        ]),
    )?;
    let value: serde_json::Value = serde_json::from_str(&json).map_err(|error| Error::Answer {
        program: "cargo metadata",
        what: error.to_string(),
    })?;
    value["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Error::Answer {
            program: "cargo metadata",
            what: "no target_directory".to_owned(),
        })
}

fn cache_directory() -> Result<PathBuf> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    from("XENNER_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("xenner")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/xenner")))
        .ok_or_else(|| {
            Error::missing(
                "Neither XENNER_CACHE nor HOME is set",
                "set XENNER_CACHE to a directory",
            )
        })
}

/// Make `dir` and its parents.
pub fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::file("make the directory", dir))
}

/// Write `bytes` to `path` by way of a temporary name, so that no half-written
/// file is ever taken for a whole one.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = beside(path);
    fs::write(&new, bytes).map_err(Error::file("write", &new))?;
    fs::rename(&new, path).map_err(Error::file("rename to", path))
}

/// Hard-link or copy `from` to `to`, replacing what was there.
///
/// By a new name and a rename: copying onto a link of the same file would empty it, as would happen
/// where two commands do this at the same time.
pub fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    let new = beside(to);
    if new.symlink_metadata().is_ok() {
        fs::remove_file(&new).map_err(Error::file("replace", &new))?;
    }
    if fs::hard_link(from, &new).is_err() {
        fs::copy(from, &new)
            .map(drop)
            .map_err(Error::file("copy", from))?;
    }
    fs::rename(&new, to).map_err(Error::file("rename to", to))?;
    // renaming a link onto another link of the same file leaves both
    match fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &new)(e)),
        _ => Ok(()),
    }
}

/// A name in the same directory that no other process uses.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}
