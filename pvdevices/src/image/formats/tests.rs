//! qcow2 and VMDK images against QEMU's tools: what is written here is read there and the other way
//! round, and `qemu-img check` finds nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use xenner_console::FdSets;

use super::super::config::{Backing, Driver, NodeConfig, NodeRef};
use super::super::tests::{attach, directory, open, raw, read, write};
use super::super::{Attachment, BlockNodes, DiscardKind, Image, ImageError, NodeError};

/// Whether QEMU's tools are there. Where everything has to be tested they must be.
fn tools() -> bool {
    let there = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok());
    let needed = ["CI", "XENNER_TEST_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    assert!(
        there || !needed,
        "qemu-img and qemu-io are missing: install qemu-utils"
    );
    if !there {
        eprintln!("skipped: qemu-img and qemu-io are missing (qemu-utils)");
    }
    there
}

fn tool(words: &str, dir: &TempDir) -> Output {
    let mut words = words.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .current_dir(dir.path())
        .output()
        .unwrap()
}

/// Runs `qemu-img` in the directory; it must succeed.
fn qemu_img(words: &str, dir: &TempDir) {
    let output = tool(&format!("qemu-img {words}"), dir);
    assert!(output.status.success(), "qemu-img {words}: {output:?}");
}

fn qcow2(path: &Path) -> NodeConfig {
    NodeConfig::new(Driver::Qcow2 {
        file: NodeConfig::file(path).into(),
        backing: Backing::FromHeader,
        data_file: None,
    })
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 512) as u8 ^ (at / 131_072) as u8 ^ seed)
        .collect()
}

/// The image holds these bytes, for us, and for QEMU when we have closed it.
fn check(image: Arc<dyn Image>, path: &Path, model: &[u8], dir: &TempDir) {
    assert_eq!(image.geometry().size, model.len() as u64);
    assert!(read(&*image, 0, model.len()) == model);
    image.flush().unwrap();
    drop(image);
    compare(path, model, dir);
    qemu_img(&format!("check -f qcow2 {}", path.display()), dir);
}

fn compare(path: &Path, model: &[u8], dir: &TempDir) {
    fs::write(dir.path().join("model"), model).unwrap();
    qemu_img(
        &format!("compare -U -f raw -F qcow2 model {}", path.display()),
        dir,
    );
}

const SIZE: usize = 4 << 20;

/// Makes an image by `qemu-img create`, and gives it back with its path.
fn create(options: &str, dir: &TempDir) -> PathBuf {
    qemu_img(&format!("create -q -f qcow2 {options} disk {SIZE}"), dir);
    dir.path().join("disk")
}

#[test]
fn images_of_every_layout_are_written_as_qemu_reads_them() {
    if !tools() {
        return;
    }
    for options in [
        "",
        "-o compat=0.10",
        "-o cluster_size=512",
        "-o cluster_size=2M",
        "-o preallocation=metadata",
        "-o preallocation=full",
        "-o refcount_bits=1",
        "-o refcount_bits=64",
        "-o lazy_refcounts=on",
        "-o data_file=data,data_file_raw=off",
        "-o data_file=data,data_file_raw=on",
    ] {
        for direct in [false, true] {
            written_as_qemu_reads(options, direct);
        }
    }
}

fn written_as_qemu_reads(options: &str, direct: bool) {
    let dir = directory();
    let path = create(options, &dir);
    let mut node = qcow2(&path);
    node.cache.direct = direct;
    if let Driver::Qcow2 {
        file: NodeRef::Inline(file),
        ..
    } = &mut node.driver
    {
        file.cache.direct = direct;
    }
    let image = match open(&node) {
        Err(NodeError::Image(ImageError::NoDirect { .. })) => return,
        image => image.unwrap(),
    };
    let mut model = vec![0; SIZE];
    assert!(read(&*image, 0, SIZE) == model, "{options}");
    for (at, len) in [
        (0, 512),
        (70_144, 300_032),
        (SIZE - 1024, 1024),
        (1 << 20, 1 << 20),
    ] {
        model[at..at + len].copy_from_slice(&pattern(len, at as u8));
        write(&*image, at as u64, &model[at..at + len]).unwrap();
    }
    image.write_zeroes(80_896, 200_192, false).unwrap();
    model[80_896..281_088].fill(0);
    check(image, &path, &model, &dir);
}

