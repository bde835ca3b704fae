//! qcow2 images: whatever a file holds, opening, reading and writing it neither panics nor goes
//! beyond what a small file can ask for. The first byte says whether the image is also written; the
//! rest is the file.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use vm_memory::VolatileSlice;
use xenner_console::FdSets;
use xenner_pvdevices::image::config::{Backing, Driver, NodeConfig};
use xenner_pvdevices::image::{Attachment, BlockNodes, DiscardKind, Image};

/// Where an image is read and written, in 512ths of its size.
const PLACES: [u64; 6] = [0, 1, 100, 256, 510, 511];
const MAX_FILE: usize = 256 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((&how, file)) = data.split_first() else {
        return;
    };
    if file.len() > MAX_FILE {
        return;
    }
    let mut fds = FdSets::default();
    fds.add(memory_file(file), Some(0), None);
    let mut node = NodeConfig::new(Driver::Qcow2 {
        file: NodeConfig::file("/dev/fdset/0").into(),
        backing: if how & 2 == 0 { Backing::None } else { Backing::FromHeader },
        data_file: None,
    });
    node.read_only = how & 1 == 0;
    node.discard = how & 4 != 0;
    let mut nodes = BlockNodes::new();
    let Ok(name) = nodes.add(&node, &mut fds) else {
        return;
    };
    let Ok(image) = nodes.attach(&name, &Attachment::new("fuzz"), &mut fds) else {
        return;
    };
    use_it(&*image);
});

fn memory_file(bytes: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).expect("a memory file");
    rustix::io::pwrite(&fd, bytes, 0).expect("a memory file is written");
    fd
}

fn use_it(image: &dyn Image) {
    let size = image.geometry().size;
    assert_eq!(size % 512, 0);
    let mut buffer = [0xa5_u8; 4096];
    for place in PLACES {
        let at = (u128::from(size) * u128::from(place) / 512) as u64 / 512 * 512;
        let len = (size - at).min(buffer.len() as u64) as usize;
        if len == 0 {
            continue;
        }
        let read = image.read(at, &[VolatileSlice::from(&mut buffer[..len])]);
        if image.geometry().read_only || read.is_err() {
            continue;
        }
        buffer[..len].fill(place as u8 | 1);
        let wrote = image.write(at, &[VolatileSlice::from(&mut buffer[..len])]);
        let mut back = [0; 4096];
        if wrote.is_ok() && image.read(at, &[VolatileSlice::from(&mut back[..len])]).is_ok() {
            // Two guest clusters of a broken image may share one of the file.
            let _ = back == buffer;
        }
        let _ = image.write_zeroes(at, len as u64, place % 2 == 0);
        let _ = image.discard(at, len as u64, DiscardKind::Advice);
    }
    let _ = image.flush();
}
