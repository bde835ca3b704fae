//! Images as devices use them: raw files, cache modes, locks, the graph of nodes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::VolatileSlice;
use xenner_console::{FdSets, FdSource};

use super::config::{DetectZeroes, Driver, FileKind, Locking, NodeConfig, NodeRef};
use super::{Attachment, BlockNodes, DiscardKind, Image, ImageError, NodeError};

/// A directory; TMPDIR says on which file system.
pub(super) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A directory on a file system that has holes in files.
fn holey_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

pub(super) fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

pub(super) fn raw(path: &Path) -> NodeConfig {
    NodeConfig::new(Driver::Raw {
        file: NodeConfig::file(path).into(),
        offset: 0,
        size: None,
    })
}

fn named(mut node: NodeConfig, name: &str) -> NodeConfig {
    node.name = Some(name.to_owned());
    node
}

/// The file below a format's node.
fn below(node: &mut NodeConfig) -> &mut NodeConfig {
    match &mut node.driver {
        Driver::Raw {
            file: NodeRef::Inline(file),
            ..
        }
        | Driver::Probe {
            file: NodeRef::Inline(file),
        } => file,
        other => panic!("{other:?}"),
    }
}

pub(super) fn attach(
    nodes: &mut BlockNodes,
    node: &NodeConfig,
) -> Result<Arc<dyn Image>, NodeError> {
    let name = nodes.add(node, &mut FdSets::default())?;
    nodes.attach(&name, &Attachment::new("vbd"), &mut FdSets::default())
}

pub(super) fn open(node: &NodeConfig) -> Result<Arc<dyn Image>, NodeError> {
    attach(&mut BlockNodes::new(), node)
}

pub(super) fn read(image: &dyn Image, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    image
        .read(offset, &[VolatileSlice::from(&mut bytes[..])])
        .unwrap();
    bytes
}

pub(super) fn write(image: &dyn Image, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut copy = bytes.to_vec();
    image.write(offset, &[VolatileSlice::from(&mut copy[..])])
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_is_written_to_a_raw_image_is_in_the_file() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 1 << 20]);
    let image = open(&raw(&path)).unwrap();
    assert_eq!(image.geometry().size, 1 << 20);
    assert_eq!(image.geometry().discard, None);
    write(&*image, 4096, &[1; 1024]).unwrap();
    image.flush().unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[4096..5120], [1; 1024]);
    assert_eq!(read(&*image, 3584, 1024), bytes[3584..4608]);
    assert!(image.raw().is_some());
    assert!(write(&*image, 1 << 20, &[1; 512]).is_err());
    assert!(errno(image.read(u64::MAX - 511, &[VolatileSlice::from(&mut [0; 512][..])])).is_some());
}

#[test]
fn an_odd_end_reads_as_zeros_and_can_be_written() {
    let dir = directory();
    let path = file(&dir, "disk", &[7; 1000]);
    let image = open(&raw(&path)).unwrap();
    assert_eq!(image.geometry().size, 1024);
    assert!(image.raw().is_none());
    let tail = read(&*image, 512, 512);
    assert_eq!((tail[487], tail[488], tail[511]), (7, 0, 0));
    write(&*image, 512, &[8; 512]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 1024);
}

#[test]
fn a_part_of_a_file_is_an_image() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 8192]);
    let part = |offset, size| {
        NodeConfig::new(Driver::Raw {
            file: NodeConfig::file(&path).into(),
            offset,
            size,
        })
    };
    let image = open(&part(1024, Some(2048))).unwrap();
    assert_eq!(image.geometry().size, 2048);
    write(&*image, 1536, &[3; 512]).unwrap();
    assert!(write(&*image, 2048, &[3; 512]).is_err());
    assert_eq!(errno(image.resize(4096)), Some(libc::EOPNOTSUPP));
    drop(image);
    assert_eq!(fs::read(&path).unwrap()[2560..3072], [3; 512]);
    for (offset, size) in [
        (100, None),
        (0, Some(100)),
        (8192, Some(512)),
        (u64::MAX - 511, Some(512)),
    ] {
        assert!(
            matches!(
                open(&part(offset, size)),
                Err(NodeError::Image(ImageError::Range { .. }))
            ),
            "{offset} {size:?}"
        );
    }
}

