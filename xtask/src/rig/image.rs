//! What the rig's machine holds: the common initramfs, KVM's modules, and
//! programs of this machine with the shared libraries that they need.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::builds;
use crate::cpio::Archive;
use crate::error::Result;
use crate::initramfs;
use crate::packages::{DEFAULT_KERNEL, Kernel, Qemu, RIG_MODULES};
use crate::process::capture;
use crate::workspace::Workspace;

/// The port on which the machine answers; its console is the first.
const ANSWER_PORT: &str = "/dev/ttyS1";
/// The firmware that QEMU's PC machine needs to boot a kernel directly.
const FIRMWARE: [&str; 5] = [
    "bios-256k.bin",
    "linuxboot_dma.bin",
    "linuxboot.bin",
    "kvmvapic.bin",
    "multiboot_dma.bin",
];
/// glibc loads this by name when a thread is cancelled, so that ldd is silent on it.
const UNWINDER: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

/// The machine's initramfs while it is put together.
#[derive(Debug)]
pub struct Image {
    base: Vec<u8>,
    archive: Archive,
    placed: BTreeSet<String>,
    /// The machine's kernel.
    pub kernel: PathBuf,
}

impl Image {
    /// The bare machine with KVM.
    pub fn new(ws: &Workspace) -> Result<Image> {
        let kernel = Kernel::named(DEFAULT_KERNEL).expect("the default kernel is in the list");
        let modules = kernel.modules(ws)?;
        let mut archive = Archive::new();
        let mut order = String::new();
        for name in RIG_MODULES {
            let file = format!("{name}.ko");
            archive.program(&format!("lib/modules/{file}"), &modules.join(&file))?;
            order.push_str(&file);
            order.push('\n');
        }
        archive.file("etc/modules", 0o644, order.as_bytes());
        archive.file("etc/answer", 0o644, ANSWER_PORT.as_bytes());
        let (base, kernel) = (initramfs::base(ws)?, kernel.image(ws)?);
        Ok(Image {
            base,
            archive,
            placed: BTreeSet::new(),
            kernel,
        })
    }

    /// The machine with the release build of xenner in `PATH` and the staged
    /// test assets in `/assets`.
    pub fn with_xenner(ws: &Workspace) -> Result<Image> {
        let xenner = builds::xenner(ws)?;
        crate::assets::stage(ws)?;
        let mut image = Image::new(ws)?;
        image.program(&xenner)?;
        image.program(&xenner.with_file_name("xenner-console"))?;
        image.archive.tree("assets", &ws.assets())?;
        for tool in crate::assets::xenstore_programs(ws)? {
            image.libraries(&tool, &[])?;
        }
        Ok(image)
    }

    /// Add a program of this machine to `/bin`, with its libraries.
    pub fn program(&mut self, file: &Path) -> Result<()> {
        self.program_with(file, &[])
    }

    fn program_with(&mut self, file: &Path, extra: &[(String, String)]) -> Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let inside = format!("bin/{name}");
        if self.placed.insert(inside.clone()) {
            self.archive.program(&inside, file)?;
            self.libraries(file, extra)?;
        }
        Ok(())
    }

    /// Add the directory `dir` as `/payload`, where commands start.
    pub fn payload(&mut self, dir: &Path) -> Result<()> {
        self.archive.tree("payload", dir).map(drop)
    }

    /// Add QEMU and its firmware, for a guest inside the machine.
    pub fn qemu(&mut self, qemu: &Qemu) -> Result<()> {
        let mut environment = Command::new("env");
        qemu.set_environment(&mut environment);
        let text = |os: &std::ffi::OsStr| os.to_string_lossy().into_owned();
        let variables: Vec<(String, String)> = environment
            .get_envs()
            .filter_map(|(k, v)| Some((text(k), text(v?))))
            .collect();
        self.program_with(qemu.program(), &variables)?;
        for name in FIRMWARE {
            let found = qemu
                .firmware()
                .into_iter()
                .map(|dir| dir.join(name))
                .find(|f| f.exists());
            if let Some(file) = found {
                self.archive
                    .program(&format!("usr/share/qemu/{name}"), &file)?;
            }
        }
        Ok(())
    }

    /// Add the libraries that ldd names for `file`, where the loader looks for
    /// them by default.
    fn libraries(&mut self, file: &Path, environment: &[(String, String)]) -> Result<()> {
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

    /// The whole initramfs, set to run `command`.
    pub fn finish(self, command: &str) -> Vec<u8> {
        [
            self.base,
            self.archive.finish(),
            initramfs::command(command),
        ]
        .concat()
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