#[test]
fn compressed_clusters_are_read_and_replaced() {
    if !tools() {
        return;
    }
    let dir = directory();
    let mut model = pattern(SIZE, 1);
    fs::write(dir.path().join("source"), &model).unwrap();
    qemu_img("convert -c -f raw -O qcow2 source disk", &dir);
    let path = dir.path().join("disk");
    assert!(fs::metadata(&path).unwrap().len() < SIZE as u64 / 4);
    let image = open(&qcow2(&path)).unwrap();
    assert!(read(&*image, 0, SIZE) == model);
    write(&*image, 66_048, &[7; 1024]).unwrap();
    model[66_048..67_072].fill(7);
    check(image, &path, &model, &dir);
}

#[test]
fn chains_are_read_through_and_only_the_top_is_written() {
    if !tools() {
        return;
    }
    let dir = directory();
    let mut model = pattern(SIZE, 2);
    fs::write(dir.path().join("base"), &model).unwrap();
    qemu_img("create -q -f qcow2 -b base -F raw middle", &dir);
    let middle = dir.path().join("middle");
    let image = open(&qcow2(&middle)).unwrap();
    write(&*image, 512, &[3; 512]).unwrap();
    model[512..1024].fill(3);
    check(image, &middle, &model, &dir);
    qemu_img("create -q -f qcow2 -b middle -F qcow2 top", &dir);
    let before = [
        fs::read(dir.path().join("base")).unwrap(),
        fs::read(&middle).unwrap(),
    ];
    let top = dir.path().join("top");
    let mut nodes = BlockNodes::new();
    let image = attach(&mut nodes, &qcow2(&top)).unwrap();
    write(&*image, 1024, &[4; 512]).unwrap();
    model[1024..1536].fill(4);
    let drivers: Vec<_> = nodes.query().iter().map(|info| info.driver).collect();
    assert_eq!(drivers, ["file", "file", "file", "raw", "qcow2", "qcow2"]);
    // Nobody may write what lies under it.
    let error = open(&raw(&dir.path().join("base"))).unwrap_err();
    assert!(
        matches!(error, NodeError::Image(ImageError::Locked { .. })),
        "{error}"
    );
    drop(nodes);
    check(image, &top, &model, &dir);
    assert!(before[0] == fs::read(dir.path().join("base")).unwrap());
    assert!(before[1] == fs::read(&middle).unwrap());
}

#[test]
fn nodes_may_be_backing_images() {
    if !tools() {
        return;
    }
    let dir = directory();
    let model = pattern(SIZE, 5);
    fs::write(dir.path().join("base"), &model).unwrap();
    let path = create("", &dir);
    let fds = &mut FdSets::default();
    let mut nodes = BlockNodes::new();
    let mut base = raw(&dir.path().join("base"));
    base.name = Some("base".into());
    base.read_only = true;
    nodes.add(&base, fds).unwrap();
    let mut node = qcow2(&path);
    if let Driver::Qcow2 { backing, .. } = &mut node.driver {
        *backing = Backing::Node(NodeRef::Name("base".into()));
    }
    let image = attach(&mut nodes, &node).unwrap();
    assert!(read(&*image, 0, SIZE) == model);
    let info = nodes.query().pop().unwrap();
    assert_eq!(info.backing.as_deref(), Some("base"));
    assert!(matches!(nodes.remove("base"), Err(NodeError::InUse { .. })));
    nodes.detach("vbd");
    drop(image);
    nodes.remove(&info.name).unwrap();
    nodes.remove("base").unwrap();
    if let Driver::Qcow2 { backing, .. } = &mut node.driver {
        *backing = Backing::None;
    }
    assert!(read(&*open(&node).unwrap(), 0, SIZE) == vec![0; SIZE]);
}

