//! Block nodes on the command line: `-blockdev`, and the keys that `-drive` shares with it.
//!
//! Turns text into [`NodeConfig`]s; opens nothing.

use std::path::PathBuf;

use xenner_pvdevices::image::config::{
    Aio, Backing, CacheConfig, DetectZeroes, Driver, FileConfig, FileKind, Locking, NodeConfig,
    NodeRef,
};

use super::keyval::{KeyVals, KeyvalError};
use super::suggest::nearest;

/// Drivers of `-blockdev`.
const DRIVERS: [&str; 8] = [
    "file",
    "host_device",
    "host_cdrom",
    "raw",
    "qcow2",
    "vmdk",
    "null-co",
    "null-aio",
];

/// Drivers that QEMU has beyond these.
const QEMU_DRIVERS: [&str; 35] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "bochs",
    "cloop",
    "compress",
    "copy-before-write",
    "copy-on-read",
    "dmg",
    "fat",
    "ftp",
    "ftps",
    "gluster",
    "http",
    "https",
    "io_uring",
    "iscsi",
    "luks",
    "nbd",
    "nfs",
    "nvme",
    "nvme-io_uring",
    "parallels",
    "preallocate",
    "qcow",
    "qed",
    "quorum",
    "rbd",
    "replication",
    "ssh",
    "throttle",
    "vdi",
    "vhdx",
    "vpc",
];

/// Keys of qcow2 that tune QEMU's own driver.
const QCOW2_TUNING: [&str; 12] = [
    "cache-clean-interval",
    "cache-size",
    "discard-no-unref",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "overlap-check",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
    "preallocation",
    "refcount-cache-size",
];

/// What `discard=` may say.
const DISCARD: [(&str, bool); 4] = [
    ("ignore", false),
    ("off", false),
    ("unmap", true),
    ("on", true),
];
/// What `detect-zeroes=` may say.
const DETECT_ZEROES: [(&str, DetectZeroes); 3] = [
    ("off", DetectZeroes::Off),
    ("on", DetectZeroes::On),
    ("unmap", DetectZeroes::Unmap),
];
/// What `aio=` may say.
pub(super) const AIO: [(&str, Aio); 3] = [
    ("threads", Aio::Threads),
    ("native", Aio::Native),
    ("io_uring", Aio::IoUring),
];

/// Depth of nodes inside nodes that a line may have.
const MAX_DEPTH: usize = 32;

/// All keys of a `-blockdev` value, which has to have a name.
pub(super) fn named(mut keys: KeyVals) -> Result<NodeConfig, KeyvalError> {
    let node = node(&mut keys, 0)?;
    if node.name.is_none() {
        return Err(KeyvalError::Missing("node-name", "NAME"));
    }
    keys.finish()?;
    Ok(node)
}

fn node(keys: &mut KeyVals, depth: usize) -> Result<NodeConfig, KeyvalError> {
    if depth > MAX_DEPTH {
        let expected = "nested too deeply; give nodes names";
        return Err(wrong("driver", "...", expected));
    }
    let name = keys.need_text("driver", "raw")?;
    let driver = driver(&name, keys, depth)?;
    let mut node = NodeConfig::new(driver);
    common(keys, &mut node)?;
    Ok(node)
}

/// Keys that every node has.
pub(super) fn common(keys: &mut KeyVals, node: &mut NodeConfig) -> Result<(), KeyvalError> {
    node.name = keys.take_text("node-name")?;
    node.read_only = keys.take_bool("read-only")?.unwrap_or(false);
    node.auto_read_only = keys.take_bool("auto-read-only")?.unwrap_or(false);
    node.force_share = keys.take_bool("force-share")?.unwrap_or(false);
    node.discard = keys.take_word("discard", &DISCARD)?.unwrap_or(false);
    node.detect_zeroes = keys
        .take_word("detect-zeroes", &DETECT_ZEROES)?
        .unwrap_or_default();
    node.cache = CacheConfig {
        direct: keys.take_bool("cache.direct")?.unwrap_or(false),
        no_flush: keys.take_bool("cache.no-flush")?.unwrap_or(false),
    };
    if node.force_share && !node.read_only {
        return Err(wrong("force-share", "on", "needs read-only=on; add it"));
    }
    if node.detect_zeroes == DetectZeroes::Unmap && !node.discard {
        return Err(wrong(
            "detect-zeroes",
            "unmap",
            "needs discard=unmap; add it",
        ));
    }
    Ok(())
}