#[test]
fn what_cannot_be_opened_is_told_by_its_name() {
    let dir = directory();
    let missing = dir.path().join("missing");
    let error = open(&raw(&missing)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Could not open '{}'", missing.display())
    );
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().starts_with("No such file"), "{source}");
    let error = open(&raw(dir.path())).unwrap_err();
    // A directory cannot be opened for writing at all.
    assert!(error.to_string().starts_with("Could not open"), "{error}");
    let mut node = raw(&file(&dir, "disk", &[0; 512]));
    if let Driver::File(file) = &mut below(&mut node).driver {
        file.kind = FileKind::HostDevice;
    }
    let error = open(&node).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("is no block device; use driver=file"),
        "{error}"
    );
}

#[test]
fn a_read_only_node_is_a_read_only_disk() {
    let dir = directory();
    let path = file(&dir, "disk", &[1; 4096]);
    let mut node = raw(&path);
    node.read_only = true;
    below(&mut node).auto_read_only = true;
    let image = open(&node).unwrap();
    assert!(image.geometry().read_only);
    assert_eq!(errno(write(&*image, 0, &[2; 512])), Some(libc::EROFS));
    assert_eq!(errno(image.write_zeroes(0, 512, true)), Some(libc::EROFS));
    assert_eq!(
        errno(image.discard(0, 512, DiscardKind::Advice)),
        Some(libc::EROFS)
    );
    image.flush().unwrap();
    // The node could be written, its file node not.
    let mut node = raw(&path);
    below(&mut node).read_only = true;
    assert!(matches!(open(&node), Err(NodeError::ReadOnly(_))));
}

#[test]
fn discards_reach_the_file_only_where_asked() {
    let dir = holey_directory();
    let path = file(&dir, "disk", &vec![1; 1 << 20]);
    let mut node = raw(&path);
    let image = open(&node).unwrap();
    assert_eq!(
        errno(image.discard(0, 1 << 16, DiscardKind::Advice)),
        Some(libc::EOPNOTSUPP)
    );
    drop(image);
    node.discard = true;
    let image = open(&node).unwrap();
    assert!(image.geometry().discard.is_some());
    let before = fs::metadata(&path).unwrap().blocks();
    image.discard(0, 1 << 19, DiscardKind::Advice).unwrap();
    assert!(fs::metadata(&path).unwrap().blocks() < before);
    assert_eq!(read(&*image, 0, 512), [0; 512]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20);
    assert_eq!(
        errno(image.discard(0, 512, DiscardKind::Secure)),
        Some(libc::EOPNOTSUPP)
    );
    image.write_zeroes(1 << 19, 4096, false).unwrap();
    image.write_zeroes((1 << 19) + 8192, 4096, true).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[1 << 19..][..4096], [0; 4096]);
    assert_eq!(bytes[(1 << 19) + 4096..][..4096], [1; 4096]);
    assert_eq!(bytes[(1 << 19) + 8192..][..4096], [0; 4096]);
}

#[test]
fn zeros_are_detected() {
    let dir = holey_directory();
    let path = file(&dir, "disk", &vec![1; 1 << 20]);
    let mut node = raw(&path);
    node.detect_zeroes = DetectZeroes::Unmap;
    assert!(matches!(open(&node), Err(NodeError::UnmapNeedsDiscard)));
    node.discard = true;
    let image = open(&node).unwrap();
    assert!(image.raw().is_none());
    let before = fs::metadata(&path).unwrap().blocks();
    write(&*image, 0, &vec![0; 1 << 19]).unwrap();
    write(&*image, 1 << 19, &[0, 9].repeat(256)).unwrap();
    assert_eq!(read(&*image, 0, 512), [0; 512]);
    assert_eq!(read(&*image, 1 << 19, 512), [0, 9].repeat(256));
    let after = fs::metadata(&path).unwrap().blocks();
    assert!(after < before, "{after} {before}");
}

