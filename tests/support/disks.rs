//! Disk images of tests: made, offered to a guest, looked at from outside.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;

use super::{image, output};

/// A new image of `size` bytes.
pub fn create(file: &Path, format: &str, size: u64) -> Result<(), Failed> {
    if format == "raw" {
        return Ok(File::create(file)?.set_len(size)?);
    }
    let name = file.to_string_lossy();
    qemu_img(&["create", "-q", "-f", format, &name, &size.to_string()]).map(drop)
}

/// A new qcow2 image over `base`, which is only read.
pub fn overlay(file: &Path, base: &Path) -> Result<(), Failed> {
    let (file, base) = (file.to_string_lossy(), base.to_string_lossy());
    qemu_img(&[
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &file,
    ])
    .map(drop)
}

/// Does the file system take I/O past the page cache? A tmpfs may not.
pub fn takes_direct(file: &Path) -> bool {
    let direct = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
    rustix::fs::open(file, direct, rustix::fs::Mode::empty()).is_ok()
}

/// The arguments that give a guest this image as its next PV disk; `more` is a
/// list of further keys that starts with a comma, or empty.
pub fn drive(file: &Path, format: &str, more: &str) -> [String; 2] {
    let name = file.to_string_lossy().replace(',', ",,");
    let value = format!("file={name},format={format},if=xen{more}");
    ["-drive".to_owned(), value]
}

/// Run qemu-img; its output if it succeeds.
pub fn qemu_img(words: &[&str]) -> Result<String, Failed> {
    output(Command::new(image("qemu-img")).args(words))
}

/// The image's structure is sound and holds nothing that is not used.
pub fn check(file: &Path, format: &str) -> Result<(), Failed> {
    match format {
        "raw" => Ok(()),
        _ => qemu_img(&["check", "-f", format, &file.to_string_lossy()]).map(drop),
    }
}

/// The image's contents as a raw file, which may be the image itself.
pub fn contents(file: &Path, format: &str) -> Result<File, Failed> {
    if format == "raw" {
        return Ok(File::open(file)?);
    }
    let raw = file.with_extension("contents");
    let (from, to) = (file.to_string_lossy(), raw.to_string_lossy());
    qemu_img(&["convert", "-f", format, "-O", "raw", &from, &to])?;
    let opened = File::open(&raw)?;
    std::fs::remove_file(&raw)?;
    Ok(opened)
}
