//! Fetching Debian packages through apt, without installing any: apt's own
//! verification, with lists and downloads kept in the project's cache, so that
//! it works without root and leaves the machine's package state alone.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::{capture, in_path};
use crate::ui;
use crate::workspace::{Workspace, make_dir, write_whole};

pub use archive::host_is_debian;

/// One view of the archive: some suites, and apt's lists for them.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    options: Vec<String>,
    release: Option<String>,
}

impl Apt {
    /// One Debian suite by itself (as `bookworm`), as a machine with no package
    /// installed sees it. Its security updates belong to it where `security` says so.
    pub fn for_suite(ws: &Workspace, suite: &str, security: bool) -> Result<Apt> {
        let archive = archive::Archive::find(ws)?;
        let dir = ws.cache_dir(&format!("apt/{suite}"))?;
        let status = dir.join("status");
        write_whole(&status, b"")?;
        let mut apt = Apt::with_sources(dir, &archive.sources(&[suite], security))?;
        apt.options
            .push(format!("Dir::State::status={}", status.display()));
        Ok(apt)
    }

    /// The running system's release, its installed packages counting as there.
    /// On Debian its backports are added and preferred for what is asked for.
    pub fn for_host(ws: &Workspace) -> Result<Apt> {
        let dir = ws.cache_dir("apt/host")?;
        if !host_is_debian() {
            return Apt::with_lists(dir);
        }
        let archive = archive::Archive::find(ws)?;
        let codename = archive::host_codename()?;
        let backports = format!("{codename}-backports");
        let sources = archive.sources(&[&codename, &backports], true);
        let mut apt = Apt::with_sources(dir, &sources)?;
        apt.release = Some(backports);
        Ok(apt)
    }

    fn with_sources(dir: PathBuf, sources: &str) -> Result<Apt> {
        let parts = dir.join("parts");
        make_dir(&parts)?;
        write_whole(&parts.join("xenner.sources"), sources.as_bytes())?;
        let mut apt = Apt::with_lists(dir)?;
        apt.options
            .push("Dir::Etc::sourcelist=/dev/null".to_owned());
        apt.options
            .push(format!("Dir::Etc::sourceparts={}", parts.display()));
        Ok(apt)
    }

    /// The sources file of a suite by itself, for other programs that take one.
    pub fn sources_file(&self) -> PathBuf {
        self.dir.join("parts/xenner.sources")
    }

    fn with_lists(dir: PathBuf) -> Result<Apt> {
        if in_path("apt-get").is_none() {
            return Err(Error::missing(
                "No apt-get on this machine",
                "the project's commands need Debian or a system derived from it",
            ));
        }
        let (lists, cache) = (dir.join("lists"), dir.join("cache"));
        make_dir(&lists.join("partial"))?;
        make_dir(&cache.join("archives/partial"))?;
        let options = vec![
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            // Root would hand downloads to a user who may not enter the cache.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // The lists are the project's own: the system's lock guards nothing here.
            "Debug::NoLocking=1".to_owned(),
        ];
        Ok(Apt {
            dir,
            options,
            release: None,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // apt-get's download command writes to the working directory.
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(&self.dir);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Bring the lists up to date.
    pub fn update(&self) -> Result<()> {
        capture("apt-get update", self.command("apt-get").arg("update")).map(drop)
    }

    /// The real kernel package behind a meta package such as `linux-image-amd64`.
    pub fn kernel_behind(&self, meta: &str) -> Result<String> {
        let text = capture(
            "apt-cache",
            self.command("apt-cache").args(["depends", meta]),
        )?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
            .ok_or_else(|| Error::Answer {
                program: "apt-cache depends",
                what: format!("{meta} depends on no kernel"),
            })
    }

    /// Download one package; give back its file.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        self.forget(package)?;
        let what = format!("downloading {package}");
        capture(&what, self.command("apt-get").args(["download", package]))?;
        let file = self.file_of(package)?.ok_or_else(|| Error::Answer {
            program: "apt-get download",
            what: format!("no file for {package}"),
        })?;
        describe(&file)?;
        Ok(file)
    }

    /// Download `package` and all that it needs and this machine has not
    /// installed; give back the files.
    pub fn download_with_dependencies(&self, package: &str) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command.args([
            "install",
            "--download-only",
            "--reinstall",
            "--no-install-recommends",
        ]);
        command.args(["--yes", "--quiet"]);
        if let Some(release) = &self.release {
            command.args(["-t", release]);
        }
        capture(&format!("downloading {package}"), command.arg(package))?;
        let files = debs_in(&self.dir.join("cache/archives"))?;
        for file in &files {
            describe(file)?;
        }
        Ok(files)
    }

    /// Remove older downloads of `package`.
    fn forget(&self, package: &str) -> Result<()> {
        while let Some(old) = self.file_of(package)? {
            fs::remove_file(&old).map_err(Error::file("remove", &old))?;
        }
        Ok(())
    }

    fn file_of(&self, package: &str) -> Result<Option<PathBuf>> {
        let prefix = format!("{package}_");
        Ok(debs_in(&self.dir)?.into_iter().find(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        }))
    }

    /// Remove downloaded package files: once unpacked they are only in the way.
    pub fn clean(&self) -> Result<()> {
        for dir in [self.dir.clone(), self.dir.join("cache/archives")] {
            for file in debs_in(&dir)? {
                fs::remove_file(&file).map_err(Error::file("remove", &file))?;
            }
        }
        Ok(())
    }
}

fn debs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::file("list", dir))?.path();
        if path.extension().is_some_and(|ext| ext == "deb") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Say which package file was fetched: name with version, and its SHA-256.
fn describe(deb: &Path) -> Result<()> {
    let sum = capture("sha256sum", Command::new("sha256sum").arg(deb))?;
    let sum = sum.split_whitespace().next().unwrap_or("?");
    let name = deb
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .replace("%3a", ":");
    ui::note(&format!("{name} sha256:{sum}"));
    Ok(())
}

/// Unpack a whole package under `into`.
pub fn unpack(deb: &Path, into: &Path) -> Result<()> {
    make_dir(into)?;
    capture(
        "unpacking",
        Command::new("dpkg-deb").arg("-x").arg(deb).arg(into),
    )
    .map(drop)
}

/// Unpack the members of a package that match any of `patterns` (tar's
/// wildcards) under `into`: a kernel package is 400 MB, of which 10 are wanted.
pub fn unpack_members(deb: &Path, into: &Path, patterns: &[&str]) -> Result<()> {
    make_dir(into)?;
    let script = "set -o pipefail; deb=$1 into=$2; shift 2; \
                  dpkg-deb --fsys-tarfile \"$deb\" | tar -x -C \"$into\" --wildcards \"$@\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "unpack"])
        .arg(deb)
        .arg(into)
        .args(patterns);
    capture("unpacking", &mut bash).map(drop)
}