#[test]
fn a_guessed_image_stays_raw() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 8192]);
    let node = NodeConfig::new(Driver::Probe {
        file: NodeConfig::file(&path).into(),
    });
    let image = open(&node).unwrap();
    assert!(image.raw().is_none());
    let mut header = [0; 1024];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    assert_eq!(errno(write(&*image, 0, &header)), Some(libc::EPERM));
    write(&*image, 512, &header).unwrap();
    write(&*image, 0, &[5; 1024]).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..1024], [5; 1024]);
    drop(image);
    // Who names the format may write what he likes.
    let image = open(&raw(&path)).unwrap();
    write(&*image, 0, &header).unwrap();
    drop(image);
    fs::write(&path, [&b"conectix"[..], &[0; 600]].concat()).unwrap();
    let error = open(&node).unwrap_err();
    assert!(error.to_string().contains("is a vpc image"), "{error}");
}

#[test]
fn a_second_writer_is_refused() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 4096]);
    let image = open(&raw(&path)).unwrap();
    let error = open(&raw(&path)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Failed to get \"write\" lock; is another process using the image [{}]?",
            path.display()
        )
    );
    let mut reader = raw(&path);
    reader.read_only = true;
    let error = open(&reader).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Failed to get shared \"write\" lock"),
        "{error}"
    );
    let mut careless = raw(&path);
    if let Driver::File(file) = &mut below(&mut careless).driver {
        file.locking = Locking::Off;
    }
    open(&careless).unwrap();
    reader.force_share = true;
    open(&reader).unwrap();
    drop(image);
    let first = open(&raw(&path)).unwrap();
    drop(first);
    reader.force_share = false;
    let both = [open(&reader).unwrap(), open(&reader).unwrap()];
    assert!(open(&raw(&path)).is_err());
    drop(both);
    open(&raw(&path)).unwrap();
}

#[test]
fn writers_share_who_say_so() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 4096]);
    let fds = &mut FdSets::default();
    let mut device = Attachment::new("vbd");
    device.share_rw = true;
    let mut attach = |nodes: &mut BlockNodes| {
        let name = nodes.add(&raw(&path), fds).unwrap();
        nodes.attach(&name, &device, fds)
    };
    let (mut one, mut two) = (BlockNodes::new(), BlockNodes::new());
    let both = [attach(&mut one).unwrap(), attach(&mut two).unwrap()];
    write(&*both[0], 0, &[1; 512]).unwrap();
    assert_eq!(read(&*both[1], 0, 512), [1; 512]);
}

/// Every kind of request of any alignment, against a model, past the page cache and through it.
fn check_against_model(direct: bool, requests: &[(u64, usize, u8, u8)]) {
    let dir = directory();
    let mut model: Vec<u8> = (0..64 * 1024).map(|at| (at / 512) as u8).collect();
    let path = file(&dir, "disk", &model);
    let mut node = raw(&path);
    node.discard = true;
    below(&mut node).cache.direct = direct;
    let image = match open(&node) {
        Err(NodeError::Image(ImageError::NoDirect { .. })) => return,
        image => image.unwrap(),
    };
    for (sector, sectors, byte, what) in requests {
        let offset = sector * 512;
        let len = (sectors * 512).min(model.len() - offset as usize);
        let range = offset as usize..offset as usize + len;
        // Buffers at odd addresses, in odd parts.
        let mut memory = vec![*byte; len + 3];
        let bytes = &mut memory[usize::from(*what) % 4..][..len];
        let (head, tail) = bytes.split_at_mut(len / 3);
        let list = [VolatileSlice::from(head), VolatileSlice::from(tail)];
        match what % 4 {
            0 => {
                image.read(offset, &list).unwrap();
                assert_eq!(bytes, &model[range]);
            }
            1 | 2 => {
                image.write(offset, &list).unwrap();
                model[range].fill(*byte);
            }
            _ => {
                image
                    .write_zeroes(offset, len as u64, byte % 2 == 0)
                    .unwrap();
                model[range].fill(0);
            }
        }
    }
    image.flush().unwrap();
    drop(image);
    assert!(fs::read(&path).unwrap() == model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn requests_of_any_alignment(
        direct in any::<bool>(),
        requests in prop::collection::vec((0u64..128, 1usize..24, any::<u8>(), any::<u8>()), 1..24)
    ) {
        check_against_model(direct, &requests);
    }
}

#[test]
fn parts_of_blocks_written_at_once_are_all_there() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 64 * 1024]);
    let mut node = raw(&path);
    below(&mut node).cache.direct = true;
    let image = match open(&node) {
        Err(NodeError::Image(ImageError::NoDirect { .. })) => return,
        image => image.unwrap(),
    };
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let image = &image;
            scope.spawn(move || {
                for sector in (u64::from(thread)..128).step_by(4) {
                    write(&**image, sector * 512, &[thread + 1; 512]).unwrap();
                }
            });
        }
    });
    let bytes = fs::read(&path).unwrap();
    for (sector, bytes) in bytes.chunks(512).enumerate() {
        assert!(
            bytes
                .iter()
                .all(|byte| usize::from(*byte) == sector % 4 + 1),
            "{sector}"
        );
    }
}

