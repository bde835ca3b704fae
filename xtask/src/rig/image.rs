//! What the rig's machine holds: the common initramfs, KVM's modules, and
//! programs of this machine with the shared libraries that they need.

use std::path::{Path, PathBuf};

use crate::builds;
use crate::error::Result;
use crate::initramfs;
use crate::packages::{DEFAULT_KERNEL, Kernel, Qemu, RIG_MODULES, iperf3, qemu_img};
use crate::programs::Programs;
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

/// The machine's initramfs while it is put together.
#[derive(Debug)]
pub struct Image {
    base: Vec<u8>,
    programs: Programs,
    /// The machine's kernel.
    pub kernel: PathBuf,
}

impl Image {
    /// The bare machine with KVM.
    pub fn new(ws: &Workspace) -> Result<Image> {
        let kernel = Kernel::named(DEFAULT_KERNEL).expect("the default kernel is in the list");
        let modules = kernel.modules(ws)?;
        let mut programs = Programs::new();
        let archive = &mut programs.archive;
        initramfs::add_modules(archive, &modules, &RIG_MODULES)?;
        archive.file("etc/answer", 0o644, ANSWER_PORT.as_bytes());
        let (base, kernel) = (initramfs::base(ws)?, kernel.image(ws)?);
        Ok(Image {
            base,
            programs,
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
        image.programs.archive.tree("assets", &ws.assets())?;
        for tool in crate::assets::xenstore_programs(ws)? {
            image.programs.libraries(&tool, &[])?;
        }
        Ok(image)
    }

    /// Add a program of this machine to `/bin`, with its libraries.
    pub fn program(&mut self, file: &Path) -> Result<()> {
        self.programs.program(file)
    }

    /// Add in `/images` what [`crate::debian::stage`] put in place. The disk image
    /// itself is the machine's first disk ([`super::Machine::disk`]).
    pub fn images(&mut self, ws: &Workspace) -> Result<()> {
        let images = crate::debian::stage(ws)?;
        for name in ["vmlinuz", "initrd.img", "grub"] {
            self.programs
                .archive
                .program(&format!("images/{name}"), &images.join(name))?;
        }
        self.programs
            .archive
            .symlink("images/debian.img", "/dev/vda");
        for (name, tool) in [("qemu-img", qemu_img(ws)?), ("iperf3", iperf3(ws)?)] {
            self.programs.tool(&tool)?;
            self.programs
                .archive
                .symlink(&format!("images/{name}"), &format!("/bin/{name}"));
        }
        Ok(())
    }

    /// Add the directory `dir` as `/payload`, where commands start.
    pub fn payload(&mut self, dir: &Path) -> Result<()> {
        self.programs.archive.tree("payload", dir).map(drop)
    }

    /// Add QEMU and its firmware, for a guest inside the machine.
    pub fn qemu(&mut self, qemu: &Qemu) -> Result<()> {
        self.programs
            .program_with(qemu.program(), &qemu.environment())?;
        for name in FIRMWARE {
            let found = qemu
                .firmware()
                .into_iter()
                .map(|dir| dir.join(name))
                .find(|f| f.exists());
            if let Some(file) = found {
                self.programs
                    .archive
                    .program(&format!("usr/share/qemu/{name}"), &file)?;
            }
        }
        Ok(())
    }

    /// Keep the command, and what it starts, on the processors of this mask.
    pub fn keep_to(&mut self, mask: u64) {
        let archive = &mut self.programs.archive;
        archive.file("etc/processors", 0o644, format!("{mask:x}").as_bytes());
    }

    /// The whole initramfs, set to run `command`.
    pub fn finish(self, command: &str) -> Vec<u8> {
        [
            self.base,
            self.programs.archive.finish(),
            initramfs::command(command),
        ]
        .concat()
    }
}
