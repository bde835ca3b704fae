//! Writing initramfs archives: the "newc" form of cpio, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it.
//! Archives may follow one another in one initramfs. Nothing is read here.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
/// The kernel skips zeros between archives; whole blocks keep them aligned.
const BLOCK: usize = 512;

/// An archive in memory. All files belong to root; parents are made as needed.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: std::collections::BTreeSet<String>,
}

impl Archive {
    /// An empty one.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A directory, mode 0755, and its parents.
    pub fn dir(&mut self, path: &str) -> &mut Archive {
        if path.is_empty() || self.directories.contains(path) {
            return self;
        }
        self.parents(path);
        self.directories.insert(path.to_owned());
        self.entry(path, S_IFDIR | 0o755, (0, 0), b"")
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
    }

    /// A regular file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Archive {
        self.parents(path);
        self.entry(path, S_IFREG | mode, (0, 0), content)
    }

    /// A regular file with the content of a file of this machine, executable.
    pub fn program(&mut self, path: &str, from: &Path) -> Result<&mut Archive> {
        let content = fs::read(from).map_err(Error::file("read", from))?;
        if u32::try_from(content.len()).is_err() {
            let what = format!("{} is too large for an initramfs", from.display());
            return Err(Error::missing(what, "leave out files of 4 GiB and more"));
        }
        Ok(self.file(path, 0o755, &content))
    }

    /// A symbolic link at `path` to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Archive {
        self.parents(path);
        self.entry(path, S_IFLNK | 0o777, (0, 0), target.as_bytes())
    }

    /// A character device with numbers `(major, minor)`.
    pub fn char_device(&mut self, path: &str, device: (u32, u32)) -> &mut Archive {
        self.parents(path);
        self.entry(path, S_IFCHR | 0o600, device, b"")
    }

    /// Everything below the directory `from`, placed at `path`. Links are followed.
    pub fn tree(&mut self, path: &str, from: &Path) -> Result<&mut Archive> {
        self.dir(path);
        let list = |dir: &Path| fs::read_dir(dir).map_err(Error::file("list", dir));
        for entry in list(from)? {
            let source = entry.map_err(Error::file("list", from))?.path();
            let name = source
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let inside = format!("{path}/{name}");
            let meta = source.metadata().map_err(Error::file("look at", &source))?;
            if meta.is_dir() {
                self.tree(&inside, &source)?;
            } else if meta.is_file() {
                self.program(&inside, &source)?;
            }
        }
        Ok(self)
    }

    /// The whole archive, closed and padded.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.pad(BLOCK);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Archive {
        self.inode += 1;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let size = u32::try_from(content.len()).expect("below 4 GiB, see program()");
        let name_size = u32::try_from(path.len() + 1).expect("PATH_MAX is 4096");
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device of the file system
        // (two numbers), device of the node (two numbers), name's size, checksum
        let (major, minor) = device;
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
        self
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_have_the_documented_form() {
        let mut archive = Archive::new();
        archive.file("etc/x", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        // etc: header of 110 bytes and "etc\0", padded to 116
        assert!(bytes.starts_with(b"07070100000001000041ed"));
        assert_eq!(&bytes[110..114], b"etc\0");
        let file = &bytes[116..];
        assert!(file.starts_with(b"07070100000002000081a4"));
        assert_eq!(&file[54..62], b"00000005", "the size field");
        assert_eq!(&file[110..116], b"etc/x\0");
        assert_eq!(&file[116..121], b"hello");
        assert_eq!(&file[124..130], b"070701", "the next entry is aligned");
        assert_eq!(&file[234..245], b"TRAILER!!!\0");
    }

    #[test]
    fn directories_are_made_once() {
        let mut archive = Archive::new();
        archive
            .file("a/b/c", 0o644, b"")
            .file("a/b/d", 0o644, b"")
            .dir("a");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(
            text.matches("070701").count(),
            5,
            "a, a/b, two files, trailer"
        );
    }
}