#[test]
fn a_snapshot_keeps_what_was_there() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let image = open(&qcow2(&path)).unwrap();
    write(&*image, 0, &[1; 4096]).unwrap();
    drop(image);
    fs::write(dir.path().join("raw"), [2; 10_000]).unwrap();
    for mut node in [qcow2(&path), raw(&dir.path().join("raw"))] {
        node.snapshot = true;
        let (Driver::Qcow2 { file, .. } | Driver::Raw { file, .. }) = &mut node.driver else {
            panic!("{node:?}")
        };
        if let NodeRef::Inline(file) = file {
            file.read_only = true;
        }
        let before = fs::read(&path).unwrap();
        let image = open(&node).unwrap();
        let was = read(&*image, 512, 512);
        write(&*image, 0, &[9; 512]).unwrap();
        assert_eq!(read(&*image, 0, 512), [9; 512]);
        assert_eq!(read(&*image, 512, 512), was);
        let size = image.geometry().size;
        write(&*image, size - 512, &[8; 512]).unwrap();
        image.flush().unwrap();
        drop(image);
        assert!(fs::read(&path).unwrap() == before);
    }
    assert_eq!(fs::read(dir.path().join("raw")).unwrap(), [2; 10_000]);
}

#[test]
fn internal_snapshots_survive_writes() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let image = open(&qcow2(&path)).unwrap();
    let old = pattern(SIZE, 6);
    write(&*image, 0, &old).unwrap();
    drop(image);
    qemu_img("snapshot -c before disk", &dir);
    let image = open(&qcow2(&path)).unwrap();
    let mut model = old.clone();
    write(&*image, 1 << 16, &[5; 8192]).unwrap();
    model[1 << 16..][..8192].fill(5);
    check(image, &path, &model, &dir);
    qemu_img("snapshot -a before disk", &dir);
    compare(&path, &old, &dir);
}

#[test]
fn images_change_their_size() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let image = open(&qcow2(&path)).unwrap();
    let mut model = pattern(SIZE, 7);
    write(&*image, 0, &model).unwrap();
    image.resize(3 * SIZE as u64).unwrap();
    model.resize(3 * SIZE, 0);
    write(&*image, 2 * SIZE as u64, &[6; 512]).unwrap();
    model[2 * SIZE..][..512].fill(6);
    check(image, &path, &model, &dir);
    let image = open(&qcow2(&path)).unwrap();
    image.resize(SIZE as u64 / 2).unwrap();
    model.truncate(SIZE / 2);
    check(image, &path, &model, &dir);
}

#[test]
fn what_is_discarded_leaves_the_file() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let mut node = qcow2(&path);
    node.discard = true;
    let image = open(&node).unwrap();
    let discard = image.geometry().discard.unwrap();
    assert_eq!(discard.granularity, 65536);
    let mut model = pattern(SIZE, 8);
    write(&*image, 0, &model).unwrap();
    image.flush().unwrap();
    // Parts of clusters stay as they are.
    image.discard(1024, 4096, DiscardKind::Advice).unwrap();
    image
        .discard(100_352, SIZE as u64 / 2, DiscardKind::Advice)
        .unwrap();
    let (start, end) = (131_072, (100_352 + SIZE / 2) / 65536 * 65536);
    model[start..end].fill(0);
    image.write_zeroes(3 << 20, 1 << 20, true).unwrap();
    model[3 << 20..].fill(0);
    check(image, &path, &model, &dir);
    let image = open(&node).unwrap();
    write(&*image, start as u64, &[3; 4096]).unwrap();
    model[start..start + 4096].fill(3);
    check(image, &path, &model, &dir);
}

