//! Where Debian's archive is, as this machine's own configuration knows it.
//! No address stands in the project: it comes from apt's sources, from the
//! distribution templates of package python-apt-common (on Ubuntu), or from
//! `XENNER_DEBIAN_MIRROR`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::capture;
use crate::ui;
use crate::workspace::Workspace;

/// Overrides the archive's address.
const MIRROR_VARIABLE: &str = "XENNER_DEBIAN_MIRROR";
/// Debian's entry among python-apt's templates.
const TEMPLATE: &str = "usr/share/python-apt/templates/Debian.info";
/// Names under which Debian's archive keyring is installed.
const KEYRINGS: [&str; 2] = [
    "usr/share/keyrings/debian-archive-keyring.gpg",
    "usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Debian's archive: its addresses and the keyring that signs it.
#[derive(Debug)]
pub struct Archive {
    main: String,
    security: Option<(String, String)>,
    keyring: PathBuf,
}

impl Archive {
    /// Find out where it is.
    pub fn find(ws: &Workspace) -> Result<Archive> {
        let (mut main, mut security) = (None, None);
        if host_is_debian() {
            let codename = host_codename()?;
            let release = format!("{codename}-security");
            let targets = host_targets()?;
            let address = |wanted: &str| {
                targets
                    .iter()
                    .find(|(_, suite)| suite == wanted)
                    .map(|(uri, _)| uri.clone())
            };
            main = address(&codename).or_else(|| address("stable"));
            security = address(&release).map(|uri| (uri, release));
        }
        if let Some(mirror) = std::env::var(MIRROR_VARIABLE)
            .ok()
            .filter(|m| !m.is_empty())
        {
            main = Some(mirror);
        }
        let main = match main {
            Some(main) => main,
            None => template_address(ws)?,
        };
        Ok(Archive {
            main,
            security,
            keyring: keyring(ws)?,
        })
    }

    /// A deb822 sources file for these suites.
    pub fn sources(&self, suites: &[&str], security: bool) -> String {
        let mut text = self.stanza(&self.main, &suites.join(" "));
        if let (true, Some((uri, suite))) = (security, &self.security)
            && suites.contains(&suite.trim_end_matches("-security"))
        {
            text.push('\n');
            text.push_str(&self.stanza(uri, suite));
        }
        text
    }

    fn stanza(&self, uri: &str, suites: &str) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main"
        );
        let _ = writeln!(
            text,
            "Architectures: amd64\nSigned-By: {}",
            self.keyring.display()
        );
        text
    }
}

fn os_release(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// Is this Debian itself (and not a system derived from it)?
pub fn host_is_debian() -> bool {
    os_release("ID").as_deref() == Some("debian")
}

/// The running release's code name, as `bookworm`.
pub fn host_codename() -> Result<String> {
    os_release("VERSION_CODENAME").ok_or_else(|| {
        Error::missing(
            "No VERSION_CODENAME in /etc/os-release",
            "use a Debian or Ubuntu release",
        )
    })
}

/// Address and suite of each binary index in apt's sources, whether or not apt
/// has ever fetched its lists.
fn host_targets() -> Result<Vec<(String, String)>> {
    let text = capture(
        "apt-get indextargets",
        Command::new("apt-get").args([
            "indextargets",
            "--no-release-info",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
        ]),
    )?;
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// The file `name` of the system, or of `package` fetched from the system's
/// own archive.
fn system_file(ws: &Workspace, package: &str, names: &[&str]) -> Result<PathBuf> {
    let local = ws.cache.join("host-tree");
    for root in [Path::new("/"), &local] {
        if let Some(found) = names
            .iter()
            .map(|n| root.join(n))
            .find(|path| path.exists())
        {
            return Ok(found);
        }
    }
    ui::step(&format!("Fetching {package}"));
    let apt = super::Apt::with_lists(ws.cache_dir("apt/host")?)?;
    apt.update()?;
    super::unpack(&apt.download(package)?, &local)?;
    names
        .iter()
        .map(|name| local.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| {
            Error::missing(
                format!("Package {package} holds no {}", names[0]),
                format!("set {MIRROR_VARIABLE} or install that file"),
            )
        })
}

fn keyring(ws: &Workspace) -> Result<PathBuf> {
    system_file(ws, "debian-archive-keyring", &KEYRINGS)
}

fn template_address(ws: &Workspace) -> Result<String> {
    let path = system_file(ws, "python-apt-common", &[TEMPLATE])?;
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let address = text.lines().find_map(|line| line.strip_prefix("BaseURI:"));
    address
        .map(|address| address.trim().to_owned())
        .ok_or_else(|| {
            Error::missing(
                "Cannot tell where Debian's archive is",
                format!("set {MIRROR_VARIABLE} to its address"),
            )
        })
}
