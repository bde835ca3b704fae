//! Staging what the tests and benchmarks boot, under fixed names in one
//! directory, so that the integration tests find it by `cargo test` alone and
//! the rig's machine can be given the whole of it.

use std::path::PathBuf;

use crate::builds;
use crate::error::Result;
use crate::initramfs;
use crate::packages::{self, KERNELS};
use crate::ui;
use crate::workspace::{Workspace, place};

/// The xenstore programs that tests use.
const XENSTORE: [&str; 4] = [
    "xenstore-ls",
    "xenstore-read",
    "xenstore-write",
    "xenstore-watch",
];

/// Put kernels, initramfs, test kernels and tools in place; give back the directory.
pub fn stage(ws: &Workspace) -> Result<PathBuf> {
    let assets = ws.assets();
    for kernel in KERNELS {
        place(
            &kernel.image(ws)?,
            &assets.join(format!("kernel-{}", kernel.name)),
        )?;
    }
    initramfs::stage(ws)?;
    initramfs::stage_with_devices(ws)?;
    place(&builds::test_kernels(ws)?, &assets.join("pvtest"))?;
    place(&builds::guest_bench(ws)?, &assets.join("guest-bench"))?;
    for program in xenstore_programs(ws)? {
        place(
            &program,
            &assets
                .join("bin")
                .join(program.file_name().unwrap_or_default()),
        )?;
    }
    for library in packages::files_below(&packages::xenstore_tools(ws)?.join("usr/lib"))? {
        let name = library
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The loader asks for the name with the major version alone.
        let parts: Vec<&str> = name.split('.').collect();
        if let [stem, "so", major, ..] = parts[..] {
            place(&library, &assets.join(format!("lib/{stem}.so.{major}")))?;
        }
    }
    ui::note(&format!("test assets are in {}", assets.display()));
    Ok(assets)
}

/// The files of the xenstore programs.
pub fn xenstore_programs(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let bin = packages::xenstore_tools(ws)?.join("usr/bin");
    Ok(XENSTORE.iter().map(|name| bin.join(name)).collect())
}