#[test]
fn images_that_cannot_be_read_are_told_apart() {
    if !tools() {
        return;
    }
    let dir = directory();
    fs::write(dir.path().join("base"), vec![0; SIZE]).unwrap();
    let fault = |path: &Path| {
        let error = open(&qcow2(path)).unwrap_err();
        error
            .to_string()
            .replace(&dir.path().display().to_string(), "")
    };
    let path = create("-o extended_l2=on", &dir);
    assert!(fault(&path).starts_with("'/disk' has zstd compression or subclusters"));
    let path = create("-o compression_type=zstd", &dir);
    assert!(fault(&path).starts_with("'/disk' has zstd compression or subclusters"));
    let path = create("-u -b base -F raw", &dir);
    // The extension's type, so that the name of the format is not found.
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|four| four == 0xe279_2aca_u32.to_be_bytes())
        .unwrap();
    bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(fault(&path).starts_with("'/disk' does not say which format its backing file 'base'"));
    let path = create("-u -b nbd://host/x -F raw", &dir);
    assert_eq!(
        fault(&path),
        "'/disk' names 'nbd://host/x', which is not a file of this host"
    );
    let path = create("-u -b base -F vdi", &dir);
    assert!(fault(&path).starts_with("'/base' is a vdi image, which is not supported"));
    let path = create("-u -b missing -F raw", &dir);
    assert_eq!(fault(&path), "Could not open '/missing'");
    let path = create("", &dir);
    qemu_img("rebase -u -f qcow2 -b disk -F qcow2 disk", &dir);
    let mut node = qcow2(&path);
    node.read_only = true;
    assert!(matches!(open(&node), Err(NodeError::TooDeep(_))));
    assert!(fault(&dir.path().join("base")).starts_with("Could not read '/base' as a qcow2 image"));
}

#[test]
fn flat_vmdk_images_are_read() {
    if !tools() {
        return;
    }
    let dir = directory();
    let model = pattern(SIZE, 9);
    fs::write(dir.path().join("source"), &model).unwrap();
    qemu_img(
        "convert -f raw -O vmdk -o subformat=monolithicFlat source disk.vmdk",
        &dir,
    );
    let mut node = NodeConfig::new(Driver::Vmdk {
        file: NodeConfig::file(dir.path().join("disk.vmdk")).into(),
    });
    assert!(matches!(open(&node), Err(NodeError::VmdkWrite)));
    node.read_only = true;
    let image = open(&node).unwrap();
    assert!(image.geometry().read_only && read(&*image, 0, SIZE) == model);
    fs::remove_file(dir.path().join("disk-flat.vmdk")).unwrap();
    let error = open(&node).unwrap_err();
    assert!(error.to_string().starts_with("Could not open"), "{error}");
}

#[test]
fn formats_are_guessed() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let node = NodeConfig::new(Driver::Probe {
        file: NodeConfig::file(&path).into(),
    });
    let mut nodes = BlockNodes::new();
    let image = attach(&mut nodes, &node).unwrap();
    assert_eq!(image.geometry().size, SIZE as u64);
    assert_eq!(nodes.query().pop().unwrap().driver, "qcow2");
}

#[test]
fn qemu_and_we_keep_each_other_out() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    fs::write(dir.path().join("raw"), [0; 8192]).unwrap();
    for (node, format) in [
        (qcow2(&path), "qcow2"),
        (raw(&dir.path().join("raw")), "raw"),
    ] {
        let name = if format == "raw" { "raw" } else { "disk" };
        let image = open(&node).unwrap();
        let output = tool(&format!("qemu-io -f {format} -c quit {name}"), &dir);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("lock"), "{said}");
        let output = tool(
            &format!("qemu-img convert -f {format} -O raw {name} out"),
            &dir,
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("Failed to get shared \"write\" lock"),
            "{said}"
        );
        qemu_img(&format!("info -U -f {format} {name}"), &dir);
        drop(image);
        assert!(
            tool(&format!("qemu-io -f {format} -c quit {name}"), &dir)
                .status
                .success()
        );
        let mut holder = Command::new("qemu-io")
            .args(["-f", format, "-c", "read 0 512", "-c", "sleep 60000", name])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let refused = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let result = open(&node);
            matches!(result, Err(NodeError::Image(ImageError::Locked { .. })))
        });
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(refused, "{format}");
        open(&node).unwrap();
    }
}