/// The keys of one driver.
pub(super) fn driver(name: &str, keys: &mut KeyVals, depth: usize) -> Result<Driver, KeyvalError> {
    Ok(match name {
        "file" => file(FileKind::File, keys)?,
        "host_device" => file(FileKind::HostDevice, keys)?,
        "host_cdrom" => file(FileKind::HostCdrom, keys)?,
        "null-co" | "null-aio" => {
            keys.accept(&["latency-ns", "read-zeroes"]);
            let size = keys.take_size("size", 1)?.unwrap_or(1 << 30);
            Driver::Null { size }
        }
        _ if !DRIVERS.contains(&name) => return Err(no_driver("driver", name)),
        _ => {
            let file = need_child("file", keys, depth)?;
            format(name, file, keys, depth)?
        }
    })
}

/// The keys of a format over `file`.
pub(super) fn format(
    name: &str,
    file: NodeRef,
    keys: &mut KeyVals,
    depth: usize,
) -> Result<Driver, KeyvalError> {
    Ok(match name {
        "raw" => Driver::Raw {
            file,
            offset: keys.take_size("offset", 1)?.unwrap_or(0),
            size: keys.take_size("size", 1)?,
        },
        "qcow2" => {
            keys.accept(&QCOW2_TUNING);
            Driver::Qcow2 {
                file,
                backing: backing(keys, depth)?,
                data_file: child("data-file", keys, depth)?,
            }
        }
        "vmdk" => {
            // libvirt says so of every format; the flat ones that there are have none
            keys.take_null("backing");
            Driver::Vmdk { file }
        }
        _ => return Err(no_driver("driver", name)),
    })
}

/// What is said of a driver that is not there.
pub(super) fn no_driver(key: &str, name: &str) -> KeyvalError {
    let expected = match nearest(name, DRIVERS) {
        _ if QEMU_DRIVERS.contains(&name) => {
            "not supported by this version; use raw, qcow2 or vmdk on a file or host_device".into()
        }
        Some(near) => format!("not a driver; did you mean '{near}'?"),
        None => format!("not a driver; write one of {}", DRIVERS.join(", ")),
    };
    wrong(key, name, &expected)
}

fn backing(keys: &mut KeyVals, depth: usize) -> Result<Backing, KeyvalError> {
    if keys.take_null("backing") {
        return Ok(Backing::None);
    }
    Ok(match child("backing", keys, depth)? {
        Some(node) => Backing::Node(node),
        None => Backing::FromHeader,
    })
}

fn need_child(key: &'static str, keys: &mut KeyVals, depth: usize) -> Result<NodeRef, KeyvalError> {
    child(key, keys, depth)?.ok_or(KeyvalError::Missing(key, "NODE-NAME"))
}

/// A node by its name, or one of its own with its keys behind `key.`.
fn child(
    key: &'static str,
    keys: &mut KeyVals,
    depth: usize,
) -> Result<Option<NodeRef>, KeyvalError> {
    let object = keys.take_object(key);
    let name = keys.take_text(key)?;
    match (object, name) {
        (Some(_), Some(_)) => Err(KeyvalError::Duplicate(key.to_owned())),
        (Some(mut inner), None) => {
            let node = node(&mut inner, depth + 1)?;
            inner.finish()?;
            Ok(Some(node.into()))
        }
        (None, name) => Ok(name.map(NodeRef::Name)),
    }
}

fn file(kind: FileKind, keys: &mut KeyVals) -> Result<Driver, KeyvalError> {
    let mut file = FileConfig::new(PathBuf::from(keys.need_text("filename", "FILE")?));
    file.kind = kind;
    file_keys(keys, &mut file)?;
    Ok(Driver::File(file))
}

/// The keys of a file beside its name.
pub(super) fn file_keys(keys: &mut KeyVals, file: &mut FileConfig) -> Result<(), KeyvalError> {
    let locking = [
        ("auto", Locking::Auto),
        ("on", Locking::On),
        ("off", Locking::Off),
    ];
    file.locking = keys.take_word("locking", &locking)?.unwrap_or_default();
    file.aio = keys.take_word("aio", &AIO)?.unwrap_or(file.aio);
    keys.accept(&["aio-max-batch", "drop-cache", "x-check-cache-dropped"]);
    Ok(())
}

/// A value that does not do.
pub(super) fn wrong(key: &str, value: &str, expected: &str) -> KeyvalError {
    KeyvalError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}