#[test]
fn a_file_that_direct_cannot_end_in_is_refused() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 700]);
    let mut node = raw(&path);
    below(&mut node).cache.direct = true;
    assert!(matches!(
        open(&node),
        Err(NodeError::Image(
            ImageError::DirectSize { .. } | ImageError::NoDirect { .. }
        ))
    ));
    // Who was refused holds nothing.
    let mut nodes = BlockNodes::new();
    if nodes.add(&node, &mut FdSets::default()).is_ok() {
        let name = nodes.query().pop().unwrap().name;
        let device = Attachment::new("vbd");
        assert!(
            nodes
                .attach(&name, &device, &mut FdSets::default())
                .is_err()
        );
        open(&raw(&path)).unwrap();
    }
    node.read_only = true;
    below(&mut node).read_only = true;
    match open(&node) {
        Err(NodeError::Image(ImageError::NoDirect { .. })) => {}
        image => assert_eq!(read(&*image.unwrap(), 512, 512)[188..], [0; 324]),
    }
}

#[test]
fn a_disk_has_the_sizes_it_asks_for() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 64 * 1024]);
    let fds = &mut FdSets::default();
    let mut nodes = BlockNodes::new();
    let mut node = raw(&path);
    node.discard = true;
    let name = nodes.add(&node, fds).unwrap();
    let mut device = Attachment::new("vbd");
    device.logical_block = Some(4096);
    device.discard_granularity = Some(8192);
    let image = nodes.attach(&name, &device, fds).unwrap();
    let geometry = image.geometry();
    assert_eq!(
        (geometry.logical_block, geometry.physical_block),
        (4096, 4096)
    );
    assert_eq!(geometry.discard.unwrap().granularity, 8192);
    write(&*image, 0, &[1; 4096]).unwrap();
}

#[test]
fn nodes_have_names_users_and_an_end() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 4096]);
    let fds = &mut FdSets::default();
    let mut nodes = BlockNodes::new();
    nodes
        .add(&named(NodeConfig::file(&path), "storage"), fds)
        .unwrap();
    let format = NodeConfig::new(Driver::Raw {
        file: NodeRef::Name("storage".into()),
        offset: 0,
        size: None,
    });
    nodes.add(&named(format.clone(), "format"), fds).unwrap();
    let info = nodes.info("format").unwrap();
    assert_eq!((info.driver, info.virtual_size), ("raw", 4096));
    assert_eq!(info.filename.as_deref(), Some(path.as_path()));
    assert_eq!(info.file.as_deref(), Some("storage"));
    assert_eq!(nodes.info("storage").unwrap().users, ["format"]);
    assert!(matches!(
        nodes.remove("storage"),
        Err(NodeError::InUse { .. })
    ));
    assert!(matches!(
        nodes.add(&named(format.clone(), "other"), fds),
        Err(NodeError::InUse { .. })
    ));
    assert_eq!(nodes.info("storage").unwrap().users, ["format"]);
    assert!(matches!(
        nodes.add(&named(format, "format"), fds),
        Err(NodeError::Exists(_))
    ));
    let image = nodes
        .attach("format", &Attachment::new("vbd"), fds)
        .unwrap();
    assert!(matches!(
        nodes.attach("format", &Attachment::new("vbd2"), fds),
        Err(NodeError::InUse { .. })
    ));
    assert!(matches!(
        nodes.remove("format"),
        Err(NodeError::InUse { .. })
    ));
    nodes.resize("format", 8192).unwrap();
    assert_eq!(image.geometry().size, 8192);
    assert_eq!(nodes.info("format").unwrap().virtual_size, 8192);
    nodes.detach("vbd");
    drop(image);
    // Nobody has it any more, so others may.
    drop(open(&raw(&path)).unwrap());
    let image = nodes
        .attach("format", &Attachment::new("vbd"), fds)
        .unwrap();
    assert!(open(&raw(&path)).is_err());
    drop(image);
    nodes.detach("vbd");
    nodes.remove("format").unwrap();
    nodes.remove("storage").unwrap();
    assert!(nodes.query().is_empty());
    assert!(matches!(nodes.remove("format"), Err(NodeError::Missing(_))));
}