#[test]
fn what_was_flushed_is_there_without_closing() {
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("", &dir);
    let image = open(&qcow2(&path)).unwrap();
    let mut model = vec![0; SIZE];
    for round in 0..20_u8 {
        let at = usize::from(round) * 200_192;
        model[at..at + 66_048].fill(round + 1);
        write(&*image, at as u64, &model[at..at + 66_048]).unwrap();
        image.flush().unwrap();
        compare(&path, &model, &dir);
    }
    // As if the process were killed: nothing is written any more.
    std::mem::forget(image);
    let output = tool("qemu-img check -U -f qcow2 disk", &dir);
    assert!(output.status.success(), "{output:?}");
}

/// One step of a thread's life.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, usize, bool),
    Discard(u64, usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let sector = 0_u64..1900;
    let len = 1_usize..400;
    prop_oneof![
        6 => (sector.clone(), len.clone(), 1_u8..).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        2 => (sector.clone(), len.clone(), any::<bool>()).prop_map(|(at, len, unmap)| Step::Zero(at, len, unmap)),
        1 => (sector, len).prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
    ]
}

/// Runs a thread's steps on its quarter of the image; gives back what the quarter holds then.
fn run(image: &dyn Image, quarter: u64, steps: &[Step]) -> Vec<u8> {
    let bytes = SIZE / 4;
    let base = quarter * bytes as u64;
    let mut model = vec![0; bytes];
    let clip = |at: u64, len: usize| (at * 512, (len * 512).min(bytes - (at * 512) as usize));
    for step in steps {
        match step {
            Step::Write(at, len, byte) => {
                let (at, len) = clip(*at, *len);
                model[at as usize..][..len].fill(*byte);
                write(image, base + at, &model[at as usize..][..len]).unwrap();
            }
            Step::Zero(at, len, unmap) => {
                let (at, len) = clip(*at, *len);
                image.write_zeroes(base + at, len as u64, *unmap).unwrap();
                model[at as usize..][..len].fill(0);
            }
            Step::Discard(at, len) => {
                let (at, len) = clip(*at, *len);
                image
                    .discard(base + at, len as u64, DiscardKind::Advice)
                    .unwrap();
                // Whatever they read as now, it stays.
                let now = super::super::tests::read(image, base + at, len);
                model[at as usize..][..len].copy_from_slice(&now);
            }
            Step::Flush => image.flush().unwrap(),
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn threads_share_an_image(
        small in any::<bool>(),
        threads in prop::collection::vec(prop::collection::vec(step(), 1..40), 4)
    ) {
        if !tools() {
            return Ok(());
        }
        let dir = directory();
        let path = create(if small { "-o cluster_size=4k" } else { "" }, &dir);
        let mut node = qcow2(&path);
        node.discard = true;
        let mut nodes = BlockNodes::new();
        let fds = &mut FdSets::default();
        let name = nodes.add(&node, fds).unwrap();
        let image = nodes.attach(&name, &Attachment::new("vbd"), fds).unwrap();
        let model: Vec<u8> = std::thread::scope(|scope| {
            let running: Vec<_> = threads
                .iter()
                .zip(0..)
                .map(|(steps, quarter)| {
                    let image = &image;
                    scope.spawn(move || run(&**image, quarter, steps))
                })
                .collect();
            running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        drop(nodes);
        check(image, &path, &model, &dir);
    }
}

/// Names the image that a child process of [`a_killed_process_loses_nothing_that_was_flushed`]
/// writes until it is killed.
const VICTIM: &str = "XENNER_TEST_VICTIM";

/// Writes round after round, each flushed and then told; no test unless it is asked to be.
#[test]
fn victim() {
    use std::io::Write;
    let Some(path) = std::env::var_os(VICTIM) else {
        return;
    };
    let mut node = qcow2(Path::new(&path));
    node.discard = true;
    let image = open(&node).unwrap();
    for round in 1_u64.. {
        let byte = (round % 255 + 1) as u8;
        let at = round * 327_680 % (SIZE as u64 - 131_072) / 512 * 512;
        write(&*image, at, &[byte; 98_304]).unwrap();
        image
            .discard((at + 1_048_576) % 2_097_152, 131_072, DiscardKind::Advice)
            .unwrap();
        write(&*image, SIZE as u64 - 512, &round.to_le_bytes().repeat(64)).unwrap();
        image.flush().unwrap();
        // Straight to the descriptor: the test harness keeps what is printed.
        let mut out = fs::File::options()
            .append(true)
            .open("/dev/stderr")
            .unwrap();
        out.write_all(&round.to_le_bytes()).unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    use std::io::Read;
    if !tools() {
        return;
    }
    let dir = directory();
    let path = create("-o cluster_size=4k", &dir);
    for wait in [1_u64, 3, 7, 12, 20, 33, 50, 80] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "image::formats::tests::victim"])
            .env(VICTIM, &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = child.stderr.take().unwrap();
        let mut round = [0; 8];
        told.read_exact(&mut round).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = Vec::new();
        told.read_to_end(&mut rest).unwrap();
        let last = rest.as_chunks::<8>().0.last().copied().unwrap_or(round);
        // 3: clusters are leaked, nothing is wrong.
        let output = tool("qemu-img check -f qcow2 disk", &dir);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        let image = open(&qcow2(&path)).unwrap();
        let found = read(&*image, SIZE as u64 - 512, 8).try_into().unwrap();
        assert!(u64::from_le_bytes(found) >= u64::from_le_bytes(last));
    }
}

/// Names the image that a child process of [`a_full_disk_loses_nothing`] writes.
const CROWDED: &str = "XENNER_TEST_CROWDED";

/// Fills an image until the file cannot grow, then gets room and goes on; no test unless it is
/// asked to be.
#[test]
fn crowded() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let Some(path) = std::env::var_os(CROWDED) else {
        return;
    };
    let image = open(&qcow2(Path::new(&path))).unwrap();
    let model = pattern(SIZE, 11);
    let mut refused = 0;
    for (at, part) in (0..).step_by(98_304).zip(model.chunks(98_304)) {
        if let Err(error) = write(&*image, at, part) {
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
            refused += 1;
            let _ = image.flush();
            let mut limit = getrlimit(Resource::Fsize);
            // The first time there is a little room, then there is enough.
            let more = limit
                .current
                .map(|now| now + 300_000)
                .filter(|_| refused < 4);
            limit.current = more.or(limit.maximum);
            setrlimit(Resource::Fsize, limit).unwrap();
            write(&*image, at, part)
                .or_else(|_| {
                    limit.current = limit.maximum;
                    setrlimit(Resource::Fsize, limit).unwrap();
                    write(&*image, at, part)
                })
                .unwrap();
        }
    }
    assert!(refused > 1);
    image.flush().unwrap();
    assert!(read(&*image, 0, SIZE) == model);
}

#[test]
fn a_full_disk_loses_nothing() {
    if !tools() {
        return;
    }
    for options in ["", "-o cluster_size=512"] {
        let dir = directory();
        let path = create(options, &dir);
        // Without the trap, the signal that comes with the error would end the process.
        let script =
            "trap '' XFSZ; ulimit -S -f 2048; exec \"$0\" --exact image::formats::tests::crowded";
        let status = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(CROWDED, &path)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{options}");
        let image = open(&qcow2(&path)).unwrap();
        assert!(read(&*image, 0, SIZE) == pattern(SIZE, 11));
        drop(image);
        let output = tool("qemu-img check -f qcow2 disk", &dir);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    }
}