#[test]
fn what_comes_with_a_node_goes_with_it() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 4096]);
    let fds = &mut FdSets::default();
    let mut nodes = BlockNodes::new();
    let name = nodes.add(&raw(&path), fds).unwrap();
    assert_eq!(nodes.query().len(), 2);
    assert!(nodes.query().iter().any(|info| info.implicit));
    nodes.remove(&name).unwrap();
    assert!(nodes.query().is_empty());
    // A tree that fails leaves nothing.
    let mut bad = raw(&path);
    bad.name = Some("-".into());
    assert!(matches!(nodes.add(&bad, fds), Err(NodeError::BadName(_))));
    let mut twice = named(raw(&path), "a");
    below(&mut twice).name = Some("a".into());
    assert!(matches!(nodes.add(&twice, fds), Err(NodeError::Exists(_))));
    assert!(nodes.query().is_empty());
}

#[test]
fn passed_descriptors_are_images() {
    let dir = directory();
    let path = file(&dir, "disk", &[0; 4096]);
    let mut fds = FdSets::default();
    let both = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    fds.add(both.into(), Some(3), None);
    assert!(fds.fdset_for(3, false).is_ok());
    let mut nodes = BlockNodes::new();
    let name = nodes
        .add(&raw(Path::new("/dev/fdset/3")), &mut fds)
        .unwrap();
    let image = nodes
        .attach(&name, &Attachment::new("vbd"), &mut fds)
        .unwrap();
    write(&*image, 0, &[1; 512]).unwrap();
    assert!(open(&raw(&path)).is_err());
    nodes.detach("vbd");
    drop((image, nodes));
    // The set keeps the open file, but not its locks.
    open(&raw(&path)).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..512], [1; 512]);
    assert!(open(&raw(Path::new("/dev/fdset/4"))).is_err());
}

/// A loop device on a file, gone when dropped.
struct Loop(PathBuf);

impl Loop {
    /// `None` where loop devices cannot be made.
    fn new(file: &Path) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(file)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let name = String::from_utf8(output.stdout).ok()?;
        Some(Self(PathBuf::from(name.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = std::process::Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
        assert!(detached.unwrap().success());
    }
}

#[test]
fn a_block_device_has_its_own_blocks() {
    let dir = directory();
    let path = file(&dir, "disk", &vec![1; 1 << 20]);
    let Some(device) = Loop::new(&path) else {
        eprintln!("skipped: no loop device can be made (losetup needs root)");
        return;
    };
    let mut node = raw(&device.0);
    node.discard = true;
    if let Driver::File(file) = &mut below(&mut node).driver {
        file.kind = FileKind::HostDevice;
    }
    for direct in [false, true] {
        below(&mut node).cache.direct = direct;
        let image = open(&node).unwrap();
        let geometry = image.geometry();
        assert_eq!((geometry.size, geometry.logical_block), (1 << 20, 4096));
        assert!(geometry.discard.is_some() && image.raw().is_some());
        // Smaller than the device's own blocks: read, changed, written.
        write(&*image, 512, &[2; 512]).unwrap();
        assert_eq!(
            read(&*image, 0, 1536),
            [[1; 512], [2; 512], [1; 512]].concat()
        );
        image.write_zeroes(8192, 4096, false).unwrap();
        image.discard(16384, 8192, DiscardKind::Advice).unwrap();
        assert_eq!(read(&*image, 8192, 4096), [0; 4096]);
        assert_eq!(read(&*image, 16384, 4096), [0; 4096]);
        image.flush().unwrap();
        assert!(image.resize(2 << 20).is_err());
        image.resize(1 << 20).unwrap();
        assert!(open(&node).is_err());
    }
    assert_eq!(fs::read(&path).unwrap()[512..1024], [2; 512]);
}
